"""How far the processors are from each other, which in a virtual machine changes while it runs.

What one processor has written and another has read is in the caches of both, and writing it again
costs a message from one to the other.  Where the two share a cache that is a matter of tens of
nanoseconds, where they do not, of hundreds: long transfers between two processes then take twice
and three times as long.  A hypervisor moves processors about as it likes, every few seconds, so a
visit is only understood with the distance that was found just before it.
"""

import mmap
import os
import time
from typing import Final

_LOOK_NS: Final = 5_000_000
#: Messages between looks at the clock, or for the other process.
_BATCH: Final = 200
_THERE, _BACK, _END = 1, 0, 2


def round_trip_ns() -> float | None:
    """A byte's way to another process and back; None where there is but one processor.

    Some 100 ns of it are Python's.  Takes about ten milliseconds.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    parent = os.getpid()
    with mmap.mmap(-1, mmap.PAGESIZE) as shared:
        child = os.fork()
        if not child:
            try:
                _answer(shared, allowed[1], parent)
            finally:
                os._exit(0)
        os.sched_setaffinity(0, {allowed[0]})
        try:
            return _measure(shared)
        finally:
            os.sched_setaffinity(0, allowed)
            shared[0] = _END
            os.waitpid(child, 0)


def _measure(shared: mmap.mmap) -> float:
    """The best of some milliseconds: what interrupted it is not what is asked for."""
    best = float("inf")
    ends_ns = 0
    while True:
        begun_ns = time.monotonic_ns()
        for _ in range(_BATCH):
            shared[0] = _THERE
            while shared[0] == _THERE:
                pass
        now_ns = time.monotonic_ns()
        # The first ones wait for the other process to begin.
        if not ends_ns:
            ends_ns = now_ns + _LOOK_NS
            continue
        best = min(best, (now_ns - begun_ns) / _BATCH)
        if now_ns >= ends_ns:
            return best


def _answer(shared: mmap.mmap, processor: int, parent: int) -> None:
    os.sched_setaffinity(0, {processor})
    while os.getppid() == parent:
        for _ in range(_BATCH):
            message = shared[0]
            if message == _THERE:
                shared[0] = _BACK
            elif message == _END:
                return
