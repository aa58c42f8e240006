"""Backing stores of the simulation: they take time, lose caches, and outlive associations."""

import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from nvmf_controller.backing import InlineStore
from nvmf_transport.errors import CommandError
from nvmf_transport.status import Status
from nvmf_transport.wire import Buffer

from .history import CHANGES, INITIAL, History, Record, content, values_of
from .plan import CELL_BYTES

#: A little less than the time at which the host may believe that nothing lands any more.
_MARGIN_S = 0.02
#: How many commands take their time to be answered when they are done.
_LINGERING = 0.3
#: To be tried again.
_NOT_READY = Status(0, 0x82)


@attrs.define(eq=False)
class Medium:
    """What is on the disk, and what its volatile cache holds: it outlives the target's process."""

    number: int
    size_bytes: int
    lba_bytes: int
    volatile: bool
    view: bytearray = attrs.field(init=False)
    durable: bytearray = attrs.field(init=False)
    dirty: set[int] = attrs.field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self.view = bytearray(content(self.number, INITIAL, 0, self.size_bytes // CELL_BYTES))
        self.durable = bytearray(self.view)

    def grow(self, length: int) -> None:
        """More LBAs, which nobody has written."""
        cells = length // CELL_BYTES
        new = content(self.number, INITIAL, self.size_bytes // CELL_BYTES, cells)
        self.view += new
        self.durable += new
        self.size_bytes += length

    def put(self, offset: int, data: bytes, *, fua: bool) -> None:
        """Writes whole LBAs."""
        self.view[offset : offset + len(data)] = data
        lbas = range(offset // self.lba_bytes, (offset + len(data)) // self.lba_bytes)
        if fua or not self.volatile:
            self.durable[offset : offset + len(data)] = data
            self.dirty.difference_update(lbas)
        else:
            self.dirty.update(lbas)

    def put_cells(self, offset: int, data: bytes) -> None:
        """Changes parts of LBAs, as if they had been read, merged and written."""
        self.view[offset : offset + len(data)] = data
        self.durable[offset : offset + len(data)] = data

    def harden(self) -> None:
        """Brings the cache to the disk."""
        for lba in self.dirty:
            self._copy(lba, self.view, self.durable)
        self.dirty.clear()

    def lose_cache(self, chance: random.Random) -> int:
        """Any part of the cache may have reached the disk; returns how many LBAs had not."""
        lost = 0
        for lba in sorted(self.dirty):
            if chance.random() < 0.3:
                self._copy(lba, self.view, self.durable)
            else:
                start = lba * self.lba_bytes
                end = start + self.lba_bytes
                lost += self.view[start:end] != self.durable[start:end]
                self._copy(lba, self.durable, self.view)
        self.dirty.clear()
        return lost

    def _copy(self, lba: int, source: bytearray, target: bytearray) -> None:
        start = lba * self.lba_bytes
        target[start : start + self.lba_bytes] = source[start : start + self.lba_bytes]


@attrs.define(eq=False)
class _Operation:
    """A command that the medium is at; it is done at `lands_at`, which may be put off."""

    began_at: float
    lands_at: float
    changes: bool


@attrs.define(eq=False)
class Pace:
    """How long a medium takes, and how late it may still execute what it has begun."""

    chance: random.Random
    slow: int
    #: A fence stands this long after the last byte of the host.
    fence_s: float
    #: What arrives late lands so long after that, at most.
    late_s: float
    #: Of both, the part that a controller takes to quiesce.
    cqt_s: float = 0.0
    #: Until then commands may arrive that were sent long ago: they land within KATO.
    thawed_until: float = 0.0
    #: Whether the host has an association again.
    host_is_back: Callable[[], bool] = bool
    #: Why a write may not arrive now, "" where it may.
    refusal: Callable[[Record], str] = lambda _: ""

    def draw_s(self) -> float:
        """How long one command takes."""
        if self.chance.randrange(100) < self.slow:
            return self.chance.uniform(0.05, 0.6)
        return self.chance.uniform(0.0002, 0.012)

    def latest(self, began_at: float) -> float:
        """When a command that began then has landed."""
        limit_s = self.late_s if began_at < self.thawed_until else self.fence_s
        return began_at + limit_s - _MARGIN_S


class SimStore:
    """One process's way to a `Medium`.  An operation that has begun runs to its end."""

    def __init__(
        self,
        medium: Medium,
        pace: Pace,
        history: History,
        counts: "Counter[str]",
        *,
        foreign: bool = False,
    ) -> None:
        self.medium = medium
        self.read_only = False
        self.volatile_cache = medium.volatile
        self.inline: InlineStore | None = None
        self._pace = pace
        self._history = history
        self._counts = counts
        self._foreign = foreign
        #: Until then nothing is begun.
        self.ready_at = 0.0
        self._dead = trio.Event()
        self._operations: dict[_Operation, None] = {}
        self._seen: set[int] = set()

    @property
    def size_bytes(self) -> int:
        """What the medium has room for."""
        return self.medium.size_bytes

    def kill(self) -> None:
        """The process is gone: nothing that was begun touches the medium any more."""
        self._dead.set()

    def linger(self, percent: int) -> None:
        """Puts off what the medium is at, by up to this part of the time a fence stands."""
        for operation in self._operations:
            if operation.changes:
                late = self._pace.chance.uniform(0.5, 1.0) * percent / 100
                spare_s = self._pace.latest(operation.began_at) - operation.lands_at
                operation.lands_at += max(0.0, spare_s * late)

    async def read(self, offset: int, length: int) -> Buffer:
        """The first half and the second half may be of different moments."""
        self._admit("read")
        half = self._part(length)
        parts: list[bytes] = []
        await self._operate(
            lambda: parts.append(bytes(self.medium.view[offset : offset + half])), changes=False
        )
        if half < length:
            await self._operate(
                lambda: parts.append(bytes(self.medium.view[offset + half : offset + length])),
                changes=False,
            )
        return b"".join(parts) if not self._dead.is_set() else bytes(length)

    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        """LBA by LBA: a part of a write may land before the rest, or alone."""
        self._admit("write")
        whole = bytes(data)
        record = self._look(whole, offset)
        for value in set(values_of(self.medium.number, whole, offset // CELL_BYTES)):
            one = self._history.find(value)
            if one is not None and (refusal := self._pace.refusal(one)):
                self._history.faults.append(f"{one}: {refusal}")
        half = self._part(len(whole))
        # All of it lands in the time that one command has.
        began_at = trio.current_time()
        landed = await self._operate(
            lambda: self.medium.put(offset, whole[:half], fua=fua), changes=True, record=record
        )
        if landed and half < len(whole):
            await self._operate(
                lambda: self.medium.put(offset + half, whole[half:], fua=fua),
                changes=True,
                record=record,
                began_at=began_at,
            )

    async def write_zeroes(self, offset: int, length: int, *, deallocate: bool, fua: bool) -> None:
        """As a write, at one moment."""
        del deallocate
        self._admit("write-zeroes")
        await self._operate(lambda: self.medium.put(offset, bytes(length), fua=fua), changes=True)

    async def deallocate(self, offset: int, length: int) -> None:
        """Zeroes; nothing is undefined here."""
        await self.write_zeroes(offset, length, deallocate=True, fua=False)

    async def flush(self) -> None:
        """Covers what was written when it lands, at most."""
        await self._operate(self.medium.harden, changes=False)

    def close(self) -> None:
        """The medium stays."""

    async def _operate(
        self,
        effect: Callable[[], object],
        *,
        changes: bool,
        record: Record | None = None,
        began_at: float | None = None,
    ) -> bool:
        """Takes its time, then does it; False where the process died before."""
        now = trio.current_time()
        began_at = now if began_at is None else began_at
        lands_at = min(now + self._pace.draw_s(), max(now, self._pace.latest(began_at)))
        operation = _Operation(began_at, lands_at, changes)
        self._operations[operation] = None
        # Like a command in a thread or in a disk: once begun, nobody can call it back.
        with trio.CancelScope(shield=True):
            while trio.current_time() < operation.lands_at and not self._dead.is_set():
                with trio.move_on_at(operation.lands_at):
                    await self._dead.wait()
            del self._operations[operation]
            if self._dead.is_set():
                return False
            effect()
            # Done, and not told yet: whoever loses the association now cannot know.
            if self._pace.chance.random() < _LINGERING:
                with trio.move_on_after(self._pace.chance.uniform(0.01, 0.2)):
                    await self._dead.wait()
        if changes:
            self._count(record, began_at)
        return True

    def _count(self, record: Record | None, began_at: float) -> None:
        if trio.current_effective_deadline() == -float("inf"):
            self._counts["ghosts"] += 1
            if self._pace.host_is_back():
                self._counts["ghosts while the host was back"] += 1
                noticed_at = began_at + self._pace.fence_s - self._pace.cqt_s
                if trio.current_time() > noticed_at:
                    self._counts["ghosts while the controller quiesced"] += 1
        elif record is not None and record.cancelled:
            self._counts["late completions after a kill"] += 1

    def _part(self, length: int) -> int:
        """Where a command is cut in two; mostly it is not."""
        lbas = length // self.medium.lba_bytes
        if lbas < 2 or self._pace.chance.random() < 0.7:
            return length
        return self._pace.chance.randrange(1, lbas) * self.medium.lba_bytes

    def _admit(self, what: str) -> None:
        if trio.current_time() < self.ready_at:
            raise CommandError(_NOT_READY)
        if self._foreign:
            self._history.faults.append(f"the host sent a {what} to an impostor")

    def _look(self, data: bytes, offset: int) -> Record | None:
        """Counts what the histogram shows of a write; returns which one it is."""
        first = values_of(self.medium.number, data[:CELL_BYTES], offset // CELL_BYTES)[0]
        record = self._history.find(first)
        if record is None or record.kind not in CHANGES:
            return None
        if first in self._seen:
            self._counts["writes sent again"] += 1
            rivals = (
                other
                for other in self._history.records
                if other is not record
                and other.kind in CHANGES
                and other.invoked > record.invoked
                and other.overlaps(record)
            )
            if next(rivals, None) is not None:
                self._counts["overlapping writes sent again"] += 1
        self._seen.add(first)
        return record
