"""The end of a turn of the event loop: where what the turn has queued is sent.

A task that sends costs a turn of its own before anything leaves, and at queue depth 1 that turn is
a tenth of a command's time.  trio tells an instrument when it is about to wait for I/O, which is
when every task of the turn has run: then the drivers that have something to send do so, once, by
one system call that does not wait.  What the kernel does not take is the sending task's.

Without it (`Turn.current` is None, or NVMF_SENDING_TASKS is set) the sending tasks send everything,
with the same bytes on the wire; the tests run both ways.
"""

import logging
import os
import select
import time
from collections.abc import Callable
from typing import Final

import trio

from . import inside_trio
from .in_place import InPlace
from .short_waits import FEW_BUFFERS, FEW_BYTES, SMALL_TURNS, ShortWaits
from .short_waits import SWITCH as POLLING_SWITCH

SWITCH: Final = "NVMF_SENDING_TASKS"

_log = logging.getLogger(__name__)


class Turn(trio.abc.Instrument):
    """The drivers of one event loop that have something to send."""

    def __init__(self) -> None:
        self._pending: list[Callable[[], None]] = []
        #: How many buffers, and bytes, this turn has sent.
        self.sent_buffers = 0
        self.sent_bytes = 0
        #: How many turns in a row, of those that sent anything, have sent little.
        self._small_turns = 0
        #: For waits without a pass of the loop; None where there are none.
        self.in_place: InPlace | None = None
        self._before_waiting: Callable[[], object] = bool
        self._short = ShortWaits()
        self._waiting_since_ns = 0

    @classmethod
    def current(cls) -> "Turn | None":
        """That of this run of trio; None where sending is to be left to tasks."""
        if os.environ.get(SWITCH):
            return None
        try:
            return _current.get()
        except LookupError:
            turn = cls()
            _current.set(turn)
            trio.lowlevel.add_instrument(turn)
            return turn

    def poll_short_waits(self) -> None:
        """See `short_waits` and `in_place`; nothing where that cannot be, or is not wanted."""
        inside = None if os.environ.get(POLLING_SWITCH) else inside_trio.of_this_run()
        if inside is not None:
            self.in_place = InPlace(inside, self._short, self.send)
            self._loop_poll = select.poll()
            self._loop_poll.register(inside.epoll_fd, select.POLLIN)

    def attend(
        self, fd: int, take: Callable[[], object], before_waiting: Callable[[], object]
    ) -> None:
        """Has work taken from a descriptor beside the sockets, for which a task waits as well.

        `take` is called where it is readable and a task waits in place (`in_place`);
        `before_waiting` at the end of each turn, before what is queued is sent.  Neither may raise
        (`take` is called by whoever receives), nor reschedule a task.
        """
        self._before_waiting = before_waiting
        if self.in_place is not None:
            self.in_place.attend(fd, take)

    def at_end(self, send: Callable[[], None]) -> None:
        """Has `send` called, once, when the tasks of this turn have run.

        It must not raise, nor reschedule a task: trio has decided already how long it will wait.
        """
        self._pending.append(send)

    def send(self) -> bool:
        """Sends what is queued; True where the turns before have sent little at a time."""
        if self._pending:
            self.sent_buffers = self.sent_bytes = 0
            pending, self._pending = self._pending, []
            for send in pending:
                try:
                    send()
                except Exception:  # noqa: BLE001  # trio would take the instrument away
                    _log.exception("sending failed")
            small = self.sent_buffers <= FEW_BUFFERS and self.sent_bytes <= FEW_BYTES
            self._small_turns = self._small_turns + 1 if small else 0
        return self._small_turns >= SMALL_TURNS

    def before_io_wait(self, timeout: float) -> None:
        """What trio calls; `timeout` is how long it is going to wait for I/O."""
        try:
            self._before_waiting()
        except Exception:  # noqa: BLE001  # trio would take the instrument away: nothing is sent then
            _log.exception("what is done before waiting failed")
        few = self.send()
        if self.in_place is not None and timeout > 0:
            self._waiting_since_ns = time.monotonic_ns()
            self._short.poll_through(self._loop_poll, few=few)

    def after_io_wait(self, timeout: float) -> None:
        """What trio calls when it has waited."""
        if self.in_place is not None:
            if self._waiting_since_ns:
                self._short.note(time.monotonic_ns() - self._waiting_since_ns)
                self._waiting_since_ns = 0
            self.in_place.begin()


_current: Final = trio.lowlevel.RunVar[Turn]("nvmf_tcp.turn")


def poll_short_waits() -> Turn | None:
    """Has the running event loop poll through short waits: for programs that do nothing but I/O.

    What is returned lets the program take work from another descriptor at the ends of its turns;
    None where it has none.
    """
    turn = Turn.current()
    if turn is not None:
        turn.poll_short_waits()
    return turn
