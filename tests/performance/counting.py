"""Counts what an operation takes that does not depend on the machine.

steps           turns that trio's tasks get: every one is a rescheduling, an outcome, a context
tasks           tasks made
waits           times that the event loop asks the kernel what is ready
sends, receives system calls on sockets
objects         events, cancel scopes and nurseries made
calls           calls of functions, those written in C included: what Python's time goes into
"""

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import attrs
import pytest
import trio

_SENDS: Final = ("send", "sendall", "sendmsg", "sendto", "sendmsg_afalg")
_RECEIVES: Final = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")


@attrs.define(eq=False)
class Counts:
    """What was counted."""

    total: Counter[str] = attrs.field(factory=Counter)
    #: The objects whose memory was sent and received from and into, with the bytes.
    sent: list[tuple[object, int]] = attrs.field(factory=list)
    received: list[tuple[object, int]] = attrs.field(factory=list)

    def check(self, operations: int, bounds: dict[str, float]) -> None:
        """Holds the counts of so many operations against bounds for one."""
        each = {name: self.total[name] / operations for name in bounds}
        too_many = {name: count for name, count in each.items() if count > bounds[name]}
        assert not too_many, f"of one operation: {too_many}; allowed: {bounds}"

    def bytes_elsewhere(self, moved: list[tuple[object, int]], places: list[object]) -> int:
        """How many of the bytes that were moved are not in one of these objects."""
        # By identity: equal buffers at different places are what this is about.
        known = {id(place) for place in places}
        return sum(count for place, count in moved if id(place) not in known)


class _Steps(trio.abc.Instrument):
    def __init__(self, total: Counter[str]) -> None:
        self._total = total

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._total["steps"] += 1

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        del task
        self._total["tasks"] += 1

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self._total["waits"] += 1


@contextlib.contextmanager
def counting(*, calls: bool = False) -> Iterator[Counts]:
    """Counts while the block lasts; with `calls` functions as well, which takes its time."""
    counts = Counts()
    steps = _Steps(counts.total)
    with pytest.MonkeyPatch.context() as patch:
        _count_sockets(patch, counts)
        for kind in (trio.Event, trio.CancelScope):
            _count_made(patch, kind, counts.total)
        _count_nurseries(patch, counts.total)
        trio.lowlevel.add_instrument(steps)
        if calls:
            sys.setprofile(_profiler(counts.total))
        try:
            yield counts
        finally:
            sys.setprofile(None)
            trio.lowlevel.remove_instrument(steps)


def _profiler(total: Counter[str]) -> Callable[[FrameType, str, Any], None]:
    def profile(_frame: FrameType, what: str, _argument: Any) -> None:
        if what in {"call", "c_call"}:
            total["calls"] += 1

    return profile


def _count_sockets(patch: pytest.MonkeyPatch, counts: Counts) -> None:
    for name in _SENDS:
        _count_socket(patch, name, "sends", counts.total, counts.sent)
    for name in _RECEIVES:
        _count_socket(patch, name, "receives", counts.total, counts.received)


def _count_socket(
    patch: pytest.MonkeyPatch,
    name: str,
    what: str,
    total: Counter[str],
    moved: list[tuple[object, int]],
) -> None:
    original = getattr(socket.socket, name)

    def counted(self: socket.socket, first: Any, *more: Any) -> Any:
        total[what] += 1
        result = original(self, first, *more)
        buffers = first if isinstance(first, list | tuple) else [first]
        left = result if isinstance(result, int) else 0
        for buffer in buffers:
            if isinstance(buffer, int):
                break
            view = memoryview(buffer)
            moved.append((view.obj, min(left, view.nbytes)))
            left -= min(left, view.nbytes)
        return result

    patch.setattr(socket.socket, name, counted)


def _count_made(patch: pytest.MonkeyPatch, kind: type, total: Counter[str]) -> None:
    original = kind.__init__  # type: ignore[misc]  # of exactly this class

    def counted(self: object, *arguments: Any, **keywords: Any) -> None:
        total["objects"] += 1
        original(self, *arguments, **keywords)

    patch.setattr(kind, "__init__", counted)


def _count_nurseries(patch: pytest.MonkeyPatch, total: Counter[str]) -> None:
    original = trio.open_nursery

    def counted(*arguments: Any, **keywords: Any) -> Any:
        total["objects"] += 1
        return original(*arguments, **keywords)

    patch.setattr(trio, "open_nursery", counted)
