"""Ranges that stay held after their write has an outcome, because an old copy may still land.

A change that was lost with an association leaves its LBAs in quarantine until the fences of all
associations that it was lost with are lifted (see `fencing`).  Its repetition is not held up, it
carries the same bytes; newer changes of the same LBAs wait.  Failing or killing whoever waited for
the change does not lift it, nor does the end of the namespace's node.
"""

from functools import partial

import attrs

from .fencing import Fence, Fences, when_all_lifted
from .io_request import IoRequest
from .range_lock import Held, RangeLock


@attrs.frozen
class Quarantined:
    """LBAs on which an old copy of a change may still land."""

    slba: int
    nlb: int
    fences: tuple[Fence, ...]

    @property
    def stands(self) -> bool:
        """True while any of the old controllers may still execute commands."""
        return any(fence.stands for fence in self.fences)


class Quarantine:
    """What of a namespace's ranges is in quarantine."""

    def __init__(self, lock: RangeLock) -> None:
        self._lock = lock
        #: How many ranges were ever in quarantine.
        self.total = 0
        self._held: dict[Held, list[Fence]] = {}
        self._heir: tuple[Quarantine, Fences] | None = None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_over(self) -> bool:
        """True where nothing is in quarantine, and nobody is left who could leave something."""
        return len(self._lock) == 0

    def ranges(self) -> list[Quarantined]:
        """What is in quarantine now."""
        return [
            Quarantined(held.start, held.end - held.start, tuple(fences))
            for held, fences in self._held.items()
        ]

    def let_go(self, held: Held, request: IoRequest) -> None:
        """The caller is done with `held`: gives it back once nothing of `request` can land on it.

        Commands of it that are outstanding end by themselves, whether anybody waits or not.
        """
        if request.outstanding:
            request.on_idle = partial(self._settle, held, request.fences)
        else:
            self._settle(held, request.fences)

    def bequeath(self, heir: "Quarantine", fences: Fences) -> None:
        """The node is gone; `heir` is that of another node of the same namespace.

        It gets what is in quarantine here, and what requests that are failing yet leave; `fences`
        looks after their fences from now on.
        """
        self._heir = (heir, fences)
        for one in self.ranges():
            self._pass_on(one)

    def _pass_on(self, one: Quarantined) -> None:
        assert self._heir is not None
        heir, fences = self._heir
        for fence in one.fences:
            fences.adopt(fence)
        heir._settle(heir._lock.enter(one.slba, one.slba + one.nlb), list(one.fences))

    def _settle(self, held: Held, fences: list[Fence]) -> None:
        if any(fence.stands for fence in fences):
            self._held[held] = fences
            self.total += 1
            self._lock.quarantine(held)
            if self._heir is not None:
                self._pass_on(Quarantined(held.start, held.end - held.start, tuple(fences)))
        when_all_lifted(fences, partial(self._release, held))

    def _release(self, held: Held) -> None:
        self._held.pop(held, None)
        self._lock.release(held)
