"""Waits in place: who may, what ends them, and what is taken meanwhile."""

import contextlib
import os
import select
import threading
import time
from functools import partial

import pytest
import trio
import trio.testing

from nvmf_tcp import inside_trio, poll_short_waits
from nvmf_tcp.in_place import MOST_NS, InPlace
from nvmf_tcp.short_waits import LIMIT_NS, SMALL_TURNS, STREAK
from nvmf_tcp.turn import Turn


def expect_short_waits() -> None:
    """As after some short waits with little sent."""
    turn = Turn.current()
    assert turn is not None
    for _ in range(SMALL_TURNS):
        turn.at_end(lambda: None)
        turn.send()
    for _ in range(STREAK):
        turn._short.note(LIMIT_NS // 2)


@pytest.fixture
async def in_place(monkeypatch: pytest.MonkeyPatch) -> InPlace:
    """That of this loop."""
    monkeypatch.delenv("NVMF_NO_POLLING", raising=False)
    monkeypatch.delenv("NVMF_SENDING_TASKS", raising=False)
    turn = poll_short_waits()
    assert turn is not None
    found = turn.in_place
    assert found is not None
    await trio.lowlevel.checkpoint()
    expect_short_waits()
    return found


@contextlib.contextmanager
def pipe():
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


async def test_what_is_there_is_found_and_nothing_is_waited_for_a_moment_only(in_place):
    with pipe() as (reader, writer):
        poll = in_place.poll_of(reader)
        os.write(writer, b"x")
        assert in_place.wait(poll, reader)
        os.read(reader, 1)
        began_ns = time.monotonic_ns()
        assert not in_place.wait(poll, reader)
        assert time.monotonic_ns() - began_ns >= LIMIT_NS
        os.write(writer, b"x")
        assert not in_place.wait(poll, reader), "the last wait was long: the next ones sleep"


async def test_nobody_waits_in_place_while_another_task_can_run(in_place):
    async def other() -> None:
        await trio.lowlevel.checkpoint()

    with pipe() as (reader, writer):
        os.write(writer, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            assert not in_place.wait(in_place.poll_of(reader), reader), "it runs in the next pass"
            await trio.lowlevel.checkpoint()
            assert not in_place.wait(in_place.poll_of(reader), reader), "or in this one"
        await trio.testing.wait_all_tasks_blocked()
        await trio.lowlevel.checkpoint()
        assert in_place.wait(in_place.poll_of(reader), reader)


async def test_nobody_waits_in_place_who_has_just_woken_another_task(in_place):
    woken = trio.Event()
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(woken.wait)
            await trio.testing.wait_all_tasks_blocked()
            await trio.lowlevel.checkpoint()
            assert in_place.wait(in_place.poll_of(reader), reader)
            woken.set()
            assert not in_place.wait(in_place.poll_of(reader), reader)


async def test_waits_are_of_the_loop_again_after_a_while(in_place):
    with pipe() as (reader, writer):
        poll = in_place.poll_of(reader)
        os.write(writer, b"x")
        ends_ns = time.monotonic_ns() + 100 * MOST_NS
        times = 0
        while in_place.wait(poll, reader):
            times += 1
            assert time.monotonic_ns() < ends_ns
        assert times
        await trio.lowlevel.checkpoint()
        assert in_place.wait(poll, reader)


async def test_whatever_trio_waits_for_ends_it(in_place):
    """Here somebody calls from another thread; sockets and signals are in the same epoll."""
    token, called = trio.lowlevel.current_trio_token(), trio.Event()
    with pipe() as (reader, _):
        poll = in_place.poll_of(reader)
        thread = threading.Thread(target=token.run_sync_soon, args=(called.set,))
        thread.start()
        thread.join()
        began_ns = time.monotonic_ns()
        assert not in_place.wait(poll, reader)
        assert time.monotonic_ns() - began_ns < LIMIT_NS
    await called.wait()


async def test_what_is_attended_is_taken_and_the_wait_goes_on(in_place):
    turn = Turn.current()
    assert turn is not None
    taken: list[bytes] = []

    def take() -> bool:
        taken.append(os.read(attended, 1))
        if len(taken) == 3:
            os.write(writer, b"x")
        return True

    with pipe() as (reader, writer), pipe() as (attended, other):
        turn.attend(attended, take, bool)
        os.write(other, b"abc")
        assert in_place.wait(in_place.poll_of(reader), reader)
    assert taken == [b"a", b"b", b"c"]


async def test_what_is_attended_does_not_keep_the_wait_from_its_end(in_place):
    """There is always more to take, and other tasks have to have their turn."""
    turn = Turn.current()
    assert turn is not None
    taken = 0

    def take() -> bool:
        nonlocal taken
        taken += 1
        return True

    with pipe() as (reader, _), pipe() as (attended, other):
        turn.attend(attended, take, bool)
        os.write(other, b"x")
        began_ns = time.monotonic_ns()
        assert not in_place.wait(in_place.poll_of(reader), reader)
        assert MOST_NS // 2 < time.monotonic_ns() - began_ns < 100 * MOST_NS
    assert taken > 1


async def test_what_is_attended_and_cannot_be_taken_ends_the_wait(in_place):
    turn = Turn.current()
    assert turn is not None
    with pipe() as (reader, _), pipe() as (attended, other):
        turn.attend(attended, lambda: 0, bool)
        os.write(other, b"x")
        began_ns = time.monotonic_ns()
        assert not in_place.wait(in_place.poll_of(reader), reader)
        assert time.monotonic_ns() - began_ns < MOST_NS


async def test_whatever_is_there_for_the_caller_comes_first(in_place):
    turn = Turn.current()
    assert turn is not None

    def take() -> int:
        raise AssertionError

    with pipe() as (reader, writer), pipe() as (attended, other):
        turn.attend(attended, take, bool)
        os.write(other, b"x")
        os.write(writer, b"x")
        assert in_place.wait(in_place.poll_of(reader), reader)


def _write(writer: int) -> None:
    os.write(writer, b"x")


async def test_what_is_queued_is_sent_first(in_place):
    turn = Turn.current()
    assert turn is not None
    with pipe() as (reader, writer):
        turn.at_end(partial(_write, writer))
        assert in_place.wait(in_place.poll_of(reader), reader)


async def test_there_are_none_where_the_environment_says_so(monkeypatch):
    monkeypatch.setenv("NVMF_NO_POLLING", "1")
    turn = poll_short_waits()
    assert turn is not None
    assert turn.in_place is None


async def test_there_is_not_even_a_turn_where_tasks_send(monkeypatch):
    monkeypatch.setenv("NVMF_SENDING_TASKS", "1")
    assert poll_short_waits() is None


async def test_there_are_none_where_trio_keeps_its_parts_elsewhere(monkeypatch):
    monkeypatch.setattr(inside_trio, "of_this_run", lambda: None)
    turn = poll_short_waits()
    assert turn is not None
    assert turn.in_place is None


async def test_inside_trio_is_what_its_loop_waits_in_and_runs():
    inside = inside_trio.of_this_run()
    assert inside is not None
    poll = select.poll()
    poll.register(inside.epoll_fd, select.POLLIN)
    await trio.testing.wait_all_tasks_blocked()
    assert not poll.poll(0)
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
    assert poll.poll(0)
    async with trio.open_nursery() as nursery:
        before = len(inside.runnable)
        nursery.start_soon(trio.lowlevel.checkpoint)
        assert len(inside.runnable) == before + 1
