"""What was written since the last completed Flush, where there is a volatile write cache.

A controller that loses power, or is started anew, may lose what it acknowledged and had not
flushed, and says nothing.  So the host remembers the data (references, no copies of what cannot
change) until a Flush completes, and after a reconnection compares it with what the medium has,
before any I/O goes on.  Of several changes to an LBA the newest counts; deallocated LBAs may read
as anything, and LBAs of changes whose outcome is unknown are compared with nothing.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from nvmf_transport.wire import Buffer

#: With more than this remembered, the namespace is flushed.
MAX_BYTES: Final = 64 << 20
#: Zeroed ranges hold no data; so many entries are enough to be flushed as well.
_MAX_ENTRIES: Final = 65536


@attrs.frozen(eq=False)
class Written:
    """One acknowledged change; `data` is None for zeroes, and not `known` for deallocated LBAs."""

    slba: int
    nlb: int
    data: memoryview | None = None
    known: bool = True

    @property
    def end(self) -> int:
        """The LBA after the last."""
        return self.slba + self.nlb


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
        return self.held_bytes > MAX_BYTES or len(self._entries) > _MAX_ENTRIES

    def add(self, slba: int, nlb: int, data: Buffer | None, *, known: bool = True) -> None:
        """A change was acknowledged.  `data` is copied unless it can be seen not to change."""
        view = None
        if data is not None:
            view = memoryview(data)
            if not view.readonly:
                view = memoryview(bytes(view))
            self.held_bytes += len(view)
        self._entries.append(Written(slba, nlb, view, known))

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

    def expected(self, unknown: Iterable[tuple[int, int]]) -> list[Expected]:
        """What the medium must have, the newest of each LBA; (SLBA, LBAs) `unknown` left out."""
        covered = _Cover()
        for slba, nlb in unknown:
            covered.take(slba, slba + nlb)
        found: list[Expected] = []
        for entry in reversed(self._entries):
            for start, end in covered.take(entry.slba, entry.end):
                if entry.known:
                    found.append(Expected(start, end - start, self._slice(entry, start, end)))
        return sorted(found, key=lambda one: one.slba)

    def in_order(self) -> Iterator[Written]:
        """What to write to make the medium what it was, oldest first."""
        return (entry for entry in list(self._entries) if entry.known)

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
