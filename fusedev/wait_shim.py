"""A faster way to wait for requests: an object in place of the name `trio` inside pyfuse3.

Stock pyfuse3 waits in epoll and yields twice for each request, which costs two thirds of its speed.
It looks `trio` up in its own module, and replacing that is how its asyncio mode works; we replace
two things behind it and pass all others on:

- `lowlevel.wait_readable` polls the descriptor first, and waits only where there is nothing;
- `Lock`, which a task holds while it waits for a request, does not yield where it is free.  It
  gives itself to whoever comes first rather than to the longest waiter, and wakes the latest
  waiter, whose buffer is still in the processor's cache.  While its holder waits in epoll, a task
  that comes from answering a request and finds the next one there takes it and goes on, in the
  same step: with many requests under way none of them waits for another turn of the loop.

Both yield for real every few dozen requests, or the other tasks would starve.  This is done for
the versions of pyfuse3 that it was tried with, and not where NVMF_STOCK_TRIO is set.
"""

import logging
import os
import select
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Final, Protocol, cast

import attrs
import pyfuse3
import trio

_log = logging.getLogger(__name__)

VERSIONS: Final = frozenset({"3.5.0"})
SWITCH: Final = "NVMF_STOCK_TRIO"
YIELD_EVERY: Final = 32


class InPlace(Protocol):
    """Waits without a pass of the event loop, where a task is alone in having something to do."""

    #: How many of the tasks that could run need not.
    spare: int

    def watch(self, fd: int) -> None:
        """Ends every such wait, whoever's, where this is readable."""

    def poll_of(self, fd: int) -> select.poll:
        """What `wait` waits in."""

    def wait(self, poll: select.poll, fd: int) -> bool:
        """True where it is readable; False where the caller has to wait as ever."""

    def share(self) -> None:
        """A task that need not have run does: no other is alone until the loop has waited."""


@attrs.define(eq=False)
class Descriptor:
    """The file descriptor of /dev/fuse, as those who read it see it."""

    #: None where every wait goes through trio.
    in_place: InPlace | None = None
    #: True where no request is under way.
    idle: Callable[[], bool] = bool

    number: int = -1
    #: Its reader is parked in epoll.
    watched: bool = False
    #: Whoever is about to read knows that there is something.
    ready: bool = False
    _poll: select.poll = attrs.field(init=False, factory=select.poll)
    _poll_in_place: select.poll = attrs.field(init=False, factory=select.poll)
    _since_yield: int = attrs.field(init=False, default=0)

    def set(self, number: int) -> None:
        """It is this one from now on."""
        self.number = number
        self._poll = select.poll()
        self._poll.register(number, select.POLLIN)
        if self.in_place is not None:
            self.in_place.watch(number)
            self._poll_in_place = self.in_place.poll_of(number)

    def arrives(self) -> bool:
        """Waits a moment where that holds up nobody; True where there is something to read.

        Not while other requests are under way: this would send what they asked for one by one.
        """
        return (
            self.in_place is not None
            and self.idle()
            and self.in_place.wait(self._poll_in_place, self.number)
        )

    def readable(self) -> bool:
        """Looks, without waiting."""
        return bool(self._poll.poll(0))

    def may_go_on(self) -> bool:
        """Counts a request; False where it is the other tasks' turn, every few dozen requests."""
        self._since_yield += 1
        return self._since_yield < YIELD_EVERY

    async def let_others_run(self) -> None:
        """Gives them their turn."""
        self._since_yield = 0
        await trio.lowlevel.checkpoint()


class _Nothing:
    """What is awaited where there is nothing to wait for: a coroutine would cost its making."""

    #: It is at its end, and stays there.
    _ended: Final = cast("Generator[Any, Any, None]", iter(()))

    def __await__(self) -> Generator[Any, Any, None]:
        return self._ended


_NOTHING: Final = _Nothing()


@attrs.define(eq=False)
class Lock:
    """A mutex between tasks that are interchangeable: neither fair nor a checkpoint when free.

    While it is free and tasks wait for it, one of them has been woken and is about to look.
    While its holder watches the descriptor, others may pass, one at a time, where it is readable:
    they do not wait between `__aenter__` and `__aexit__`.
    """

    _descriptor: Descriptor = attrs.field(factory=Descriptor)
    _held: bool = attrs.field(init=False, default=False)
    _waking: bool = attrs.field(init=False, default=False)
    _waiters: list[trio.lowlevel.Task] = attrs.field(init=False, factory=list)

    def __aenter__(self) -> Awaitable[None]:
        descriptor = self._descriptor
        if not self._held:
            self._held = True
            return _NOTHING
        if descriptor.watched and descriptor.may_go_on() and descriptor.readable():
            descriptor.ready = True
            return _NOTHING
        return self._enter()

    async def _enter(self) -> None:
        descriptor = self._descriptor
        while self._held:
            if descriptor.watched:
                if not descriptor.may_go_on():
                    await descriptor.let_others_run()
                if descriptor.watched and descriptor.readable():
                    descriptor.ready = True
                    return
                if not self._held:
                    break
            await self._park()
        self._held = True

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        descriptor = self._descriptor
        if descriptor.watched:
            # The holder is another task.
            descriptor.ready = False
            return _NOTHING
        self._held = False
        if self._waiters and not self._waking:
            self._waking = True
            if descriptor.in_place is not None:
                # It is to watch for others, which whoever waits in place does as well.
                descriptor.in_place.spare += 1
            trio.lowlevel.reschedule(self._waiters.pop())
        return _NOTHING

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._waiters.append(task)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        # Left alone by a cancellation only once it is woken, and then it does look.
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._waking = False
        if self._descriptor.in_place is not None:
            self._descriptor.in_place.spare -= 1
            self._descriptor.in_place.share()


class _LowLevel:
    """`trio.lowlevel` with a `wait_readable` that polls first."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    def wait_readable(self, fd: int) -> Awaitable[None]:
        """What is over once there may be something to read."""
        descriptor = self._descriptor
        if descriptor.ready:
            return _NOTHING
        if fd != descriptor.number:
            descriptor.set(fd)
        if descriptor.may_go_on() and descriptor.readable():
            return _NOTHING
        return self._wait_readable(fd)

    async def _wait_readable(self, fd: int) -> None:
        descriptor = self._descriptor
        if not descriptor.may_go_on():
            await descriptor.let_others_run()
        while not descriptor.readable():
            if descriptor.arrives():
                return
            descriptor.watched = True
            try:
                await trio.lowlevel.wait_readable(fd)
            finally:
                descriptor.watched = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` as pyfuse3 is to see it."""

    def __init__(self, in_place: InPlace | None, idle: Callable[[], bool]) -> None:
        self._descriptor = Descriptor(in_place, idle)
        self.lowlevel = _LowLevel(self._descriptor)

    def Lock(self) -> Lock:  # noqa: N802  # as trio has it
        """The lock of those who read the descriptor: pyfuse3 has no other."""
        return Lock(self._descriptor)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install(in_place: InPlace | None = None, idle: Callable[[], bool] = bool) -> bool:
    """Puts the shim in place for the next `pyfuse3.main`; returns whether it did.

    With `in_place`, a wait while no request is under way (`idle`) is made without the event loop.
    """
    pyfuse3.trio = trio  # type: ignore[attr-defined]  # a name of the module, not of its interface
    if os.environ.get(SWITCH):
        _log.info("%s is set: pyfuse3 waits as it came", SWITCH)
        return False
    if pyfuse3.__version__ not in VERSIONS:
        _log.info("pyfuse3 %s is not one the wait shim was tried with", pyfuse3.__version__)
        return False
    pyfuse3.trio = _Trio(in_place, idle)  # type: ignore[attr-defined]
    return True
