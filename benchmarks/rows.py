"""What is measured: one row of the tables for each kind of load."""

import enum
import fnmatch
from typing import Final

import attrs

KIB: Final = 1024
MIB: Final = 1024 * KIB


class Tool(enum.Enum):
    """What makes the load."""

    FIO = "fio"
    DD_READ = "dd, read"
    DD_WRITE = "dd, write"
    CP_FROM = "cp, from it"
    CP_TO = "cp, to it"


@attrs.frozen
class Row:
    """A kind of load.  An operation is a request of `block_bytes`, for dd and cp a MiB."""

    name: str
    label: str
    tool: Tool = Tool.FIO
    #: fio's `rw`.
    pattern: str = ""
    block_bytes: int = MIB
    depth: int = 1
    jobs: int = 1

    @property
    def writes(self) -> bool:
        """What the file held is gone afterwards."""
        return self.tool in {Tool.DD_WRITE, Tool.CP_TO} or self.pattern in _WRITING

    @property
    def counts_operations(self) -> bool:
        """Operations a second say more than bytes a second."""
        return self.block_bytes < 64 * KIB


_WRITING: Final = {"write", "randwrite", "randrw"}


def _random(name: str, what: str, pattern: str, *, depth: int, jobs: int = 1) -> Row:
    queues = f"{jobs} jobs, QD{depth}" if jobs > 1 else f"QD{depth}"
    return Row(
        name=f"4k-{name}-{f'{jobs}x{depth}' if jobs > 1 else f'qd{depth}'}",
        label=f"4 KiB random {what}, {queues}",
        pattern=pattern,
        block_bytes=4 * KIB,
        depth=depth,
        jobs=jobs,
    )


def _sequential(size: str, block_bytes: int, pattern: str, *, depth: int) -> Row:
    return Row(
        name=f"{size}-{pattern}-qd{depth}",
        label=f"{block_bytes // KIB} KiB sequential {pattern}, QD{depth}"
        if block_bytes < MIB
        else f"{block_bytes // MIB} MiB sequential {pattern}, QD{depth}",
        pattern=pattern,
        block_bytes=block_bytes,
        depth=depth,
    )


ROWS: Final = (
    _random("read", "read", "randread", depth=1),
    _random("write", "write", "randwrite", depth=1),
    _random("read", "read", "randread", depth=32),
    _random("write", "write", "randwrite", depth=32),
    _random("mix", "70 % read, 30 % write", "randrw", depth=32),
    _random("read", "read", "randread", depth=8, jobs=4),
    _random("write", "write", "randwrite", depth=8, jobs=4),
    _sequential("128k", 128 * KIB, "read", depth=8),
    _sequential("128k", 128 * KIB, "write", depth=8),
    _sequential("1m", MIB, "read", depth=1),
    _sequential("1m", MIB, "write", depth=1),
    _sequential("1m", MIB, "read", depth=8),
    _sequential("1m", MIB, "write", depth=8),
    Row("dd-read", "dd bs=1M, buffered read", Tool.DD_READ),
    Row("dd-write", "dd bs=1M, buffered write, fsync", Tool.DD_WRITE),
    Row("cp-from", "cp from it", Tool.CP_FROM),
    Row("cp-to", "cp to it", Tool.CP_TO),
)


def _queues(size: str, block_bytes: int, what: str, queues: int, depth: int) -> Row:
    order = "random" if block_bytes < 64 * KIB else "sequential"
    return Row(
        name=f"{size}-{what}-{queues}x{depth}",
        label=f"{block_bytes // KIB} KiB {order} {what}, "
        f"{queues} queue{'s' if queues > 1 else ''}, QD{depth}",
        pattern=("rand" if order == "random" else "") + what,
        block_bytes=block_bytes,
        depth=depth,
        jobs=queues,
    )


#: For a controller alone: `jobs` is its queues.
QUEUE_ROWS: Final = tuple(
    _queues(size, block_bytes, what, queues, depth)
    for size, block_bytes, shapes in (
        ("4k", 4 * KIB, ((1, 1), (1, 32), (4, 32), (16, 64))),
        ("128k", 128 * KIB, ((1, 8), (4, 8))),
        ("1m", MIB, ((1, 8), (4, 8))),
    )
    for queues, depth in shapes
    for what in ("read", "write")
)


def choose(patterns: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows whose names match one of these, divided by commas.  Raises `ValueError`."""
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not fnmatch.filter((row.name for row in rows), pattern):
            raise ValueError(f"{pattern}: no such row; there are {', '.join(r.name for r in rows)}")
    return tuple(row for row in rows if any(fnmatch.fnmatch(row.name, each) for each in wanted))
