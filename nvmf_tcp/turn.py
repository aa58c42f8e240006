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
from collections.abc import Callable
from typing import Final

import trio

SWITCH: Final = "NVMF_SENDING_TASKS"

_log = logging.getLogger(__name__)


class Turn(trio.abc.Instrument):
    """The drivers of one event loop that have something to send."""

    def __init__(self) -> None:
        self._pending: list[Callable[[], None]] = []

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

    def at_end(self, send: Callable[[], None]) -> None:
        """Has `send` called, once, when the tasks of this turn have run.

        It must not raise, nor reschedule a task: trio has decided already how long it will wait.
        """
        self._pending.append(send)

    def before_io_wait(self, timeout: float) -> None:
        """What trio calls; `timeout` is how long it is going to wait for I/O."""
        if self._pending:
            pending, self._pending = self._pending, []
            for send in pending:
                try:
                    send()
                except Exception:  # noqa: BLE001  # trio would take the instrument away
                    _log.exception("sending failed")


_current: Final = trio.lowlevel.RunVar[Turn]("nvmf_tcp.turn")
