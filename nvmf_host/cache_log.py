"""What was written since the last completed Flush, where there is a volatile write cache.

A controller that loses power, or is started anew, may lose what it acknowledged and had not
flushed, and says nothing.  So the host remembers the data (references, no copies of what cannot
change) until a Flush completes, and after a reconnection compares it with what the medium has,
before any I/O goes on.  Of several changes to an LBA the newest counts; deallocated LBAs may read
as anything.  A change whose outcome is unknown leaves its LBAs as it wanted them, or as they were:
both are right, and anything else is a loss as elsewhere.
"""

import enum
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final

import attrs

#: With more than this remembered, the namespace is flushed.
MAX_BYTES: Final = 64 << 20
#: So many entries are enough as well: zeroes hold no data, and the comparison puts all in order at
#: once, while nothing else runs.
MAX_ENTRIES: Final = 16384


class Effect(enum.Enum):
    """What a change has done to its LBAs."""

    #: They have its data.
    SURE = enum.auto()
    #: They have its data, or what they had before.
    PERHAPS = enum.auto()
    #: They read as anything.
    ANYTHING = enum.auto()


@attrs.frozen(eq=False)
class Written:
    """A change; `data` is None for zeroes."""

    slba: int
    nlb: int
    data: memoryview | None = None
    effect: Effect = Effect.SURE

    @property
    def end(self) -> int:
        """The LBA after the last."""
        return self.slba + self.nlb

    def covers(self, lba: int) -> bool:
        """True where it changes this LBA."""
        return self.slba <= lba < self.end

    def leaves(self, lba: int, found: memoryview) -> bool:
        """True where `found` is what this change makes of `lba`."""
        if self.data is None:
            return not any(found)
        start = (lba - self.slba) * len(found)
        return self.data[start : start + len(found)] == found


@attrs.frozen
class Expected:
    """LBAs that must read as `data`, or as zeroes where it is None."""

    slba: int
    nlb: int
    data: memoryview | None


class CacheLog:
    """Acknowledged changes that no completed Flush covers, in the order of their completion."""

    def __init__(self, lba_bytes: int) -> None:
        self._lba_bytes = lba_bytes
        self._entries: deque[Written] = deque()
        #: Entries ever dropped from the left: a mark is a count of entries ever added.
        self._dropped = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """True where it is time for a Flush."""
        return self.held_bytes > MAX_BYTES or len(self._entries) > MAX_ENTRIES

    def add(self, change: Written) -> None:
        """A change has an outcome.  Its data is copied unless it can be seen not to change."""
        data = change.data
        if data is not None:
            if not data.readonly:
                change = attrs.evolve(change, data=memoryview(bytes(data)))
            self.held_bytes += len(data)
        self._entries.append(change)

    def mark(self) -> int:
        """What a Flush that is sent now will cover."""
        return self._dropped + len(self._entries)

    def flushed(self, mark: int) -> None:
        """A Flush has completed that was sent at `mark`."""
        while self._dropped < mark and self._entries:
            entry = self._entries.popleft()
            self._dropped += 1
            if entry.data is not None:
                self.held_bytes -= len(entry.data)

    def clear(self) -> None:
        """Nothing is held against the medium any more."""
        self.flushed(self.mark())

    def expected(self) -> list[Expected]:
        """What the medium must have, the newest of each LBA; see `admits` for what it may have."""
        covered = _Cover()
        found: list[Expected] = []
        for entry in reversed(self._entries):
            if entry.effect is Effect.PERHAPS:
                continue
            for start, end in covered.take(entry.slba, entry.end):
                if entry.effect is Effect.SURE:
                    found.append(Expected(start, end - start, self._slice(entry, start, end)))
        return sorted(found, key=lambda one: one.slba)

    def doubts(self, unknown: Iterable[Written], slba: int, nlb: int) -> list[Written]:
        """What may have changed these LBAs, or may not, newest first: what `admits` needs.

        `unknown` are changes under way, newer than all that is remembered.
        """
        changes = [*self._entries, *unknown]
        if not any(
            one.effect is not Effect.SURE and one.slba < slba + nlb and slba < one.end
            for one in changes
        ):
            return []
        return [one for one in reversed(changes) if one.slba < slba + nlb and slba < one.end]

    @staticmethod
    def admits(doubts: Iterable[Written], lba: int, found: memoryview) -> bool:
        """True where an LBA that is not as `expected` is as one in doubt may have left it."""
        for one in doubts:
            if not one.covers(lba):
                continue
            if one.effect is Effect.ANYTHING or one.leaves(lba, found):
                return True
            if one.effect is Effect.SURE:
                return False
        return False

    def _slice(self, entry: Written, start: int, end: int) -> memoryview | None:
        if entry.data is None:
            return None
        size = self._lba_bytes
        return entry.data[(start - entry.slba) * size : (end - entry.slba) * size]


class _Cover:
    """Ranges that were taken: disjoint, in order, found by bisection."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def take(self, start: int, end: int) -> list[tuple[int, int]]:
        """Takes a range; returns those parts of it that were free."""
        first = bisect_left(self._ends, start)
        after = bisect_right(self._starts, end)
        free: list[tuple[int, int]] = []
        position, low, high = start, start, end
        for index in range(first, after):
            if self._starts[index] > position:
                free.append((position, self._starts[index]))
            position = max(position, self._ends[index])
        if first < after:
            low, high = min(low, self._starts[first]), max(high, self._ends[after - 1])
        if position < end:
            free.append((position, end))
        self._starts[first:after] = [low]
        self._ends[first:after] = [high]
        return free
