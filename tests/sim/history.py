"""What was asked and answered, and the bytes that say who wrote them."""

import itertools
import math
import struct
from typing import Final

import attrs

from .plan import CELL_BYTES, Op, OpKind

#: What a cell holds before anybody writes, and after it was zeroed.
INITIAL: Final = 0
ZERO: Final = -1
#: Cells that are not what any write of this namespace and cell leaves behind.
GARBAGE: Final = -2
NEVER: Final = math.inf

_CELL: Final = struct.Struct("<IIii")
_MAGIC: Final = 0x4E564D65
_REPEATS: Final = CELL_BYTES // _CELL.size
_ZEROES: Final = bytes(CELL_BYTES)
CHANGES: Final = frozenset({OpKind.WRITE, OpKind.WRITE_ZEROES, OpKind.DEALLOCATE})


def content(namespace: int, value: int, start: int, cells: int) -> bytes:
    """The bytes that write `value` puts into `cells` cells from `start`."""
    pack = _CELL.pack
    return b"".join(
        pack(_MAGIC, namespace, value, cell) * _REPEATS for cell in range(start, start + cells)
    )


def values_of(namespace: int, data: bytes, start: int) -> list[int]:
    """Who wrote each cell of `data`."""
    values = []
    for index in range(len(data) // CELL_BYTES):
        cell = data[index * CELL_BYTES : (index + 1) * CELL_BYTES]
        magic, of, value, at = _CELL.unpack_from(cell)
        if cell == _ZEROES:
            value = ZERO
        elif (
            magic != _MAGIC
            or of != namespace
            or at != start + index
            or cell != cell[: _CELL.size] * _REPEATS
        ):
            value = GARBAGE
        values.append(value)
    return values


@attrs.define(eq=False)
class Record:
    """One call.  `invoked` and `returned` are places in the order of all events."""

    value: int
    kind: OpKind
    namespace: int
    start: int
    cells: int
    fua: bool
    invoked: float
    returned: float = NEVER
    #: In seconds.
    invoked_at: float = 0.0
    cancelled: bool = False
    #: When the caller went without an answer: killed, or with an error that leaves it open.
    left: float = NEVER
    #: An fsync that was told of a loss: it says nothing about what is durable.
    failed: bool = False
    #: Of a read.
    values: list[int] = attrs.field(factory=list)

    @property
    def written(self) -> int:
        """What a change leaves in each of its cells."""
        return self.value if self.kind is OpKind.WRITE else ZERO

    def overlaps(self, other: "Record") -> bool:
        """Whether two calls share a cell."""
        return (
            self.namespace == other.namespace
            and self.start < other.start + other.cells
            and other.start < self.start + self.cells
        )


class History:
    """Everything that the oracle looks at."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        #: When a target died and took its volatile caches with it.
        self.losses: list[int] = []
        #: Whether acknowledged writes were given up, by a hand that was told of their loss.
        self.given_up = False
        #: What may never happen, whatever is read.
        self.faults: list[str] = []
        self._clock = itertools.count(1)
        self._zeroed: set[tuple[int, int]] = set()

    def tick(self) -> int:
        """The next place in the order of events."""
        return next(self._clock)

    def invoke(self, op: Op) -> Record:
        """A call begins.

        Zeroes look alike, and the oracle needs to know who wrote what: each cell is zeroed by one
        call only, a second one becomes a write.
        """
        kind = op.kind
        if kind in {OpKind.WRITE_ZEROES, OpKind.DEALLOCATE}:
            cells = {(op.namespace, cell) for cell in range(op.start, op.start + op.cells)}
            if cells & self._zeroed:
                kind = OpKind.WRITE
            else:
                self._zeroed |= cells
        record = Record(
            len(self.records) + 1, kind, op.namespace, op.start, op.cells, op.fua, self.tick()
        )
        self.records.append(record)
        return record

    def respond(self, record: Record) -> None:
        """A call has returned, well."""
        record.returned = self.tick()

    def leave(self, record: Record) -> None:
        """The caller has gone, and does not know."""
        record.left = self.tick()

    def find(self, value: int) -> Record | None:
        """The write that leaves this value."""
        return self.records[value - 1] if 0 < value <= len(self.records) else None
