"""All peers that the situations meet, in one process: `python -m tests.e2e.peers`.

Its standard output is one line, `ready {"NAME": "127.0.0.1:PORT", ...}`; it serves until SIGTERM.
"""

import json
import logging
import socket
import sys
from contextlib import AsyncExitStack
from typing import Final

import attrs
import trio

from nvmf_controller import (
    ControllerConfig,
    Namespace,
    NvmSubsystem,
    RamDisk,
    ServerConfig,
    serve,
)
from nvmf_transport import status
from nvmf_transport.address import Address
from nvmf_transport.identify import IdentifyNamespace, LbaFormat
from nvmf_transport.nvme import Csts

from .faulty import Behaviour, Fault, FaultyTransport, Step

SUBNQN: Final = "nqn.2024-01.org.example:disks"
_CLOSE, _SILENT = Behaviour.CLOSE, Behaviour.SILENT
#: Steps that end in two ways each: the peer closes, or says nothing more.
STEPS: Final = (
    Step.ICREQ,
    Step.CONNECT,
    Step.CAP,
    Step.CC,
    Step.CSTS,
    Step.VS,
    Step.IDENTIFY,
    Step.KATO,
    Step.QUEUES,
    Step.IO_ICREQ,
    Step.IO_CONNECT,
    Step.SCAN,
    Step.NAMESPACE,
)


def closes_at(step: Step) -> str:
    """Name of the peer that closes the connection at this step."""
    return f"closes_{step.name.lower()}"


def silent_at(step: Step) -> str:
    """Name of the peer that does not answer at this step."""
    return f"silent_{step.name.lower()}"


def _with_format(lba_format: LbaFormat, dps: int = 0):
    def change(data: bytes) -> bytes:
        identify = IdentifyNamespace.unpack(data)
        formats = (lba_format.to_word(), *identify.lbaf[1:])
        return attrs.evolve(identify, lbaf=formats, flbas=0, nlbaf=0, dps=dps).pack()

    return change


def _bad_list(data: bytes) -> bytes:
    return (5).to_bytes(4, "little") + (3).to_bytes(4, "little") + data[8:]


_AUTHREQ: Final = 1 << 17
#: Peers that are controllers in all but one respect.
FAULTS: Final[dict[str, Fault]] = {
    **{closes_at(step): Fault(step, _CLOSE) for step in STEPS},
    **{silent_at(step): Fault(step, _SILENT) for step in STEPS},
    "authreq": Fault(Step.CONNECT, result=_AUTHREQ | 1),
    "auth_required": Fault(Step.CONNECT, status=status.AUTHENTICATION_REQUIRED),
    "invalid_host": Fault(Step.CONNECT, status=status.CONNECT_INVALID_HOST),
    "controller_busy": Fault(Step.CONNECT, status=status.CONTROLLER_BUSY),
    "never_ready": Fault(Step.CSTS, result=0),
    "fatal": Fault(Step.CSTS, result=Csts.of(cfs=1).value),
    "no_nvm": Fault(Step.CAP, result=0x1F << 24 | 0x80 << 37 | 127),
    "refuses_io": Fault(Step.IO_CONNECT, status=status.CONTROLLER_BUSY),
    "wrong_cntlid": Fault(Step.IO_CONNECT, result=0x1234),
    "bad_identify": Fault(Step.IDENTIFY, status=status.INTERNAL_ERROR),
    "bad_list": Fault(Step.SCAN, data=_bad_list),
    "metadata": Fault(Step.NAMESPACE, data=_with_format(LbaFormat(8, 9))),
    "protection": Fault(Step.NAMESPACE, data=_with_format(LbaFormat(8, 9), dps=1)),
    "odd_format": Fault(Step.NAMESPACE, data=_with_format(LbaFormat(0, 20))),
}
#: Well-behaved controllers that are small.
CONFIGS: Final = {
    "one_queue": ControllerConfig(max_io_queues=1),
    "small_queues": ControllerConfig(max_queue_entries=64),
}


#: Digests that are granted, where not both.
SERVERS: Final = {
    "no_header_digest": ServerConfig(header_digest=False),
    "no_data_digest": ServerConfig(data_digest=False),
}


async def _controller(
    name: str, *, task_status: trio.TaskStatus[tuple[str, str]] = trio.TASK_STATUS_IGNORED
) -> None:
    transport = FaultyTransport(FAULTS.get(name, Fault(Step.OTHER)))
    subsystem = NvmSubsystem(SUBNQN, config=CONFIGS.get(name))
    subsystem.add_namespace(Namespace(1, RamDisk(1 << 20)))
    async with serve(
        transport, subsystem, [Address("127.0.0.1", 0)], config=SERVERS.get(name)
    ) as server:
        task_status.started((name, str(server.endpoints[0])))
        await trio.sleep_forever()


#: What is no controller: what it says first (None: waits for something), what it answers.
STRANGERS: Final[dict[str, tuple[bytes | None, bytes | None]]] = {
    "http": (None, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno\r\n"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n", b""),
    "tls_alert": (None, bytes.fromhex("15030300020232")),
    "tls_closes": (None, b""),
    "closes": (b"", b""),
    "silent": (None, None),
}


async def _stranger(
    name: str, *, task_status: trio.TaskStatus[tuple[str, str]] = trio.TASK_STATUS_IGNORED
) -> None:
    banner, answer = STRANGERS[name]

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                if banner is not None:
                    await stream.send_all(banner)
                if banner == b"":
                    return
                await stream.receive_some(4096)
                if answer is None:
                    await trio.sleep_forever()
                await stream.send_all(answer or b"")
            except trio.BrokenResourceError:
                return

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    task_status.started((name, f"127.0.0.1:{port}"))
    await trio.serve_listeners(serve_one, listeners)


def _full_backlog(stack: AsyncExitStack) -> str:
    """A port whose queue of connections is full: the kernel drops every further SYN."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    for _ in range(4):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(address)
    return f"127.0.0.1:{address[1]}"


async def _main() -> None:
    found: dict[str, str] = {}
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        found["unanswered"] = _full_backlog(stack)
        for name in (*FAULTS, *CONFIGS, *SERVERS):
            _, found[name] = await nursery.start(_controller, name)
        for name in STRANGERS:
            _, found[name] = await nursery.start(_stranger, name)
        # SIGTERM is left to end the process: there is nothing here to be put in order.
        print(f"ready {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    trio.run(_main)
