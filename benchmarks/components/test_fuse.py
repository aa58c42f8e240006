"""FUSE with no device behind: the mount in a process of its own, whose CPU time is measured."""

import mmap
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from benchmarks.growth.processes import cpu_s
from tests import programs
from tests.programs import Program
from tests.reliability.aio import BLOCK_BYTES, Aio

from .conftest import Measure
from .fuse_daemon import SIZE_BYTES

pytestmark = pytest.mark.benchmark(group="FUSE, CPU of the daemon")
KIB, MIB = 1024, 1 << 20
COUNTS: Final = {4 * KIB: 1000, 128 * KIB: 200, MIB: 40}
_ROUNDS: Final = 20


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Path]]:
    """A mount, and its namespace's node."""
    folder = tmp_path_factory.mktemp("fuse")
    directory = folder / "dev"
    directory.mkdir()
    argv: list[str | Path] = [sys.executable, "-m", "benchmarks.components.fuse_daemon", directory]
    with programs.running(argv, folder / "log") as program:
        yield program, directory / "nvme0ns1"


@pytest.mark.parametrize("data_bytes", COUNTS, ids=["4KiB", "128KiB", "1MiB"])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_one_at_a_time(
    measure: Measure, mounted: tuple[Program, Path], kind: str, data_bytes: int
) -> None:
    program, node = mounted
    file = os.open(node, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, data_bytes)
    count = COUNTS[data_bytes]

    def work() -> None:
        for number in range(count):
            offset = number * data_bytes % SIZE_BYTES
            if kind == "write":
                moved = os.pwrite(file, memory, offset)
            else:
                moved = os.preadv(file, [memory], offset)
            assert moved == data_bytes

    try:
        source = partial(cpu_s, program.process.pid)
        measure(work, operations=count, rounds=_ROUNDS, source=source)
    finally:
        os.close(file)


@pytest.mark.parametrize("depth", [32, 256])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_many_at_a_time(
    measure: Measure, mounted: tuple[Program, Path], kind: str, depth: int
) -> None:
    program, node = mounted
    aio = Aio(node)
    count = 2048

    def work() -> None:
        aio.submit(depth, write=kind == "write")
        submitted = depth
        while submitted < count:
            ended = aio.wait(1)
            assert set(ended) == {BLOCK_BYTES}
            more = min(len(ended), count - submitted)
            aio.submit(more, write=kind == "write", first=submitted)
            submitted += more
        assert set(aio.wait()) == {BLOCK_BYTES}

    try:
        source = partial(cpu_s, program.process.pid)
        measure(work, operations=count, rounds=_ROUNDS, source=source)
    finally:
        aio.close()


def test_stat(measure: Measure, mounted: tuple[Program, Path]) -> None:
    program, node = mounted
    count = 1000

    def work() -> None:
        for _ in range(count):
            node.stat()

    measure(work, operations=count, rounds=_ROUNDS, source=partial(cpu_s, program.process.pid))
