"""Serialises writes of one namespace that overlap, in the order of their arrival.

Every write, zeroing and deallocation holds its LBAs from arrival until its outcome is known, and
an unaligned write holds them from its read on.  So no two overlapping writes are ever outstanding:
whichever is sent again after a loss, nothing newer can lie under it.

A newcomer waits for every older holder or waiter that it overlaps; since that order is the order
of arrival, it cannot deadlock.

A range whose write has an outcome may go on being held, in quarantine: an old copy of the write may
still land there (see `fencing`).  What waits for such a range is stuck, and no Flush waits for it:
it was never sent.
"""

from collections.abc import Callable
from typing import Final

import trio

#: Held ranges are found by the pieces of this many LBAs that they touch.
_PIECE_SHIFT: Final = 8
#: A range that touches more pieces is kept apart and compared with everything.
_MAX_PIECES: Final = 64


class Held:
    """LBAs `start` to `end` (exclusive), held or waited for."""

    __slots__ = (
        "barrier",
        "blockers",
        "dependents",
        "end",
        "error",
        "granted",
        "pieces",
        "quarantined",
        "start",
        "stuck",
    )

    def __init__(self, start: int, end: int, pieces: range | None) -> None:
        self.start = start
        self.end = end
        #: Those that it touches; None: too many, or it is a barrier, which is nowhere.
        self.pieces = pieces
        self.blockers = 0
        self.dependents: list[Held] = []
        self.granted: Callable[[], None] | None = None
        self.barrier = self.quarantined = False
        #: It waits for a range in quarantine, directly or through others.
        self.stuck = False
        #: Why the wait is given up.
        self.error: Exception | None = None


class RangeLock:
    """The ranges of one namespace.  Synchronous but for `acquire` and `drain`."""

    def __init__(self) -> None:
        self._pieces: dict[int, dict[Held, None]] = {}
        self._wide: dict[Held, None] = {}
        self._all: dict[Held, None] = {}
        #: Those that a barrier waits for: a Flush costs nothing for what is in quarantine.
        self._barring: dict[Held, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, start: int, end: int) -> Held:
        """Takes a place in line; it holds once `blockers` is 0.  Undone by `release`."""
        first, last = start >> _PIECE_SHIFT, (end - 1) >> _PIECE_SHIFT
        keys = range(first, last + 1) if last - first < _MAX_PIECES else None
        held = Held(start, end, keys)
        if first == last and first not in self._pieces and not self._wide:
            # Nothing is near it, as for most small writes.
            self._pieces[first] = {held: None}
            self._all[held] = self._barring[held] = None
            return held
        if keys is None:
            rivals: set[Held] = {other for other in self._all if _overlap(held, other)}
            self._wide[held] = None
        else:
            rivals = (
                {other for other in self._wide if _overlap(held, other)} if self._wide else set()
            )
            pieces = self._pieces
            for key in keys:
                piece = pieces.get(key)
                if piece is None:
                    pieces[key] = {held: None}
                    continue
                for other in piece:
                    if other.start < end and start < other.end:
                        rivals.add(other)
                piece[held] = None
        for other in rivals:
            other.dependents.append(held)
            if other.quarantined or other.stuck:
                held.stuck = True
        held.blockers = len(rivals)
        self._all[held] = None
        if not held.stuck:
            self._barring[held] = None
        return held

    def quarantine(self, held: Held) -> None:
        """Goes on holding a range whose write has an outcome, until `release`."""
        held.quarantined = True
        held.stuck = False
        self._unbar(held)

    def fail(self, held: Held, error: Exception) -> None:
        """Ends the `wait` for `held`, if there is one, with `error`."""
        if held.blockers and held.granted is not None:
            held.error = error
            held.granted()

    def release(self, held: Held) -> None:
        """Gives a range, or a place in line, back."""
        if self._all.pop(held, _GONE) is _GONE:
            return
        self._barring.pop(held, None)
        # One that is cancelled while it waits is still counted down by whom it waited for.
        held.granted = None
        if held.pieces is None:
            self._wide.pop(held, None)
        else:
            for key in held.pieces:
                piece = self._pieces[key]
                del piece[held]
                if not piece:
                    del self._pieces[key]
        if not held.dependents:
            return
        for dependent in held.dependents:
            dependent.blockers -= 1
            if not dependent.blockers:
                if dependent.stuck and dependent in self._all:
                    self._barring[dependent] = None
                dependent.stuck = False
                if dependent.granted is not None:
                    dependent.granted()
        held.dependents.clear()

    async def wait(self, held: Held) -> None:
        """Waits until `held` holds.  A cancelled wait gives its place in line back."""
        if not held.blockers:
            return
        event = trio.Event()
        held.granted = event.set
        try:
            await event.wait()
        except trio.Cancelled:
            self.release(held)
            raise
        if held.error is not None:
            self.release(held)
            raise held.error

    def barrier(self) -> Held:
        """Holds once everything in line now has an outcome, but for what is stuck.

        Nobody waits for it, and it need not be released: left behind by a cancelled wait, it is
        counted down by its blockers and forgotten.
        """
        barrier = Held(0, 0, None)
        barrier.barrier = True
        barrier.blockers = len(self._barring)
        for held in self._barring:
            held.dependents.append(barrier)
        return barrier

    async def drain(self) -> None:
        """Waits for a barrier."""
        await self.wait(self.barrier())

    def _unbar(self, held: Held) -> None:
        """No barrier waits for `held`, nor for what waits for it."""
        todo = [held]
        while todo:
            one = todo.pop()
            self._barring.pop(one, None)
            barriers = [dependent for dependent in one.dependents if dependent.barrier]
            one.dependents = [dependent for dependent in one.dependents if not dependent.barrier]
            for barrier in barriers:
                barrier.blockers -= 1
                if not barrier.blockers and barrier.granted is not None:
                    barrier.granted()
            for dependent in one.dependents:
                if not dependent.stuck and not dependent.quarantined:
                    dependent.stuck = True
                    todo.append(dependent)


def _overlap(one: Held, other: Held) -> bool:
    return one.start < other.end and other.start < one.end


_GONE: Final = object()
