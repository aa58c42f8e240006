"""Two hundred rounds of connect and disconnect leave memory, descriptors and tasks as they were."""

import gc
import json
import os
import time
from pathlib import Path

import attrs
import pytest
import trio

from nvmf_controller import Namespace, NvmSubsystem, RamDisk, serve
from nvmf_host.config import ConnectParams
from nvmf_host.host import Host, open_host
from nvmf_host.identity import resolve
from nvmf_host.messages import ConnectRequest
from nvmf_transport import interfaces
from nvmf_transport.address import Address
from nvmf_transport.loop import LoopTransport
from tests import programs

_ROUNDS = 200
#: By then caches are full and allocators have what they keep.
_SETTLED_AT = 50
_MAX_GROWTH_BYTES = 2 << 20


@attrs.frozen
class Footprint:
    """What a process holds."""

    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        folder = Path(f"/proc/{pid}")
        pages = int((folder / "statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir(folder / "fd")),  # noqa: PTH208
            len(os.listdir(folder / "task")),  # noqa: PTH208
        )


class _Control:
    """A session of the control node: two hundred processes would take a minute to start."""

    def __init__(self, mount: Path) -> None:
        self._descriptor = os.open(mount / "nvmf", os.O_RDWR)

    def request(self, command: str, **fields: object):
        line = json.dumps({"id": 1, "command": command, **fields}) + "\n"
        os.write(self._descriptor, line.encode())
        received = b""
        while not received.endswith(b"\n"):
            received += os.read(self._descriptor, 1 << 16)
        answer = json.loads(received)
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        os.close(self._descriptor)


def _settled(pid: int, expected: Footprint | None) -> Footprint:
    """The footprint, once the last connection's descriptors and threads are gone as well."""
    deadline = time.monotonic() + 5
    while True:
        found = Footprint.of(pid)
        if expected is None or time.monotonic() > deadline:
            return found
        if found.descriptors <= expected.descriptors and found.threads <= expected.threads:
            return found
        time.sleep(0.05)


@pytest.mark.fuse
@pytest.mark.timeout(120)
def test_rounds_leave_both_processes_as_they_were(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    logs = tmp_path / "log"
    with (
        programs.nvmfd(tmp_path / "disk", "ramdisk:1M", log=logs) as target,
        programs.fusedev(tmp_path / "dev", log=logs) as mount,
    ):
        pids = {"fusedev": mount.process.pid, "nvmfd": target.process.pid}
        control = _Control(mount.path)
        settled: dict[str, Footprint] = {}
        for number in range(1, _ROUNDS + 1):
            device = control.request("connect", address=target.address, subnqn=target.subnqn)
            name = device["device"]
            # A name is the lowest free one: the last round's is.
            assert name == "nvme0"
            with (mount.path / f"{name}ns1").open("r+b", buffering=0) as node:
                node.write(bytes(4096))
                assert len(node.read(4096)) == 4096
            assert control.request("disconnect", device=name)["problems"] == {}
            if number == _SETTLED_AT:
                settled = {program: _settled(pid, None) for program, pid in pids.items()}
        last = {program: _settled(pid, settled[program]) for program, pid in pids.items()}
        control.close()

    for program, before in settled.items():
        after = last[program]
        assert after.rss_bytes <= before.rss_bytes + _MAX_GROWTH_BYTES, program
        assert after.descriptors <= before.descriptors, program
        assert after.threads <= before.threads, program


async def _one_round(host: Host, params: ConnectParams) -> None:
    controller = await host.connect(params)
    namespace = controller.namespaces[1]
    await namespace.write(0, b"x" * 4096)
    assert await namespace.read(0, 4096) == b"x" * 4096
    assert await host.disconnect(controller) == []


async def test_rounds_leave_no_task_and_no_object(autojump_clock):
    transport = LoopTransport()
    interfaces.register(transport)
    subsystem = NvmSubsystem("nqn.2024-01.org.example:rounds")
    subsystem.add_namespace(Namespace(1, RamDisk(1 << 20)))
    identity = resolve("nqn.2024-01.org.example:host", "12345678-9abc-4def-8123-456789abcdef")

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with (
        serve(transport, subsystem, [Address("target", 0)]) as server,
        open_host(identity=identity) as host,
    ):
        request = ConnectRequest(
            address=str(server.endpoints[0]), subnqn=subsystem.nqn, transport="loop"
        )
        params = ConnectParams.from_request(request, identity)
        before = tasks()
        objects: list[int] = []
        for number in range(40):
            await _one_round(host, params)
            if number in {19, 39}:
                # Until the controller's side has ended, and trio has forgotten every deadline.
                await trio.sleep(600)
                gc.collect()
                objects.append(len(gc.get_objects()))

        assert tasks() == before
        assert server.associations == []
        assert host.controllers == {}
        # What twenty more rounds left; each makes thousands.
        assert objects[1] - objects[0] < 100
