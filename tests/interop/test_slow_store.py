"""A ghost in a Linux kernel's target whose backing store is slow.

Nothing on the way holds anything back here: the kernel has taken the write and waits for its disk
when the host loses it.  The disk is a namespace of `nvmfd`, which takes its time for one write.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.programs import Mount, Nvmfd, fusedev, nvmfd, running
from tests.reliability.proxying import ProxyProcess, proxy
from tests.reliability.rig import eventually

from .guests import TARGET_NQN, Target, kernel_target

pytestmark = [pytest.mark.peer, pytest.mark.fuse, pytest.mark.timeout(400)]

_LAYOUT: Final = f"""\
port @ADDR@ @PORT@
subsys {TARGET_NQN} any attr_serial=OPEN0001 attr_model=kernel-open
ns 1 nvme 16 512 device_uuid=6d8a4ba4-0b5f-4c5c-9a39-0c1f5c8e0003
"""
_STORE_NQN: Final = "nqn.2024-01.org.example:store"
_SIZE: Final = 4096
_KATO_S: Final = 2
_LATE_S: Final = 4.0
#: The first write of each of these stretches of a mebibyte takes long.
_STRETCHES: Final = (0, 1, 2)
_STRETCH_BYTES: Final = 1 << 20
_SLOW: Final = "".join(
    f"""
[[rule]]
opcode = "write"
lba = [{stretch * _STRETCH_BYTES // 512}, {stretch * _STRETCH_BYTES // 512 + _SIZE // 512 - 1}]
nth = 1
action = {{ do = "delay", seconds = {_LATE_S} }}
"""
    for stretch in _STRETCHES
)
_WITHOUT_QUARANTINE: Final = """
import sys
from fusedev.main import main
from nvmf_host.quarantine import Quarantine
Quarantine._settle = lambda self, held, fences: self._release(held)
sys.exit(main())
"""


@attrs.frozen
class _SlowTarget:
    target: Target
    store: Nvmfd

    @property
    def struck(self) -> int:
        """How many writes the store has taken its time for."""
        return self.store.log.read_text().count("Delay(")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_SlowTarget]:
    """A kernel's target on a store that is slow once in each stretch.

    Not of 6.1, which lets nobody in while a lost association has commands at its disk.
    """
    folder = tmp_path_factory.mktemp("slow")
    plan = folder / "plan.toml"
    plan.write_text(_SLOW)
    with nvmfd(
        *("-v", "-n", _STORE_NQN, "--faults", plan, "ramdisk:16M"), log=folder / "store.log"
    ) as store:
        options = ("--backing", f"{store.port}/{_STORE_NQN}")
        with kernel_target("6.12", folder, layout=_LAYOUT, options=options) as target:
            # What its console tells of is true: hosts were lost, and their time ran out.
            yield _SlowTarget(target, store)


@contextmanager
def _without_quarantine(path: Path, *, log: Path) -> Iterator[Mount]:
    path.mkdir()
    with running([sys.executable, "-c", _WITHOUT_QUARANTINE, path], log) as program:
        yield Mount(program.process, program.ready, program.log, path)


def _write(node: Path, data: bytes, stretch: int) -> threading.Thread:
    def write() -> None:
        fd = os.open(node, os.O_WRONLY)
        try:
            os.pwrite(fd, data, stretch * _STRETCH_BYTES)
        finally:
            os.close(fd)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _story(
    slow: _SlowTarget, between: ProxyProcess, mount: Mount, stretch: int, queue: int | None
) -> tuple[bytes, float]:
    """Returns what is there at the end, and for how long the newer write waited."""
    name = mount.connect(between.address, TARGET_NQN, "-r", "1", "-k", str(_KATO_S))
    node = mount.path / f"{name}ns1"
    struck = slow.struck
    older = _write(node, b"A" * _SIZE, stretch)
    eventually(lambda: slow.struck > struck, "the kernel's disk has the write")
    lands_at = time.monotonic() + _LATE_S
    assert between.cut(queue=queue, everything=queue is None)
    older.join(_LATE_S - 1)
    assert not older.is_alive(), "its repetition was not let through at once"
    asked_at = time.monotonic()
    assert asked_at < lands_at - 0.5, "too late to see anything"
    newer = _write(node, b"B" * _SIZE, stretch)
    newer.join(30)
    assert not newer.is_alive()
    waited_s = time.monotonic() - asked_at
    time.sleep(max(0.0, lands_at + 1.0 - time.monotonic()))
    fd = os.open(node, os.O_RDONLY)
    try:
        found = os.pread(fd, _SIZE, stretch * _STRETCH_BYTES)
    finally:
        os.close(fd)
    mount.nvmecontrol("disconnect", name)
    return found, waited_s


def test_a_newer_write_survives_one_that_the_kernel_still_waits_for(
    slow: _SlowTarget, tmp_path: Path
):
    with (
        proxy(slow.target.address) as between,
        fusedev(tmp_path / "dev", log=tmp_path / "log") as mount,
    ):
        found, waited_s = _story(slow, between, mount, 0, None)
    assert found == b"B" * _SIZE
    assert waited_s > _KATO_S, "it was not held back at all"


def test_without_the_quarantine_it_would_be_lost(slow: _SlowTarget, tmp_path: Path):
    with (
        proxy(slow.target.address) as between,
        _without_quarantine(tmp_path / "dev", log=tmp_path / "log") as mount,
    ):
        found, waited_s = _story(slow, between, mount, 1, None)
    assert found == b"A" * _SIZE
    assert waited_s < 1


def test_a_reset_that_was_seen_proves_nothing_of_the_kernels_disk(
    slow: _SlowTarget, tmp_path: Path
):
    """One I/O queue is lost; the kernel shows CSTS.RDY=0 at once, and its disk has the write."""
    with (
        proxy(slow.target.address) as between,
        fusedev(tmp_path / "dev", log=tmp_path / "log") as mount,
    ):
        found, waited_s = _story(slow, between, mount, 2, 1)
    assert found == b"B" * _SIZE
    assert waited_s > _KATO_S, "it was not held back at all"
