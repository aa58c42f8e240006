"""The first SIGTERM or SIGINT asks for an orderly end, the second ends the process at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(stop: trio.Event, last_words: Callable[[], None]) -> Iterator[None]:
    """Sets `stop` at the first signal; at the second calls `last_words` and exits with 1.

    The second is handled in the signal handler itself: the event loop may be what hangs.
    """
    token = trio.lowlevel.current_trio_token()
    seen = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            token.run_sync_soon(stop.set)
            return
        try:
            last_words()
        finally:
            os._exit(1)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
