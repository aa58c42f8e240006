"""What one I/O takes, in counts that are the same on every machine, and their bounds.

A bound is what it takes today, with a little room where the kernel or a task in the background has
a say.  Whoever makes I/O cheaper lowers it; whoever has to raise it says in the commit for what.
Both ends are in one event loop, so that the counts are of the host and the controller together.
"""

from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest
import trio

from nvmf_host.namespace import Namespace
from nvmf_tcp.qpair import TcpHostQueuePair

from .counting import counting
from .stage import KIB, MIB, Stage, Work, stage

#: Tasks in the background (Keep Alive, the age of commands) come in between once a second.
_ROOM: Final = 0.1


@attrs.frozen
class Case:
    """Work, how much of it, and what one operation may take."""

    transport: str
    work: Callable[[Stage], Work]
    depth: int
    count: int
    #: Turns of trio's tasks, and times that the kernel is asked what is ready.
    steps: float
    waits: float
    #: System calls.  On the transport in memory there are none.
    sends: float
    receives: float
    #: Tasks; events, cancel scopes and nurseries.
    tasks: float
    objects: float
    #: Of functions.  Python 3.11's count: later versions inline some, and count fewer.
    calls: float

    @property
    def bounds(self) -> dict[str, float]:
        return {
            "steps": self.steps + _ROOM,
            "waits": self.waits + _ROOM,
            "sends": self.sends + _ROOM,
            "receives": self.receives + _ROOM,
            "tasks": self.tasks + _ROOM,
            "objects": self.objects + _ROOM,
        }


def _read(length: int) -> Callable[[Stage], Work]:
    return lambda stage: stage.reads(length)


def _write(length: int, *, shift: int = 0) -> Callable[[Stage], Work]:
    return lambda stage: stage.writes(length, shift=shift)


CASES: Final = {
    # In memory, one at a time: the controller's task that receives is woken, then the host's, then
    # the one that waits.  Each is a turn of its own, because nothing else is ready.
    "loop, read 4 KiB": Case("loop", _read(4 * KIB), 1, 200, 3, 3, 0, 0, 0, 0, 285),
    "loop, write 4 KiB": Case("loop", _write(4 * KIB), 1, 200, 3, 3, 0, 0, 0, 0, 297),
    # A read of the blocks at both edges, side by side with nothing, before the write: twice more.
    "loop, write 4 KiB unaligned": Case(
        "loop", _write(4 * KIB, shift=100), 1, 100, 9, 9, 0, 0, 0, 0, 880
    ),
    # As long as the data comes in the capsule, its length makes no difference.
    "loop, write 1 MiB": Case("loop", _write(MIB), 1, 20, 3, 3, 0, 0, 0, 0, 303),
    # Many at a time: whoever receives takes all that is there in one turn, so that what is left is
    # a turn for each task that waits.
    "loop, read 4 KiB, 32 of them": Case(
        "loop", _read(4 * KIB), 32, 1024, 1.15, 0.1, 0, 0, 0, 0, 147
    ),
    "loop, write 4 KiB, 32 of them": Case(
        "loop", _write(4 * KIB), 32, 1024, 1.15, 0.1, 0, 0, 0, 0, 158
    ),
    # Over sockets, one at a time: a sendmsg and a recv at each end, and nobody looks in vain.
    "tcp, read 4 KiB": Case("tcp", _read(4 * KIB), 1, 200, 3, 3, 2, 2, 0, 0, 397),
    "tcp, write 4 KiB": Case("tcp", _write(4 * KIB), 1, 200, 3, 3, 2, 2, 0, 0, 414),
    # The data takes its recvs, and the capsule one: how many pieces, the kernel decides.
    "tcp, read 1 MiB": Case("tcp", _read(MIB), 1, 40, 4, 4, 3, 6, 0, 0, 530),
    "tcp, write 1 MiB": Case("tcp", _write(MIB), 1, 40, 4, 4, 3, 6, 0, 0, 530),
    # Many at a time: one system call carries what many of them have to say.
    "tcp, read 4 KiB, 32 of them": Case(
        "tcp", _read(4 * KIB), 32, 1024, 1.3, 0.2, 0.15, 0.2, 0, 0, 142
    ),
    "tcp, write 4 KiB, 32 of them": Case(
        "tcp", _write(4 * KIB), 32, 1024, 1.3, 0.2, 0.15, 0.2, 0, 0, 163
    ),
}


async def _check(case: Case) -> None:
    async with stage(case.transport) as here:
        work = case.work(here)
        # What is made at the first time is not made again.
        await here.repeat(work, 2 * case.depth, case.depth)
        with counting() as counts:
            await here.repeat(work, case.count, case.depth)
        with counting(calls=True) as profile:
            await here.repeat(work, case.count, case.depth)
    counts.check(case.count, case.bounds)
    profile.check(case.count, {"calls": case.calls})


@pytest.mark.parametrize("name", CASES)
async def test_an_operation_takes_no_more_than_its_bounds(name):
    await _check(CASES[name])


# That these bounds would be missed.


async def test_an_await_too_many_is_seen(monkeypatch):
    read = Namespace.read

    async def slower(self: Namespace, *arguments: Any, **keywords: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return await read(self, *arguments, **keywords)

    monkeypatch.setattr(Namespace, "read", slower)
    for name in ("loop, read 4 KiB", "tcp, read 4 KiB", "tcp, read 4 KiB, 32 of them"):
        with pytest.raises(AssertionError, match="'steps'"):
            await _check(CASES[name])


async def test_a_nursery_for_each_is_seen(monkeypatch):
    read = Namespace.read

    async def in_a_nursery(self: Namespace, *arguments: Any, **keywords: Any) -> Any:
        async with trio.open_nursery():
            return await read(self, *arguments, **keywords)

    monkeypatch.setattr(Namespace, "read", in_a_nursery)
    with pytest.raises(AssertionError, match="'objects'"):
        await _check(CASES["loop, read 4 KiB, 32 of them"])


async def test_a_function_called_for_each_byte_of_a_head_is_seen(monkeypatch):
    transmit = TcpHostQueuePair.transmit

    def slower(self: TcpHostQueuePair, capsule: Any) -> None:
        assert sum(byte for byte in capsule.sqe) == sum(capsule.sqe)
        transmit(self, capsule)

    monkeypatch.setattr(TcpHostQueuePair, "transmit", slower)
    with pytest.raises(AssertionError, match="'calls'"):
        await _check(CASES["tcp, read 4 KiB"])


async def test_a_system_call_too_many_is_seen(monkeypatch):
    transmit = TcpHostQueuePair.transmit

    def at_once(self: TcpHostQueuePair, capsule: Any) -> None:
        transmit(self, capsule)
        sock = self.driver._sock
        for buffer in self._connection.data_to_send():
            self._connection.bytes_sent(sock.send(buffer))

    monkeypatch.setattr(TcpHostQueuePair, "transmit", at_once)
    with pytest.raises(AssertionError, match="'sends'"):
        await _check(CASES["tcp, read 4 KiB, 32 of them"])
