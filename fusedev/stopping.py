"""The first SIGTERM or SIGINT asks for an orderly end, the second ends the process at once."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import trio

#: A signal within this time of the first is the same one: `timeout` sends it to the process and to
#: its group, and what wraps a command passes on a Ctrl-C that the terminal sends to all.
_SAME_S: Final = 0.2


def stop_on_signals(stop: trio.Event, last_words: Callable[[], None]) -> None:
    """Sets `stop` at the first signal; at the second calls `last_words` and exits with 1.

    The second is handled in the signal handler itself: the event loop may be what hangs.  The
    handlers stay to the end of the process, or a late signal would change its exit code.
    """
    token = trio.lowlevel.current_trio_token()
    first_at: float | None = None

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(stop.set)
        if now - first_at < _SAME_S:
            return
        try:
            last_words()
        finally:
            os._exit(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
