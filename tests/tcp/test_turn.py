"""What is sent at the end of a turn of the event loop."""

import logging

import pytest
import trio

from nvmf_tcp.turn import SWITCH, Turn


def turn_of_this_run() -> Turn:
    turn = Turn.current()
    assert turn is not None
    return turn


async def test_each_is_called_once_when_the_tasks_of_the_turn_have_run():
    turn = turn_of_this_run()
    seen: list[str] = []

    async def other() -> None:
        seen.append("task")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        # Both run in this turn, before or after this task.
        turn.at_end(lambda: seen.append("end"))
        await trio.lowlevel.checkpoint()
        assert sorted(seen) == ["end", "task", "task"]
        assert seen[-1] == "end"
        await trio.lowlevel.checkpoint()
    assert seen.count("end") == 1


async def test_one_that_fails_is_logged_and_the_others_are_called(caplog):
    turn = turn_of_this_run()
    seen: list[str] = []

    def fails() -> None:
        raise ValueError("on purpose")

    with caplog.at_level(logging.CRITICAL + 1, "nvmf_tcp.turn"):
        for _ in range(2):
            turn.at_end(fails)
            turn.at_end(lambda: seen.append("end"))
            await trio.lowlevel.checkpoint()
    assert seen == ["end", "end"]


async def test_what_is_attended_is_looked_at_before_what_is_queued_is_sent():
    turn = turn_of_this_run()
    seen: list[str] = []

    def look() -> None:
        seen.append("look")
        turn.at_end(lambda: seen.append("sent"))

    turn.attend(0, bool, look)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert seen[:4] == ["look", "sent", "look", "sent"]


async def test_what_is_attended_may_fail_and_what_is_queued_is_sent_all_the_same(caplog):
    """trio takes an instrument away that raises: then nothing would be sent ever again."""
    turn = turn_of_this_run()
    seen: list[str] = []

    def fails() -> None:
        raise MemoryError("on purpose")

    with caplog.at_level(logging.CRITICAL + 1, "nvmf_tcp.turn"):
        turn.attend(0, bool, fails)
        for _ in range(2):
            turn.at_end(lambda: seen.append("end"))
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        turn.attend(0, bool, bool)
    assert seen == ["end", "end"]


async def test_work_taken_at_the_end_of_a_turn_wakes_a_loop_that_is_about_to_sleep():
    """What it starts begins by a token: a task that is rescheduled there would sleep with it."""
    turn, token = turn_of_this_run(), trio.lowlevel.current_trio_token()
    started = trio.Event()

    def look() -> None:
        if not started.is_set():
            token.run_sync_soon(started.set)

    turn.attend(0, bool, look)
    with trio.fail_after(5):
        await started.wait()


async def test_one_for_each_run_of_trio():
    assert turn_of_this_run() is turn_of_this_run()


def test_another_run_has_another():
    async def main() -> Turn:
        return turn_of_this_run()

    assert trio.run(main) is not trio.run(main)


async def test_none_where_tasks_are_to_send(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SWITCH, "1")
    assert Turn.current() is None
