"""The controller alone: an `nvmfd` under load from as little of a host as will do."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from benchmarks.growth.processes import cpu_s
from tests import programs
from tests.programs import Nvmfd

from .conftest import Measure
from .load import connected

pytestmark = pytest.mark.benchmark(group="nvmfd, CPU of it")
KIB: Final = 1024
#: Of how many commands a round is, by the length of their data.
COUNTS: Final = {4 * KIB: 4000, 128 * KIB: 400}
_ROUNDS: Final = 20


@pytest.fixture(scope="module")
def nvmfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nvmfd]:
    """A controller with 64 MiB of memory behind it."""
    folder = tmp_path_factory.mktemp("nvmfd")
    with programs.nvmfd("ramdisk:64M", log=folder / "log") as program:
        yield program


@pytest.mark.parametrize(
    ("kind", "data_bytes", "queues", "depth"),
    [
        ("read", 4 * KIB, 1, 1),
        ("read", 4 * KIB, 1, 32),
        ("read", 4 * KIB, 1, 128),
        ("read", 4 * KIB, 4, 32),
        ("read", 4 * KIB, 16, 8),
        ("read", 128 * KIB, 1, 1),
        ("read", 128 * KIB, 4, 8),
        ("write", 4 * KIB, 1, 1),
        ("write", 4 * KIB, 1, 32),
        ("write", 4 * KIB, 1, 128),
        ("write", 4 * KIB, 4, 32),
        ("write", 4 * KIB, 16, 8),
    ],
)
def test_commands(
    measure: Measure, nvmfd: Nvmfd, kind: str, data_bytes: int, queues: int, depth: int
) -> None:
    with connected(("127.0.0.1", nvmfd.port), nvmfd.subnqn, queues) as load:
        commands = COUNTS[data_bytes]
        work = partial(load.run, depth, commands, data_bytes=data_bytes, write=kind == "write")
        source = partial(cpu_s, nvmfd.process.pid)
        measure(work, operations=commands, rounds=_ROUNDS, source=source)
