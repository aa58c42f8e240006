"""A faster way to wait for requests: an object in place of the name `trio` inside pyfuse3.

Stock pyfuse3 waits in epoll and yields twice for each request, which costs two thirds of its speed.
It looks `trio` up in its own module, and replacing that is how its asyncio mode works; we replace
two things behind it and pass all others on:

- `lowlevel.wait_readable` polls the descriptor first, and waits only where there is nothing;
- `Lock` does not yield where it is free.  It gives itself to whoever comes first rather than to
  the longest waiter, so one task can take request after request, and it wakes the latest waiter,
  whose buffer is still in the processor's cache.

Both yield for real every few dozen requests, or the other tasks would starve.  This is done for
the versions of pyfuse3 that it was tried with, and not where NVMF_STOCK_TRIO is set.
"""

import logging
import os
import select
from types import TracebackType
from typing import Any, Final

import attrs
import pyfuse3
import trio

_log = logging.getLogger(__name__)

VERSIONS: Final = frozenset({"3.5.0"})
SWITCH: Final = "NVMF_STOCK_TRIO"
YIELD_EVERY: Final = 32


@attrs.define(eq=False)
class Lock:
    """A mutex between tasks that are interchangeable: neither fair nor a checkpoint when free.

    While it is free and tasks wait for it, one of them has been woken and is about to look.
    """

    _held: bool = attrs.field(init=False, default=False)
    _waking: bool = attrs.field(init=False, default=False)
    _waiters: list[trio.lowlevel.Task] = attrs.field(init=False, factory=list)

    async def __aenter__(self) -> None:
        while self._held:
            await self._park()
        self._held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held = False
        if self._waiters and not self._waking:
            self._waking = True
            trio.lowlevel.reschedule(self._waiters.pop())

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._waiters.append(task)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        # Left alone by a cancellation only once it is woken, and then it does look.
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._waking = False


class _LowLevel:
    """`trio.lowlevel` with a `wait_readable` that polls first."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = -1
        self._since_yield = 0

    async def wait_readable(self, fd: int) -> None:
        """Returns once there may be something to read."""
        if fd != self._fd:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._fd = fd
        self._since_yield += 1
        if self._since_yield >= YIELD_EVERY:
            self._since_yield = 0
            await trio.lowlevel.checkpoint()
        if self._poll.poll(0):
            return
        self._since_yield = 0
        await trio.lowlevel.wait_readable(fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` as pyfuse3 is to see it."""

    Lock = Lock

    def __init__(self) -> None:
        self.lowlevel = _LowLevel()

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install() -> bool:
    """Puts the shim in place for the next `pyfuse3.main`; returns whether it did."""
    pyfuse3.trio = trio  # type: ignore[attr-defined]  # a name of the module, not of its interface
    if os.environ.get(SWITCH):
        _log.info("%s is set: pyfuse3 waits as it came", SWITCH)
        return False
    if pyfuse3.__version__ not in VERSIONS:
        _log.info("pyfuse3 %s is not one the wait shim was tried with", pyfuse3.__version__)
        return False
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]
    return True
