"""Waits in place: a task waits where it stands, without a pass of the event loop.

A wait through trio arms the descriptor, parks the task, and comes back by way of epoll, events,
deadlines and instruments: at queue depth 1 there were more than three of those passes in each
command at the host, and one in each at the controller, a third of a command's time.  A task that
is the only one with anything to do can as well wait for its descriptor itself.  It waits for
trio's epoll with it, which stands for all that anybody else waits for: their sockets, calls from
other threads, signals.

Where the program takes work from a descriptor beside its sockets, `attend` lets whoever waits in
place take that work as well, and go on waiting.

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
    _alone: bool = attrs.field(init=False, default=False)
    _ends_ns: int = attrs.field(init=False, default=0)
    _attended: int = attrs.field(init=False, default=-1)
    _take: Callable[[], object] = attrs.field(init=False, default=bool)

    def begin(self) -> None:
        """The event loop has waited, and its tasks are about to run."""
        self._alone = len(self._inside.runnable) <= 1
        self._ends_ns = self._clock_ns() + MOST_NS

    def attend(self, fd: int, take: Callable[[], object]) -> None:
        """Has `take` called by whoever waits in place, where `fd` is readable.

        It takes what is there without waiting; False: it has not, and the task that waits for `fd`
        has to.
        """
        self._attended = fd
        self._take = take

    def poll_of(self, fd: int) -> select.poll:
        """What is to be waited in for `fd`."""
        poll = select.poll()
        for number in (self._inside.epoll_fd, self._attended, fd):
            if number >= 0:
                poll.register(number, select.POLLIN)
        return poll

    def wait(self, poll: Poll, fd: int) -> bool:
        """Waits a moment; True where `fd` is readable.

        False where the caller has to wait as ever: it is not alone, or nothing has come.
        """
        while self._alone and not self._inside.runnable and self._clock_ns() < self._ends_ns:
            found = self._short.poll_through(poll, few=self._send())
            if not found:
                return False
            # Mostly it is the one and only.
            if found[0][0] == fd:
                return True
            ready = dict(found)
            if fd in ready:
                return True
            if self._attended not in ready or not self._take():
                return False
        return False
