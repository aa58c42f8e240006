"""Many subsystems in one process, each on a port of its own: `python -m` this, with a plan.

The plan is JSON: `{"subsystems": N, "ports": [...], "records": N}`.  Without `ports` free ones are
taken.  Each subsystem has one namespace, with the same identity at every start, so that a host may
come back to it.  With `records`, the discovery log of the first has so many entries.  Standard
output is one line: `ready`, and the ports.
"""

import json
import logging
import signal
import sys
import uuid
from contextlib import AsyncExitStack
from typing import Final

import attrs
import trio

from nvmf_controller import Namespace, NvmSubsystem, RamDisk, Server, serve
from nvmf_controller.discovery import Portal
from nvmf_tcp import TcpTransport
from nvmf_transport.address import Address
from nvmf_transport.fabrics import AddressFamily
from nvmf_transport.interfaces import Endpoint

_HOST: Final = "127.0.0.1"
_DISK_BYTES: Final = 1 << 20


@attrs.frozen
class Plan:
    """What is to be served."""

    subsystems: int
    ports: tuple[int, ...] = ()
    records: int = 0


def subnqn(number: int) -> str:
    """The name of a subsystem, by its number."""
    return f"nqn.2024-01.org.example:growth-{number}"


async def _serve(plan: Plan) -> None:
    transport = TcpTransport()
    servers: list[Server] = []
    async with AsyncExitStack() as stack:
        for number in range(plan.subsystems):
            subsystem = NvmSubsystem(subnqn(number))
            stack.callback(subsystem.close)
            identity = uuid.uuid5(uuid.NAMESPACE_OID, subnqn(number))
            subsystem.add_namespace(Namespace(1, RamDisk(_DISK_BYTES), uuid=identity))
            address = Address(_HOST, plan.ports[number] if plan.ports else 0)
            servers.append(await stack.enter_async_context(serve(transport, subsystem, [address])))
        if plan.records:
            servers[0].discovery.set_portals(_portals(plan.records))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            ports = [server.endpoints[0].address.port for server in servers]
            print("ready", json.dumps(ports), flush=True)
            async for _ in signals:
                break


def _portals(count: int) -> list[Portal]:
    return [
        Portal(subnqn(number), Endpoint(Address(_HOST, 1024 + number % 60000), AddressFamily.IPV4))
        for number in range(count)
    ]


def main() -> None:
    """Serves until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR)
    fields = json.loads(sys.argv[1])
    trio.run(_serve, Plan(fields["subsystems"], tuple(fields["ports"]), fields["records"]))


if __name__ == "__main__":
    main()
