"""One Flush for all writers that find that no more of what is unflushed can be remembered."""

from collections.abc import Awaitable, Callable

import trio

from .errors import KilledError
from .io_request import IoRequest


class Relief:
    """The first writer flushes, the others wait for it; each of them can be killed."""

    def __init__(self) -> None:
        self._done: trio.Event | None = None
        self._waiting: dict[IoRequest, trio.CancelScope] = {}

    async def join(self, request: IoRequest, flush: Callable[[], Awaitable[None]]) -> None:
        """Returns once a `flush` has ended; raises its error where it was ours.

        `request` stands for the wait, where somebody else flushes.  Raises `KilledError`.
        """
        if self._done is None:
            done = self._done = trio.Event()
            try:
                await flush()
            finally:
                self._done = None
                done.set()
            return
        scope = self._waiting[request] = trio.CancelScope()
        try:
            with scope:
                await self._done.wait()
        finally:
            del self._waiting[request]
        if scope.cancelled_caught:
            raise KilledError("whoever waited for a Flush has been killed")

    def waiting(self) -> list[IoRequest]:
        """What waits for somebody else's Flush."""
        return list(self._waiting)

    def kill(self, request: IoRequest) -> None:
        """Ends the wait of one request, if it waits."""
        scope = self._waiting.get(request)
        if scope is not None:
            scope.cancel()
