"""Reads, writes and fsyncs, from the kernel's requests to its answers."""

import ctypes
import errno
import mmap
import os
import sys
from typing import Final

import pytest

from fusedev.data_path import BURST, SENT_TOGETHER
from nvmf_host.errors import EndOfNamespaceError, KilledError, ReadOnlyError, UnflushedLostError
from nvmf_transport.errors import NamespaceGoneError, NvmfError

from .data_stage import HANDLE, running
from .kernel import (
    BATCH_FORGET,
    FORGET,
    GETATTR,
    INIT,
    INTERRUPT,
    BatchForgetIn,
    ForgetIn,
    ForgetOne,
    InitOut,
    answer,
    written,
)

KIB: Final = 1024
MIB: Final = 1024 * KIB


# Requests without a task.


async def test_a_read_is_answered_when_its_response_comes_and_takes_no_task():
    async with running() as stage:
        unique = stage.kernel.read(HANDLE, 3 << 32 | 512, 4 * KIB)
        assert await stage.settle() == []
        assert stage.file.calls == [("launch read", 3 << 32 | 512, 4 * KIB)]
        assert stage.usage.requests == 1
        stage.file.launches[0].end()
        assert stage.kernel.waiting() == [answer(unique, b"r" * 4 * KIB)], "at once"
        assert await stage.settle() == []
        stage.idle()


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_DIRECT])
@pytest.mark.parametrize("length", [1, 512, 32 * KIB - 1, 32 * KIB, 100 * KIB])
async def test_a_write_is_answered_when_its_response_comes(length, flags):
    data = bytes(range(251)) * (length // 251 + 1)
    async with running() as stage:
        unique = stage.kernel.write(HANDLE, 8192, data[:length], flags)
        assert await stage.settle() == []
        assert stage.file.calls == [("launch write", 8192, data[:length], False)]
        assert stage.usage.write_bytes == length
        stage.file.launches[0].end()
        assert stage.kernel.waiting() == [written(unique, length)]
        stage.idle()


@pytest.mark.parametrize("launching", [True, False])
@pytest.mark.parametrize("flags", [os.O_DSYNC, os.O_SYNC, os.O_RDWR | os.O_DSYNC | os.O_APPEND])
async def test_a_synchronous_write_is_fua(flags, launching):
    async with running(launching=launching) as stage:
        unique = stage.kernel.write(HANDLE, 0, b"x" * 512, flags)
        assert await stage.settle() == []
        [(_, _, _, fua)] = stage.file.calls
        assert fua
        stage.file.gate.set()
        if launching:
            # What an fsync would have to tell, the task does.
            stage.file.launches[0].end()
            assert stage.kernel.waiting() == []
        assert await stage.settle() == [written(unique, 512)]
        stage.idle()


@pytest.mark.usefixtures("quiet")
async def test_a_fua_write_tells_what_was_lost_before():
    async with running() as stage:
        stage.file.late_error = UnflushedLostError("x")
        unique = stage.kernel.write(HANDLE, 0, b"x" * 512, os.O_DSYNC)
        await stage.settle()
        stage.file.gate.set()
        stage.file.launches[0].end()
        assert await stage.settle() == [answer(unique, error=errno.EIO)]
        stage.idle()


async def test_no_write_changes_the_data_of_another_that_is_under_way():
    lengths = [512, 40 * KIB, 100, 64 * KIB, 32 * KIB, 33 * KIB, 1, 100 * KIB, 4096]
    payloads = [bytes([number + 1]) * length for number, length in enumerate(lengths)]
    async with running() as stage:
        uniques = []
        for payload in payloads:
            uniques.append(stage.kernel.write(HANDLE, 0, payload))
            await stage.settle()
        stage.kernel.read(HANDLE, 0, 1)
        await stage.settle()
        assert [launch.data for launch in stage.file.launches[:-1]] == payloads
        for launch in stage.file.launches[:-1]:
            assert memoryview(launch.data).readonly
        # In another order than they came.
        for launch in reversed(stage.file.launches[:-1]):
            launch.end()
        expected = zip(reversed(uniques), reversed(lengths), strict=True)
        assert stage.kernel.waiting() == [written(unique, length) for unique, length in expected]


@pytest.mark.parametrize("length", [512, 32 * KIB, 100 * KIB])
@pytest.mark.parametrize("launching", [True, False])
async def test_a_write_that_waits_holds_little_more_than_its_data(length, launching):
    """It may be remembered for long, until a Flush: a whole buffer for each would be far more."""
    async with running(launching=launching) as stage:
        stage.kernel.write(HANDLE, 0, b"x" * length)
        await stage.settle()
        [(_, _, data, _)] = stage.file.calls
        holder = memoryview(data).obj
        assert memoryview(data).nbytes == length
        assert sys.getsizeof(holder) <= length + 5 * KIB
        assert holder is not stage.data._buffer


@pytest.mark.parametrize("launching", [True, False])
async def test_long_data_begins_with_a_page_whatever_came_before_it(launching):
    """The kernel copies it in half as many pieces."""
    async with running(launching=launching) as stage:
        for length in (32 * KIB, 512, 100 * KIB, 33 * KIB, MIB, MIB):
            stage.kernel.write(HANDLE, 0, b"x" * length)
        await stage.settle()
        datas = [memoryview(data) for _, _, data, _ in stage.file.calls]
        assert sorted(data.nbytes for data in datas) == [512, 32768, 33792, 102400, MIB, MIB]
        assert all(data == b"x" * data.nbytes for data in datas)
        assert [begins_in_page(data) for data in datas if data.nbytes > 512] == [0] * 5


def begins_in_page(data: memoryview) -> int:
    """What is kept is the end of its buffer."""
    holder = data.obj
    assert isinstance(holder, bytearray)
    start = len(holder) - data.nbytes
    return (ctypes.addressof(ctypes.c_char.from_buffer(holder)) + start) % mmap.PAGESIZE


async def test_a_burst_is_sent_in_parts_and_taken_in_parts():
    async with running() as stage:
        uniques = [stage.kernel.read(HANDLE, number * 512, 512) for number in range(BURST + 10)]
        assert stage.loop.take() == BURST
        assert stage.loop.sends == list(range(SENT_TOGETHER, BURST + 1, SENT_TOGETHER))
        assert stage.loop.take() == 10
        assert stage.loop.take() == 0
        assert [call[1] // 512 for call in stage.file.calls] == list(range(BURST + 10))
        for launch in stage.file.launches:
            launch.end()
        assert stage.kernel.waiting() == [answer(unique, b"r" * 512) for unique in uniques]
        stage.idle()


async def test_what_comes_after_an_answer_is_taken_before_the_loop_sleeps():
    async with running() as stage:
        stage.kernel.read(HANDLE, 0, 512)
        stage.loop.take()
        stage.kernel.read(HANDLE, 512, 512)
        stage.loop.before_waiting()
        assert len(stage.file.launches) == 1, "nobody was answered: it would look in vain"
        stage.file.launches[0].end()
        stage.loop.before_waiting()
        assert len(stage.file.launches) == 2
        stage.kernel.read(HANDLE, 512, 512)
        stage.loop.before_waiting()
        assert len(stage.file.launches) == 2


# Requests with a task.


async def test_what_cannot_be_launched_takes_a_task():
    async with running(launching=False) as stage:
        uniques = [
            stage.kernel.read(HANDLE, 1, 3),
            stage.kernel.write(HANDLE, 2, b"abc"),
            stage.kernel.fsync(HANDLE),
        ]
        assert await stage.settle() == []
        assert sorted(call[0] for call in stage.file.calls) == ["read", "sync", "write"]
        stage.file.gate.set()
        expected = [answer(uniques[0], b"rrr"), written(uniques[1], 3), answer(uniques[2])]
        assert sorted(await stage.settle()) == sorted(expected)
        stage.idle()


async def test_one_that_waits_for_its_lbas_is_seen_through():
    async with running(outstanding=False) as stage:
        uniques = [stage.kernel.read(HANDLE, 0, 512), stage.kernel.write(HANDLE, 0, b"x" * 512)]
        assert await stage.settle() == []
        assert stage.usage.requests == 2
        stage.file.gate.set()
        expected = [answer(uniques[0], b"r" * 512), written(uniques[1], 512)]
        assert sorted(await stage.settle()) == sorted(expected)
        assert not any(launch.concluded for launch in stage.file.launches)
        stage.idle()


async def test_one_that_does_not_just_succeed_is_seen_through():
    async with running() as stage:
        uniques = [stage.kernel.read(HANDLE, 0, 512), stage.kernel.write(HANDLE, 0, b"x" * 512)]
        await stage.settle()
        for launch in stage.file.launches:
            launch.concludes = False
            launch.end()
        assert await stage.settle() == []
        assert stage.usage.requests == 2
        stage.file.gate.set()
        expected = [answer(uniques[0], b"r" * 512), written(uniques[1], 512)]
        assert sorted(await stage.settle()) == sorted(expected)
        stage.idle()


# Errors.


@pytest.mark.parametrize("how", ["task", "seen through"])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NamespaceGoneError("x"), errno.ENXIO),
        (EndOfNamespaceError("x"), errno.ENOSPC),
        (ReadOnlyError("x"), errno.EROFS),
        (KilledError("x"), errno.EINTR),
        (NvmfError("x"), errno.EIO),
        (ValueError("unforeseen"), errno.EIO),
        (OSError(errno.ENOENT, "unforeseen"), errno.EIO),
    ],
)
@pytest.mark.usefixtures("quiet")
async def test_errors_are_errnos(how, error, number):
    async with running(launching=how != "task") as stage:
        stage.file.error = error
        uniques = [stage.kernel.read(HANDLE, 0, 512), stage.kernel.write(HANDLE, 0, b"x" * 512)]
        if how == "task":
            uniques.append(stage.kernel.fsync(HANDLE))
        await stage.settle()
        for launch in stage.file.launches:
            launch.concludes = False
            launch.end()
        stage.file.gate.set()
        expected = [answer(unique, error=number) for unique in uniques]
        assert sorted(await stage.settle()) == sorted(expected)
        stage.idle()
        # And others are served as before.
        stage.file.error = None
        unique = stage.kernel.read(HANDLE, 0, 1)
        await stage.settle()
        if how != "task":
            stage.file.launches[-1].end()
            assert stage.kernel.waiting() == [answer(unique, b"r")]


@pytest.mark.parametrize("what", ["conclude", "wrote"])
@pytest.mark.usefixtures("quiet")
async def test_what_nobody_has_foreseen_does_not_reach_whoever_takes_the_response(what):
    async with running() as stage:
        uniques = [stage.kernel.write(HANDLE, 0, b"x" * 512)]
        if what == "conclude":
            uniques.append(stage.kernel.read(HANDLE, 0, 512))
        else:
            stage.file.late_error = UnflushedLostError("x")
        await stage.settle()
        for launch in stage.file.launches:
            if what == "conclude":
                launch.unforeseen = ValueError("on purpose")
            launch.end()
        expected = [answer(unique, error=errno.EIO) for unique in uniques]
        assert await stage.settle() == expected
        stage.idle()


@pytest.mark.usefixtures("quiet")
async def test_an_unknown_handle_is_eio():
    async with running() as stage:
        uniques = [
            stage.kernel.read(HANDLE + 1, 0, 512),
            stage.kernel.write(HANDLE + 1, 0, b"x" * 512),
            stage.kernel.fsync(HANDLE + 1),
        ]
        expected = [answer(unique, error=errno.EIO) for unique in uniques]
        assert await stage.settle() == expected
        stage.idle()


# What is not data.


async def test_forgets_are_not_answered_and_interrupts_are_for_others():
    async with running() as stage:
        stage.kernel.request(FORGET, ForgetIn(nlookup=2**40), node=9)
        stage.kernel.request(
            BATCH_FORGET,
            BatchForgetIn(count=2),
            ForgetOne(nodeid=11, nlookup=1),
            ForgetOne(nodeid=2**33, nlookup=3),
            # More than it says.
            ForgetOne(nodeid=99, nlookup=1),
        )
        stage.kernel.request(INTERRUPT, (4).to_bytes(8, "little"))
        assert await stage.settle() == []
        assert stage.forgotten == [(9, 2**40), (11, 1), (2**33, 3)]
        assert stage.kernel.passed_on() == []
        stage.idle()


async def test_what_is_asked_about_nodes_is_answered_at_once():
    async with running() as stage:
        stage.told = b"size and times"
        unique = stage.kernel.request(GETATTR, b"body", node=2**33)
        assert await stage.settle() == [answer(unique, b"size and times")]
        stage.told = errno.ESTALE
        unique = stage.kernel.request(GETATTR, node=8)
        assert await stage.settle() == [answer(unique, error=errno.ESTALE)]
        assert stage.inquiries == [(GETATTR, 2**33, b"body"), (GETATTR, 8, b"")]
        assert stage.kernel.passed_on() == []
        stage.idle()


@pytest.mark.usefixtures("quiet")
async def test_an_inquiry_that_fails_gets_an_error_and_ends_nothing():
    async with running() as stage:
        # No answer has such a type.
        stage.told = [7]  # type: ignore[assignment]
        asked = stage.kernel.request(GETATTR)
        read = stage.kernel.read(HANDLE, 0, 512)
        assert await stage.settle() == [answer(asked, error=errno.EIO)]
        stage.file.launches[0].end()
        assert stage.kernel.waiting() == [answer(read, b"r" * 512)]
        stage.idle()


async def test_all_else_goes_to_pyfuse3_and_comes_back_while_others_wait():
    async with running(launching=False) as stage:
        for number in range(200):
            stage.kernel.write(HANDLE, 0, bytes([number]) * 512)
        uniques = [stage.kernel.request(GETATTR, b"body") for _ in range(6)]
        assert await stage.settle() == []
        assert stage.file.waiting == 200
        for unique in uniques:
            # It begins with the second, and goes on when that is answered.
            request = stage.kernel.theirs.recv(100)
            assert (request[8:16], request[40:]) == (unique.to_bytes(8, "little"), b"body")
            stage.kernel.theirs.send(answer(unique, b"attributes"))
            assert await stage.settle() == [answer(unique, b"attributes")]


async def test_there_is_room_for_the_longest_write_that_libfuse_has_agreed_upon():
    longest = 4 << 20
    offered: list[int] = []
    async with running() as stage:
        device = stage.kernel.device
        read_into = device.read_into

        def watched(buffer: memoryview) -> int | None:
            offered.append(len(buffer))
            return read_into(buffer)

        device.read_into = watched
        unique = stage.kernel.request(INIT, bytes(64))
        await stage.settle()
        stage.kernel.theirs.send(
            answer(unique, bytes(InitOut(major=7, max_background=12, max_write=longest)))
        )
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        stage.file.launches[0].end()
        await stage.settle()
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        stage.file.launches[1].end()
        stage.idle()
    assert offered[0] == 80 + (1 << 20)
    assert offered[-1] == 80 + longest
