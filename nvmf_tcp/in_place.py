"""Waits in place: a task waits where it stands, without a pass of the event loop.

A wait through trio arms the descriptor, parks the task, and comes back by way of epoll, events,
deadlines and instruments: at queue depth 1 there were more than three of those passes in each
command at the host, and one in each at the controller, a third of a command's time.  A task that
is the only one with anything to do can as well wait for its descriptor itself.  It waits for
trio's epoll with it, which stands for all that anybody else waits for: their sockets, calls from
other threads, signals.

Deadlines of other tasks are late by `MOST_NS` and one such wait at the most: then the next wait is
trio's again.
"""

import select
import time
from collections.abc import Callable
from typing import Final

import attrs

from .inside_trio import InsideTrio
from .short_waits import Poll, ShortWaits

#: So long after the last pass of the event loop all waits are trio's.
MOST_NS: Final = 1_000_000


@attrs.define(eq=False)
class InPlace:
    """Which waits are made in place, and how."""

    _inside: InsideTrio = attrs.field(alias="inside")
    _short: ShortWaits = attrs.field(alias="short")
    #: Sends what is queued; True where that was little lately.
    _send: Callable[[], bool] = attrs.field(alias="send")
    _clock_ns: Callable[[], int] = attrs.field(alias="clock_ns", default=time.monotonic_ns)
    #: How many of the tasks that could run need not: what they would do, this one does.
    spare: int = 0
    #: Those of them that are to run in this pass: they are not among the runnable any more.
    _spare_now: int = attrs.field(init=False, default=0)
    _alone: bool = attrs.field(init=False, default=False)
    _ends_ns: int = attrs.field(init=False, default=0)
    _watched: list[int] = attrs.field(init=False, factory=list)

    def begin(self) -> None:
        """The event loop has waited, and its tasks are about to run."""
        self._spare_now = self.spare
        self._alone = len(self._inside.runnable) - self.spare <= 1
        self._ends_ns = self._clock_ns() + MOST_NS

    def share(self) -> None:
        """A task that need not have run does: no other is alone until the loop has waited."""
        self._alone = False

    def watch(self, fd: int) -> None:
        """Every wait in place ends where this is readable, which trio may not be asked for."""
        if fd not in self._watched:
            self._watched.append(fd)

    def poll_of(self, fd: int | None = None) -> select.poll:
        """What is to be waited in for `fd`, or for whatever trio waits for."""
        poll = select.poll()
        for number in (self._inside.epoll_fd, *self._watched, fd):
            if number is not None:
                poll.register(number, select.POLLIN)
        return poll

    def wait(self, poll: Poll, fd: int | None = None) -> bool:
        """Waits a moment; True where `fd` is readable, or without one, where trio has something.

        False where the caller has to wait as ever: it is not alone, or nothing has come.
        """
        if not self._alone or len(self._inside.runnable) > self.spare - self._spare_now:
            return False
        if self._clock_ns() >= self._ends_ns:
            return False
        found = self._short.poll_through(poll, few=self._send())
        if not found:
            return False
        wanted = self._inside.epoll_fd if fd is None else fd
        # Mostly it is the one and only.
        return wanted == found[0][0] or wanted in dict(found)
