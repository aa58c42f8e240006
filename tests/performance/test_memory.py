"""Bytes copied and memory held by one I/O, and their bounds; the same on every machine.

Both ends are in one process, so a megabyte of the controller's counts as well: what a RAM disk
returns is a copy, by promise, and data asked for by R2T is received into memory of its own.
"""

import gc
import sys
import tracemalloc
from typing import Final

import pytest
import trio

from nvmf_host.namespace import Namespace
from nvmf_transport.loop import LoopTransport

from .counting import counting
from .stage import KIB, MIB, stage

#: Heads, and what of the data comes along with them.
_HEADS_BYTES: Final = 4 * KIB
#: What a request and all that belongs to it may take beside its data.
_REQUEST_BYTES: Final = 64 * KIB
#: Blocks of memory (objects, mostly) that a read holds while it waits for its answer, its task and
#: the task's two coroutines included; and what a thousand may leave behind.
_BLOCKS_EACH: Final = 37
_BLOCKS_LEFT: Final = 100
_WAITING: Final = 64


async def _bytes_read_elsewhere(digests: bool) -> float:
    """Of a read of 1 MiB over TCP: bytes that are not received into what the caller gets."""
    count = 10
    async with stage("tcp", digests=digests) as here:
        await here.namespace.read(0, MIB)
        with counting() as counts:
            replies: list[object] = [await here.namespace.read(0, MIB) for _ in range(count)]
    return counts.bytes_elsewhere(counts.received, replies) / count


async def _bytes_written_elsewhere(digests: bool) -> float:
    """Of a write of 1 MiB over TCP: bytes that are not sent from what the caller gave."""
    count, data = 10, bytes(MIB)
    async with stage("tcp", digests=digests) as here:
        await here.namespace.write(0, data)
        with counting() as counts:
            for _ in range(count):
                await here.namespace.write(0, data)
    return counts.bytes_elsewhere(counts.sent, [data]) / count


async def _peak_bytes(kind: str, *, write: bool) -> int:
    """The most memory that one transfer of 1 MiB takes at a time."""
    data = bytes(MIB)
    async with stage(kind) as here:

        async def once() -> None:
            await (here.namespace.write(0, data) if write else here.namespace.read(0, MIB))

        await once()
        gc.collect()
        tracemalloc.start()
        try:
            await once()
            # A queue lets go of the last command's data when it receives the next command.
            await here.namespace.read(0, 4 * KIB)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            await once()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
async def test_a_long_read_is_received_into_the_reply(digests):
    assert await _bytes_read_elsewhere(digests) <= _HEADS_BYTES


@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
async def test_a_long_write_is_sent_from_where_it_is(digests):
    assert await _bytes_written_elsewhere(digests) <= _HEADS_BYTES


@pytest.mark.parametrize("kind", ["loop", "tcp"])
async def test_a_long_read_takes_the_reply_and_the_controllers_copy(kind):
    assert await _peak_bytes(kind, write=False) <= 2 * MIB + _REQUEST_BYTES


@pytest.mark.parametrize("kind", ["loop", "tcp"])
async def test_a_long_write_takes_what_the_controller_receives_it_into(kind):
    assert await _peak_bytes(kind, write=True) <= MIB + _REQUEST_BYTES


async def test_a_waiting_read_holds_few_objects_and_leaves_none():
    async with stage("loop") as here:
        assert isinstance(here.transport, LoopTransport)
        work = here.reads(4 * KIB)
        await here.repeat(work, 1024, 32)
        before = _blocks()
        async with trio.open_nursery() as nursery:
            for connection in here.transport.connections:
                connection.freeze()
            for number in range(_WAITING):
                nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
            held = (_blocks() - before) / _WAITING
            for connection in here.transport.connections:
                connection.thaw()
        await here.repeat(work, 1024, 32)
        left = _blocks() - before
    assert held <= _BLOCKS_EACH
    assert left <= _BLOCKS_LEFT


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


# That these bounds would be missed.


async def test_a_copy_of_what_is_read_is_seen(monkeypatch):
    read = Namespace.read

    async def copying(self: Namespace, offset: int, length: int) -> bytes:
        return bytes(await read(self, offset, length))

    monkeypatch.setattr(Namespace, "read", copying)
    assert await _bytes_read_elsewhere(digests=False) > MIB // 2
    # It is made when the controller's is gone: the peak need not show it.


async def test_a_copy_of_what_is_written_is_seen(monkeypatch):
    write = Namespace.write

    async def copying(self: Namespace, offset: int, data: bytes) -> int:
        return await write(self, offset, bytes(bytearray(data)))

    monkeypatch.setattr(Namespace, "write", copying)
    assert await _bytes_written_elsewhere(digests=False) > MIB // 2
    assert await _peak_bytes("loop", write=True) > MIB + _REQUEST_BYTES
