"""A thread that looks at this daemon's own mount, and does not keep it alive.

A thread that waits in the kernel for an answer of ours cannot die before it has one, not even of
SIGKILL; and while it lives, so do the descriptors that it shares with the rest of the process.  Of
a killed daemon /dev/fuse would stay open, the kernel would not take the mount for dead, and whoever
looks at it would hang.  So this thread has descriptors of its own (unshare(2)), since before there
was a mount.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import outcome
import trio

from . import libc

_log = logging.getLogger(__name__)

_ResultT = TypeVar("_ResultT")
_Call = tuple[Callable[[], Any], Callable[[outcome.Outcome[Any]], None]]


@attrs.define(eq=False)
class Bystander:
    """The thread, which ends with the process; to be made before the mount, in the event loop.

    The loop's own descriptors, by which it is woken, are among those that the thread has.
    """

    _token: trio.lowlevel.TrioToken = attrs.field(
        init=False, factory=trio.lowlevel.current_trio_token
    )
    _calls: queue.SimpleQueue[_Call] = attrs.field(init=False, factory=queue.SimpleQueue)

    def __attrs_post_init__(self) -> None:
        ready = threading.Event()
        threading.Thread(
            target=self._run, args=(ready,), name="fusedev bystander", daemon=True
        ).start()
        ready.wait()

    async def run(self, call: Callable[[], _ResultT]) -> _ResultT:
        """Returns what `call` does in the thread, after the calls before it.

        A cancelled call is not waited for, and is made all the same.
        """
        done = trio.Event()
        results: list[outcome.Outcome[_ResultT]] = []

        def take(result: outcome.Outcome[_ResultT]) -> None:
            results.append(result)
            done.set()

        def deliver(result: outcome.Outcome[_ResultT]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(take, result)

        self._calls.put((call, deliver))
        await done.wait()
        return results[0].unwrap()

    def _run(self, ready: threading.Event) -> None:
        try:
            libc.unshare_descriptors()
        except OSError as error:
            _log.info("the thread that looks at the mount shares descriptors: %s", error)
        ready.set()
        while True:
            call, deliver = self._calls.get()
            deliver(outcome.capture(call))
