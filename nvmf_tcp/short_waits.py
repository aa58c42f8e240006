"""Polls through waits that are expected to be short, instead of sleeping in them.

A processor that sleeps takes its time to wake, in a virtual machine tens of microseconds: at queue
depth 1 each command meets four such waits, in three processes.  Polling made half as many commands
again at the host, and with the controller polling as well twice as many, at the same cost each.

It is done where the last waits were short and little was sent at a time, so that an idle program,
one whose peer is far away, and one with many commands under way sleep as ever.  Between two looks
the processor is offered to whoever else wants it.
"""

import os
import time
from collections.abc import Callable
from typing import Final, Protocol

import attrs

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


class Poll(Protocol):
    """What is waited in: `select.poll`."""

    def poll(self, timeout: int, /) -> list[tuple[int, int]]:
        """What is ready, by descriptor; waits for milliseconds."""


@attrs.define(eq=False)
class ShortWaits:
    """Decides before each wait whether to poll through it, from the waits before it."""

    _clock_ns: Callable[[], int] = attrs.field(alias="clock_ns", default=time.monotonic_ns)
    _let_others_run: Callable[[], None] = attrs.field(
        alias="let_others_run", default=os.sched_yield
    )
    _streak: int = attrs.field(init=False, default=0)

    def poll_through(self, poll: Poll, *, few: bool) -> list[tuple[int, int]] | None:
        """What was found within a moment, nothing at the end of it; None: sleep in this wait.

        `few`: little was sent at a time lately.
        """
        if self._streak < STREAK or not few:
            return None
        clock_ns, let_others_run = self._clock_ns, self._let_others_run
        look = poll.poll
        ends_ns = clock_ns() + LIMIT_NS
        while True:
            found = look(0)
            if found:
                return found
            if clock_ns() >= ends_ns:
                self._streak = 0
                return found
            let_others_run()

    def note(self, slept_ns: int) -> None:
        """A wait that was not polled through, or not to its end, took so long."""
        self._streak = self._streak + 1 if slept_ns < LIMIT_NS else 0
