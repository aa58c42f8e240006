"""The time without an association: when waiting I/O fails, and when the controller is given up."""

from collections.abc import Callable

import trio

from .config import ConnectParams


class Outage:
    """Runs from the loss of an association until the next one is live."""

    def __init__(
        self,
        params: Callable[[], ConnectParams],
        on_fail_fast: Callable[[str], None],
        on_give_up: Callable[[str], None],
    ) -> None:
        """`params` gives the parameters as they are at the time: they may change meanwhile."""
        self._params = params
        self._on_fail_fast = on_fail_fast
        self._on_give_up = on_give_up
        self._changed = trio.Event()
        self._failed_fast = False
        #: When it began, None while there is no outage.
        self.began_at: float | None = None

    @property
    def fails_fast_at(self) -> float:
        """When waiting I/O fails; infinity for never."""
        return self._after(self._params().fast_io_fail_s)

    @property
    def gives_up_at(self) -> float:
        """When the controller is given up; infinity for never."""
        return self._after(self._params().ctrl_loss_tmo_s)

    def begin(self) -> None:
        """An association was lost; an outage that goes on is not a new one."""
        if self.began_at is None:
            self.began_at = trio.current_time()
            self._failed_fast = False
            self._changed.set()

    def end(self) -> None:
        """There is an association again."""
        self.began_at = None
        self._changed.set()

    def look(self) -> None:
        """The parameters have changed."""
        self._changed.set()

    async def watch(self) -> None:
        """Acts when a time has come; a task of the controller."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            if now >= self.gives_up_at:
                limit_s = self._params().ctrl_loss_tmo_s
                self._on_give_up(f"not back within {limit_s:g} s (controller loss timeout)")
                return
            if now >= self.fails_fast_at and not self._failed_fast:
                self._failed_fast = True
                limit_s = self._params().fast_io_fail_s
                self._on_fail_fast(f"not connected for {limit_s:g} s (fast I/O fail)")
            next_at = self.gives_up_at
            if not self._failed_fast:
                next_at = min(next_at, self.fails_fast_at)
            with trio.move_on_at(next_at):
                await self._changed.wait()

    def _after(self, limit_s: float | None) -> float:
        if self.began_at is None or limit_s is None:
            return float("inf")
        return self.began_at + limit_s
