"""How long a request is tried, or several that make one, over one association."""

import attrs

from .fencing import Fence


@attrs.define
class Patience:
    """Counts of retries that wait for something, and when they end.

    What was tried on an association that is over says nothing about the next one, and time in which
    nothing could be tried is not counted.
    """

    delayed: int = 0
    rechecks: int = 0
    give_up_at: float | None = None
    _fence: Fence | None = None

    def tried_over(self, fence: Fence | None) -> None:
        """An attempt went over the association of this fence; None: over none."""
        if fence is not None and fence is not self._fence:
            self._fence = fence
            self.rechecks = 0
            self.begin_time_anew()

    def begin_time_anew(self) -> None:
        """What comes next waits for the namespace first."""
        self.delayed = 0
        self.give_up_at = None
