"""The line of changes of a namespace: who may touch which LBAs, and who waits for whom.

Changes that overlap are never outstanding together (`range_lock`); those that were lost keep their
LBAs until no old copy of them can land any more (`quarantine`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from .io_request import IoRequest
from .quarantine import Quarantine
from .range_lock import Held, RangeLock


@attrs.frozen
class Queued:
    """A request that waits in line, and for what."""

    request: IoRequest
    reason: str
    #: It waits for LBAs in quarantine.
    stuck: bool


class ChangeLine:
    """One namespace's."""

    def __init__(self) -> None:
        self._lock = RangeLock()
        self._queued: dict[Held, IoRequest] = {}
        #: LBAs on which old copies of lost changes may still land.
        self.quarantine = Quarantine(self._lock)

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queued)

    def enter(self, request: IoRequest) -> Held:
        """Takes a place in line; where it has `blockers`, `wait` for the LBAs to be held."""
        return self._lock.enter(request.slba, request.slba + request.nlb)

    async def wait(self, held: Held, request: IoRequest) -> None:
        """Waits until `held`, a place in line, holds its LBAs; gives it up where this raises."""
        self._queued[held] = request
        try:
            await self._lock.wait(held)
        finally:
            del self._queued[held]

    async def pass_barrier(self, request: IoRequest) -> None:
        """Waits until every change in line now has an outcome, but for those that are stuck."""
        barrier = self._lock.barrier()
        if barrier.blockers:
            await self.wait(barrier, request)

    @contextmanager
    def holding(self, held: Held, request: IoRequest) -> Iterator[None]:
        """Gives the range back when nothing of the request can land any more."""
        try:
            yield
        finally:
            self.let_go(held, request)

    def let_go(self, held: Held, request: IoRequest) -> None:
        """The same at the end of a block of the caller's own."""
        if request.outstanding or request.fences:
            self.quarantine.let_go(held, request)
        else:
            # Nothing of it is with a controller, or was when its association ended.
            self._lock.release(held)

    def queued(self) -> list[Queued]:
        """What waits in line."""
        return [
            Queued(request, _reason(held), held.stuck) for held, request in self._queued.items()
        ]

    def fail(self, request: IoRequest, error: Exception) -> None:
        """Ends the wait of one request, if it waits."""
        for held, queued in list(self._queued.items()):
            if queued is request:
                self._lock.fail(held, error)

    def fail_all(self, error: Exception) -> None:
        """Ends every wait; who comes later waits as ever."""
        for held in list(self._queued):
            self._lock.fail(held, error)


def _reason(held: Held) -> str:
    if held.stuck:
        return "waits for LBAs that an old copy of a write may still land on"
    if held.barrier:
        return "waits for earlier writes"
    return "waits for an earlier write of the same LBAs"
