"""Polls through waits that are expected to be short, instead of sleeping in them.

A processor that sleeps takes its time to wake, in a virtual machine tens of microseconds: at queue
depth 1 each command meets four such waits, in three processes.  Polling made half as many commands
again at the host, and with the controller polling as well twice as many, at the same cost each.

It is done where the last waits were short and little was sent at a time, so that an idle program,
one whose peer is far away, and one with many commands under way sleep as ever.  Between two looks
the processor is offered to whoever else wants it.
"""

import logging
import os
import select
import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

SWITCH: Final = "NVMF_NO_POLLING"
#: Waits up to so long are worth polling through.
LIMIT_NS: Final = 250_000
#: As many waits in a row have to be short first.
STREAK: Final = 2
#: One command or response: its head, its data and their digest.
FEW_BUFFERS: Final = 3
FEW_BYTES: Final = 64 * 1024
#: So many turns in a row have to send no more than that: with many commands under way some do.
SMALL_TURNS: Final = 8

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class ShortWaits:
    """Decides before each wait of the event loop, from the waits before it."""

    #: True where the event loop has something to do.
    _ready: Callable[[], bool] = attrs.field(alias="ready")
    _clock_ns: Callable[[], int] = attrs.field(alias="clock_ns", default=time.monotonic_ns)
    _let_others_run: Callable[[], None] = attrs.field(
        alias="let_others_run", default=os.sched_yield
    )
    _streak: int = attrs.field(init=False, default=0)
    _began_ns: int = attrs.field(init=False, default=0)

    def before(self, *, few: bool) -> None:
        """The loop is about to wait; `few`: it has sent little at a time lately."""
        clock_ns = self._clock_ns
        self._began_ns = began_ns = clock_ns()
        if self._streak < STREAK or not few:
            return
        ready, let_others_run = self._ready, self._let_others_run
        while not ready() and clock_ns() - began_ns < LIMIT_NS:
            let_others_run()

    def after(self) -> None:
        """The wait is over."""
        if self._began_ns:
            short = self._clock_ns() - self._began_ns < LIMIT_NS
            self._streak = self._streak + 1 if short else 0
            self._began_ns = 0


def of_this_run() -> ShortWaits | None:
    """For the running event loop; None where trio does not wait in epoll, or NVMF_NO_POLLING is
    set."""
    if os.environ.get(SWITCH):
        return None
    epoll = _epoll_of_trio()
    if epoll is None:
        _log.info("trio's epoll was not found: every wait sleeps")
        return None
    poll = select.poll()
    poll.register(epoll.fileno(), select.POLLIN)
    return ShortWaits(lambda: bool(poll.poll(0)))


def _epoll_of_trio() -> select.epoll | None:
    """trio has no name for it that is meant for others."""
    try:
        epoll = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll
    except AttributeError:
        return None
    return epoll if isinstance(epoll, select.epoll) else None
