"""How much the data path takes, and how it ends."""

import errno
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from fusedev import data_path
from fusedev.daemon import _Serving
from fusedev.data_path import BURST
from fusedev.handles import Usage
from nvmf_transport import heap
from nvmf_transport.wire import Buffer

from .data_stage import HANDLE, FakeFile, FakeLaunch, FakeLoop, Stage, running
from .kernel import GETATTR, answer, playing, written


async def test_what_is_too_much_stays_with_the_kernel_until_there_is_room(monkeypatch):
    monkeypatch.setattr(data_path, "MOST_REQUESTS", BURST)
    for launching in (True, False):
        async with running(launching=launching) as stage:
            for number in range(3 * BURST):
                stage.kernel.read(HANDLE, number * 512, 512)
            await stage.settle()
            assert len(stage.file.calls) == BURST
            stage.loop.before_waiting()
            assert stage.loop.take() == 0
            if launching:
                for launch in stage.file.launches[:10]:
                    launch.end()
                await stage.settle()
                assert BURST < len(stage.file.calls) <= 2 * BURST
                while len(stage.file.launches) < 3 * BURST:
                    for launch in stage.file.launches:
                        if launch.request.on_end is not None:
                            launch.end()
                    await stage.settle()
                for launch in stage.file.launches:
                    if launch.request.on_end is not None:
                        launch.end()
            else:
                stage.file.gate.set()
            await stage.settle()
            assert len(stage.file.calls) == 3 * BURST
            stage.idle()


async def test_requests_with_tasks_count_once(monkeypatch):
    """Twice, and half as many that wait would keep all else from being seen."""
    monkeypatch.setattr(data_path, "MOST_REQUESTS", 10)

    class Counted(FakeFile):
        async def read(self, offset: int, length: int) -> Buffer:
            self.usage.requests += 1
            try:
                return await FakeFile.read(self, offset, length)
            finally:
                self.usage.requests -= 1

    async with running(launching=False) as stage:
        stage.data._files = {HANDLE: Counted(stage.usage, launching=False)}
        for _ in range(9):
            stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        stage.kernel.request(GETATTR)
        await stage.settle()
        assert len(stage.kernel.passed_on()) == 1


async def test_draining_takes_no_more_and_waits_for_what_was_taken():
    async with running() as stage:
        first = stage.kernel.read(HANDLE, 0, 512)
        passed = stage.kernel.request(GETATTR)
        await stage.settle()
        drained = trio.Event()

        async def drain() -> None:
            await stage.data.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await trio.sleep(0.03)
            stage.kernel.read(HANDLE, 0, 512)
            await trio.sleep(0.03)
            assert len(stage.file.launches) == 1
            assert not drained.is_set()
            stage.file.launches[0].end()
            await trio.sleep(0.03)
            assert not drained.is_set(), "pyfuse3 has one"
            stage.kernel.theirs.send(answer(passed))
            with trio.fail_after(5):
                await drained.wait()
        assert stage.kernel.waiting() == [answer(first, b"r" * 512), answer(passed)]
        assert len(stage.file.launches) == 1


def _instead(results: list[Any], otherwise: Callable[[memoryview], int | None]) -> Any:
    def read_into(buffer: memoryview) -> int | None:
        if results:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
        return otherwise(buffer)

    return read_into


async def test_a_request_that_was_withdrawn_hides_no_other():
    async with running() as stage:
        device = stage.kernel.device
        device.read_into = _instead(
            [FileNotFoundError(errno.ENOENT, ""), FileNotFoundError(errno.ENOENT, "")],
            device.read_into,
        )
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        assert len(stage.file.launches) == 1


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
async def test_the_end_of_the_mount_is_told_while_requests_wait(number):
    async with running() as stage:
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        stage.file.launching = False
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        stage.kernel.device.read_into = partial(_raise, OSError(number, "gone"))
        stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        assert stage.gone.is_set()
        assert stage.loop.take() == 0
        # They end as ever, later.
        assert stage.file.waiting == 1
        stage.file.launches[0].end()
        stage.file.gate.set()
        assert len(await stage.settle()) == 2
        stage.idle()


def _raise(error: Exception, _: bytearray) -> int:
    raise error


async def test_any_other_error_of_the_device_ends_it():
    async def fail() -> None:
        async with running() as stage:
            stage.kernel.device.read_into = partial(_raise, OSError(errno.EINVAL, "on purpose"))
            stage.kernel.read(HANDLE, 0, 512)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await fail()
    assert raised.group_contains(OSError, match="on purpose")


async def test_a_request_that_ends_after_the_data_path_has_ended_hurts_nobody():
    async with running() as stage:
        stage.kernel.read(HANDLE, 0, 512)
        stage.kernel.write(HANDLE, 0, b"x" * 512)
        stage.kernel.write(HANDLE, 0, b"x" * 512)
        await stage.settle()
        well, not_well, unforeseen = stage.file.launches
    not_well.concludes = False
    unforeseen.unforeseen = ValueError("on purpose")
    well.end()
    not_well.end()
    logging.disable()
    try:
        unforeseen.end()
    finally:
        logging.disable(logging.NOTSET)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.data._under_way == 0
    assert stage.loop.take() == 0
    stage.loop.before_waiting()


async def test_nothing_is_taken_once_it_has_ended():
    """The event loop has been told of the device, and goes on looking."""
    async with running() as stage:
        stage.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        stage.kernel.read(HANDLE, 0, 512)
        assert stage.loop.take() == 0
        assert not stage.file.launches


async def test_one_that_needs_a_task_while_the_data_path_ends_hurts_nobody():
    """In the very turn in which its last task has ended."""
    for turns in range(6):
        async with running() as stage:
            stage.kernel.read(HANDLE, 0, 512)
            await stage.settle()
            [launch] = stage.file.launches
            launch.concludes = False
            stage.file.gate.set()

            async def end(launch: FakeLaunch = launch, turns: int = turns) -> None:
                with trio.CancelScope(shield=True):
                    for _ in range(turns):
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    launch.end()

            trio.lowlevel.spawn_system_task(end)
        await trio.testing.wait_all_tasks_blocked()
        assert stage.data._under_way == 0


async def test_the_data_path_is_drained_although_pyfuse3_has_ended():
    """By an error of its own: those who wait for data are to get their answers all the same."""
    async with running() as stage:
        serving = _Serving(trio.Event())
        serving.data = stage.data
        serving._ended.set()
        unique = stage.kernel.read(HANDLE, 0, 512)
        await stage.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.drain)
            await trio.sleep(0.02)
            assert len(nursery.child_tasks) == 1
            stage.file.launches[0].end()
        assert stage.kernel.waiting() == [answer(unique, b"r" * 512)]


@pytest.mark.usefixtures("quiet")
async def test_an_error_of_the_device_that_nobody_foresaw_is_told_by_its_own_name():
    def broken(buffer: memoryview) -> int:
        raise OSError(errno.EIO, "on purpose")

    with playing() as kernel:
        usage = Usage()
        stage = Stage(kernel, FakeFile(usage), usage, FakeLoop())
        kernel.device.read_into = broken
        stop = trio.Event()
        serving = _Serving(stop)
        await serving.serve_data(stage.data)
        assert stop.is_set()
        assert str(serving.error) == "[Errno 5] on purpose"


async def test_a_write_that_there_is_no_memory_for_fails_alone(monkeypatch):
    """Its buffer was given away by then, and there is no other to read the next request into."""
    make, missing = heap.fresh, [True]

    def fresh(length_bytes: int) -> bytearray:
        if missing and missing.pop():
            raise MemoryError("on purpose")
        return make(length_bytes)

    async with running() as stage:
        monkeypatch.setattr(heap, "fresh", fresh)
        long = stage.kernel.write(HANDLE, 0, b"a" * (64 << 10))
        short = stage.kernel.write(HANDLE, 0, b"b" * 4096)
        other = stage.kernel.request(GETATTR, bytes(16))
        logging.disable()
        try:
            assert await stage.settle() == [answer(long, error=errno.EIO)]
        finally:
            logging.disable(logging.NOTSET)
        assert [bytes(launch.data) for launch in stage.file.launches] == [b"b" * 4096]
        stage.file.launches[0].end()
        assert stage.kernel.waiting() == [written(short, 4096)]
        [passed_on] = stage.kernel.passed_on()
        assert int.from_bytes(passed_on[8:16], sys.byteorder) == other
        stage.idle()


async def test_whoever_takes_requests_in_passing_sees_no_error(monkeypatch):
    """No memory: whoever receives has nothing to do with it, and the task finds it again."""

    def fresh(length_bytes: int) -> bytearray:
        raise MemoryError("on purpose")

    async with running() as stage:
        monkeypatch.setattr(heap, "fresh", fresh)
        stage.kernel.device.longest_write_bytes *= 2
        assert stage.loop.take() == 0
        monkeypatch.undo()
        stage.kernel.read(HANDLE, 0, 512)
        assert stage.loop.take() == 1
