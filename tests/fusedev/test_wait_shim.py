"""The replacement of `trio` inside pyfuse3: its lock, its waiting, and when it is used."""

import os
import select
from collections.abc import Callable

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusedev import wait_shim


@pytest.fixture(autouse=True)
def stock_afterwards():
    yield
    pyfuse3.trio = trio  # type: ignore[attr-defined]


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_shim_is_installed_for_a_version_it_was_tried_with(monkeypatch):
    monkeypatch.delenv(wait_shim.SWITCH, raising=False)
    monkeypatch.setattr(pyfuse3, "__version__", "3.5.0")
    assert wait_shim.install()
    assert pyfuse3.trio is not trio  # type: ignore[attr-defined]


def test_stock_trio_stays_for_any_other_version(monkeypatch):
    monkeypatch.delenv(wait_shim.SWITCH, raising=False)
    monkeypatch.setattr(pyfuse3, "__version__", "99.0")
    assert not wait_shim.install()
    assert pyfuse3.trio is trio  # type: ignore[attr-defined]


def test_stock_trio_stays_where_the_environment_says_so(monkeypatch):
    monkeypatch.setenv(wait_shim.SWITCH, "1")
    assert not wait_shim.install()
    assert pyfuse3.trio is trio  # type: ignore[attr-defined]


def test_everything_else_is_trios(monkeypatch):
    monkeypatch.delenv(wait_shim.SWITCH, raising=False)
    wait_shim.install()
    seen = pyfuse3.trio  # type: ignore[attr-defined]
    assert seen.open_nursery is trio.open_nursery
    assert seen.ClosedResourceError is trio.ClosedResourceError
    assert seen.lowlevel.current_task is trio.lowlevel.current_task
    assert seen.lowlevel.notify_closing is trio.lowlevel.notify_closing


async def test_readable_descriptor_is_not_waited_for(pipe):
    reader, writer = pipe
    os.write(writer, b"x")
    ran = False

    def other() -> None:
        nonlocal ran
        ran = True

    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor())
    trio.lowlevel.current_trio_token().run_sync_soon(other)
    for _ in range(wait_shim.YIELD_EVERY - 1):
        await lowlevel.wait_readable(reader)
    assert not ran


async def test_other_tasks_run_every_few_dozen_requests(pipe):
    reader, writer = pipe
    os.write(writer, b"x")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(10 * wait_shim.YIELD_EVERY):
            await lowlevel.wait_readable(reader)
        nursery.cancel_scope.cancel()
    assert turns >= 8


async def test_unreadable_descriptor_is_waited_for(pipe):
    reader, writer = pipe
    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor())
    done = trio.Event()

    async def wait() -> None:
        await lowlevel.wait_readable(reader)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        os.write(writer, b"x")


async def test_a_descriptor_about_to_be_closed_ends_the_waiting(pipe):
    reader, _ = pipe
    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor())

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await lowlevel.wait_readable(reader)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        lowlevel.notify_closing(reader)


async def test_a_free_lock_is_taken_without_yielding():
    lock = wait_shim.Lock()
    ran = False

    def other() -> None:
        nonlocal ran
        ran = True

    trio.lowlevel.current_trio_token().run_sync_soon(other)
    for _ in range(1000):
        async with lock:
            pass
    assert not ran


@given(
    # For each task: how many times it takes the lock, holds it over how many turns of the loop,
    # works for how many outside it, and after how many turns it is cancelled (if at all).
    tasks=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.integers(0, 3),
            st.integers(0, 3),
            st.none() | st.integers(0, 12),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_one_task_at_a_time_holds_the_lock_and_none_is_left_waiting(tasks):
    holders = 0

    async def work(lock: wait_shim.Lock, times: int, held: int, outside: int) -> None:
        nonlocal holders
        for _ in range(times):
            async with lock:
                holders += 1
                assert holders == 1
                try:
                    for _ in range(held):
                        await trio.lowlevel.checkpoint()
                finally:
                    holders -= 1
            for _ in range(outside):
                await trio.lowlevel.checkpoint()

    async def cancelled(scope: trio.CancelScope, turns: int | None) -> None:
        if turns is not None:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()

    async def scoped(scope: trio.CancelScope, lock: wait_shim.Lock, *arguments: int) -> None:
        with scope:
            await work(lock, *arguments)

    async def main() -> None:
        lock = wait_shim.Lock()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for times, held, outside, turns in tasks:
                    scope = trio.CancelScope()
                    nursery.start_soon(scoped, scope, lock, times, held, outside)
                    nursery.start_soon(cancelled, scope, turns)
        # Free again.
        with trio.fail_after(5):
            async with lock:
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def descriptor(pipe):
    descriptor = wait_shim.Descriptor()
    descriptor.set(pipe[0])
    return descriptor


async def test_who_finds_a_request_passes_the_one_that_watches(descriptor, pipe):
    lock, lowlevel = wait_shim.Lock(descriptor), wait_shim._LowLevel(descriptor)
    reader, writer = pipe
    taken: list[str] = []

    async def take(name: str) -> None:
        async with lock:
            await lowlevel.wait_readable(reader)
        taken.append(name + os.read(reader, 1).decode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "watcher ")
        await trio.testing.wait_all_tasks_blocked()
        os.write(writer, b"1")
        ran = False

        def other() -> None:
            nonlocal ran
            ran = True

        trio.lowlevel.current_trio_token().run_sync_soon(other)
        await take("passer ")
        assert taken == ["passer 1"]
        # In one step.
        assert not ran
        # The watcher found nothing, and goes on.
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ["passer 1"]
        os.write(writer, b"2")
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ["passer 1", "watcher 2"]


async def test_nobody_passes_one_that_does_not_watch(descriptor, pipe):
    """Or there would be nobody to see the next request."""
    lock = wait_shim.Lock(descriptor)
    os.write(pipe[1], b"1")
    entered = False

    async def enter() -> None:
        nonlocal entered
        async with lock:
            entered = True

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(enter)
            await trio.testing.wait_all_tasks_blocked()
            assert not entered
        await trio.testing.wait_all_tasks_blocked()
        assert entered


async def test_who_finds_nothing_waits_behind_the_one_that_watches(descriptor, pipe):
    lock, lowlevel = wait_shim.Lock(descriptor), wait_shim._LowLevel(descriptor)
    reader, writer = pipe
    taken: list[int] = []

    async def take(number: int) -> None:
        async with lock:
            await lowlevel.wait_readable(reader)
        os.read(reader, 1)
        taken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(take, number)
        await trio.testing.wait_all_tasks_blocked()
        for count in range(1, 4):
            os.write(writer, b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert len(taken) == count
    assert sorted(taken) == [0, 1, 2]


async def test_one_that_passes_lets_other_tasks_run_every_few_dozen_requests(descriptor, pipe):
    lock, lowlevel = wait_shim.Lock(descriptor), wait_shim._LowLevel(descriptor)
    reader, writer = pipe
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def watch() -> None:
        async with lock:
            await lowlevel.wait_readable(reader)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
        for _ in range(10 * wait_shim.YIELD_EVERY):
            os.write(writer, b"x")
            async with lock:
                await lowlevel.wait_readable(reader)
            os.read(reader, 1)
        nursery.cancel_scope.cancel()
    assert turns >= 8


def _write(writer: int) -> None:
    os.write(writer, b"1")


class InPlace:
    """Waits in place that find a request where one is written meanwhile."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile = meanwhile
        self.spare = self.shared = self.waits = 0
        self.watched: list[int] = []

    def watch(self, fd: int) -> None:
        self.watched.append(fd)

    def poll_of(self, fd: int) -> select.poll:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return poll

    def wait(self, poll: select.poll, fd: int) -> bool:
        self.waits += 1
        self.meanwhile()
        return bool(poll.poll(0))

    def share(self) -> None:
        self.shared += 1


async def test_a_request_that_comes_soon_needs_no_turn_of_the_loop(pipe):
    reader, writer = pipe
    in_place = InPlace(lambda: _write(writer))
    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor(in_place, idle=lambda: True))
    ran = False

    def other() -> None:
        nonlocal ran
        ran = True

    trio.lowlevel.current_trio_token().run_sync_soon(other)
    await lowlevel.wait_readable(reader)
    assert not ran
    assert in_place.waits == 1
    assert in_place.watched == [reader]
    await lowlevel.wait_readable(reader)
    assert in_place.waits == 1, "one that is there is not waited for"


async def test_nothing_is_waited_for_in_place_while_requests_are_under_way(pipe):
    reader, writer = pipe
    in_place = InPlace(lambda: None)
    lowlevel = wait_shim._LowLevel(wait_shim.Descriptor(in_place, idle=lambda: False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lowlevel.wait_readable, reader)
        await trio.testing.wait_all_tasks_blocked()
        assert not in_place.waits
        os.write(writer, b"1")


async def test_who_is_woken_to_watch_may_wait_until_who_waits_in_place_has_done_so(pipe):
    in_place = InPlace(lambda: None)
    descriptor = wait_shim.Descriptor(in_place, idle=lambda: True)
    descriptor.set(pipe[0])
    lock = wait_shim.Lock(descriptor)

    async def enter() -> None:
        async with lock:
            pass

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
            await trio.testing.wait_all_tasks_blocked()
            assert in_place.spare == 0
        assert in_place.spare == 1
        assert in_place.shared == 0
        await trio.testing.wait_all_tasks_blocked()
    assert in_place.spare == 0
    assert in_place.shared == 2
