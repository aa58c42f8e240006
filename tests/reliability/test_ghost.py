"""Write A is lost in flight and replayed, B is written over it, then the first A lands: B stays.

With the real programs, over each way in which the old association is known to have stopped; and in
memory, where the same story without the quarantine shows what it is for.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from nvmf_controller import Namespace, NvmSubsystem, RamDisk, parse_fault_plan, serve
from nvmf_host.config import ConnectParams
from nvmf_host.quarantine import Quarantine
from nvmf_transport.address import Address
from nvmf_transport.loop import LoopTransport
from tests.host.hosting import hosting, params

from .rig import Rig, eventually, rig

_SIZE = 4096
_A, _B = b"A" * _SIZE, b"B" * _SIZE
_GHOST = """
[[rule]]
name = "the first write over these LBAs"
opcode = "write"
lba = [0, 7]
nth = 1
action = {{ do = "ghost", seconds = {seconds} }}
"""
#: Cross-Controller Reset is not for this one: time, or somebody, has to lift the fence.
_WITHOUT_RESET = """
[[rule]]
opcode = 0x38
action = { do = "status", sct = 0, sc = 1, dnr = true }
"""


class _Writer(threading.Thread):
    """One write, as another process does it."""

    def __init__(self, node: Path, data: bytes, offset: int = 0) -> None:
        super().__init__(daemon=True)
        self.node, self.data, self.offset = node, data, offset
        self.written = 0
        self.done_at = 0.0
        self.start()

    def run(self) -> None:
        fd = os.open(self.node, os.O_WRONLY)
        try:
            self.written = os.pwrite(fd, self.data, self.offset)
            self.done_at = time.monotonic()
        finally:
            os.close(fd)

    def finish(self, within_s: float) -> None:
        self.join(within_s)
        assert self.written == len(self.data)


def _lose_a_and_write_b(on: Rig, landing_s: float) -> tuple[_Writer, float]:
    """Returns B's writer, and when the ghost lands at the latest."""
    lost_at = time.monotonic()
    _Writer(on.node, _A).finish(10)
    assert on.state()["associations"] == 2
    assert on.namespace()["replayed_writes"] == 1
    newer = _Writer(on.node, _B)
    return newer, lost_at + landing_s + 0.5


def _see_that_b_stays(on: Rig, newer: _Writer, landed_at: float) -> None:
    time.sleep(max(0.0, landed_at - time.monotonic()))
    assert newer.written == _SIZE
    with on.node.open("rb", buffering=0) as file:
        assert file.read(_SIZE) == _B
    assert on.namespace()["quarantined_ranges"] == 0
    on.mount.nvmecontrol("disconnect", "nvme0")
    assert on.disk is not None
    assert on.disk.read_bytes()[:_SIZE] == _B


def _paused(on: Rig) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(
        on.mount.nvmecontrol("--json", "paused").stdout
    )
    return found


def _reset(folder: Path) -> None:
    plan = folder / "plan.toml"
    plan.write_text(_GHOST.format(seconds=1.5))
    with rig(folder, mib=4, options=("--faults", plan)) as on:
        on.connect("-r", "1")
        newer, landed_at = _lose_a_and_write_b(on, 1.5)
        newer.finish(10)
        # Nvmfd answers Cross-Controller Reset when the ghost has landed, and not before.
        assert newer.done_at > landed_at - 1.0
        _see_that_b_stays(on, newer, landed_at)


def _time(folder: Path) -> None:
    plan = folder / "plan.toml"
    plan.write_text(_GHOST.format(seconds=2) + _WITHOUT_RESET)
    with rig(folder, mib=4, options=("--faults", plan)) as on:
        on.connect("-r", "1", "-k", "1")
        newer, landed_at = _lose_a_and_write_b(on, 2)
        eventually(lambda: on.namespace()["waiting_requests"] == 1, "B waits")
        [waiting] = _paused(on)["requests"]
        assert (waiting["operation"], waiting["quarantined"]) == ("write", True)
        [held] = _paused(on)["quarantine"]
        assert (held["slba"], held["length_lbas"]) == (0, 8)
        assert isinstance(held["lifts_in_s"], float)
        # Other LBAs do not wait (a second synchronous write would: in the kernel, behind this one).
        on.mount.nvmecontrol("write-zeroes", "-s", "2048", "-c", "8", on.node)
        assert on.node.read_bytes()[:_SIZE] == _A
        newer.finish(20)
        _see_that_b_stays(on, newer, landed_at)


def _operator(folder: Path) -> None:
    plan = folder / "plan.toml"
    plan.write_text(_GHOST.format(seconds=1) + _WITHOUT_RESET)
    with rig(folder, mib=4, options=("--faults", plan)) as on:
        # Without Keep Alive nobody knows when the old controller will have noticed.
        on.connect("-r", "1", "-k", "0")
        newer, landed_at = _lose_a_and_write_b(on, 1)
        eventually(lambda: on.namespace()["waiting_requests"] == 1, "B waits")
        time.sleep(max(0.0, landed_at - time.monotonic()))
        assert newer.written == 0
        assert _paused(on)["quarantine"][0]["lifts_in_s"] is None
        on.mount.nvmecontrol("reconnect", "--fenced", "nvme0")
        newer.finish(5)
        _see_that_b_stays(on, newer, landed_at)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """How each story ends: they wait most of the time, and so are told beside each other."""
    stories = {"reset": _reset, "time": _time, "operator": _operator}
    with ThreadPoolExecutor() as pool:
        yield {
            name: pool.submit(story, tmp_path_factory.mktemp(name))
            for name, story in stories.items()
        }


@pytest.mark.fuse
@pytest.mark.timeout(60)
def test_a_newer_write_waits_until_the_old_controller_was_reset(ends):
    ends["reset"].result()


@pytest.mark.fuse
@pytest.mark.timeout(60)
def test_a_newer_write_waits_until_the_old_controller_has_noticed(ends):
    ends["time"].result()


@pytest.mark.fuse
@pytest.mark.timeout(60)
def test_a_newer_write_waits_until_the_operator_vouches(ends):
    ends["operator"].result()


async def _story_in_memory() -> bytes:
    """What the medium has at the end."""
    network = LoopTransport()
    subsystem = NvmSubsystem("nqn.2024-01.org.example:ghost")
    store = RamDisk(1 << 20)
    subsystem.add_namespace(Namespace(1, store))
    plan = parse_fault_plan(_GHOST.format(seconds=3) + _WITHOUT_RESET)
    async with (
        serve(network, subsystem, [Address("target", 0)], faults=plan) as server,
        hosting(network) as (host, _),
    ):
        [endpoint] = server.endpoints
        asked: ConnectParams = params(
            address=Address.parse(str(endpoint)),
            subnqn=subsystem.nqn,
            reconnect_delay_s=1,
            kato_s=1,
        )
        controller = await host.connect(asked)
        namespace = controller.namespaces[1]
        await namespace.write(0, _A)
        assert controller.associations == 2
        await namespace.write(0, _B)
        # Until every old copy has landed.
        await trio.sleep(10)
        found = bytes(await namespace.read(0, _SIZE))
        assert bytes(await store.read(0, _SIZE)) == found
        await host.disconnect(controller)
    return found


@pytest.mark.logs_warnings
async def test_with_the_quarantine_the_newer_write_stays(autojump_clock):
    assert await _story_in_memory() == _B


@pytest.mark.logs_warnings
async def test_without_the_quarantine_it_would_be_lost(autojump_clock, monkeypatch):
    def settle(self, held, _fences):
        self._release(held)

    monkeypatch.setattr(Quarantine, "_settle", settle)

    assert await _story_in_memory() == _A
