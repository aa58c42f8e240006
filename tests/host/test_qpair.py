"""CIDs, the bound of a queue, and who waits for which completion."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from nvmf_host.qpair import Command, HostQueue
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    CommandError,
    ConnectionLostError,
    DataDigestError,
    NotConnectedError,
    OutcomeUnknownError,
    RemoteProtocolError,
)
from nvmf_transport.nvme import SubmissionEntry
from nvmf_transport.status import INVALID_FIELD

from .medium import FakeQueuePair, begin

LOST = ConnectionLostError("cut")


def sqe(mark: int = 0) -> bytearray:
    return bytearray(SubmissionEntry(opc=2, cdw10=mark).pack())


def marks(pair: FakeQueuePair) -> list[int]:
    """The `mark` of everything sent so far."""
    return [SubmissionEntry.unpack(capsule.sqe).cdw10 for capsule in pair.log]


@asynccontextmanager
async def open_queue(
    entries: int = 4, *, max_outstanding: int | None = None, keep_one: bool = False
) -> AsyncIterator[tuple[HostQueue, FakeQueuePair, trio.Nursery]]:
    pair = FakeQueuePair(entries)
    queue = HostQueue(
        pair, qid=1, entries=entries, max_outstanding=max_outstanding, keep_one=keep_one
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run)
        yield queue, pair, nursery
        nursery.cancel_scope.cancel()


async def test_a_response_reaches_the_command_of_its_cid():
    async with open_queue() as (queue, pair, nursery):
        calls = [begin(nursery, queue.execute, sqe(mark)) for mark in range(3)]
        await wait_all_tasks_blocked()
        by_mark = {SubmissionEntry.unpack(capsule.sqe).cdw10: capsule for capsule in pair.sent}
        for mark in (2, 0, 1):
            pair.answer(by_mark[mark], result=100 + mark)
        await wait_all_tasks_blocked()
        assert [call.value.result for call in calls] == [100, 101, 102]
        assert queue.outstanding == queue.waiting == 0
        assert queue.commands == 3


async def test_commands_beyond_the_bound_wait_in_order():
    async with open_queue(entries=3) as (queue, pair, nursery):
        ended: list[int] = []
        for mark in range(5):
            queue.submit(Command(sqe(mark), lambda command: ended.append(command.sqe[40])))
        assert marks(pair) == [0, 1]
        assert (queue.outstanding, queue.waiting) == (2, 3)
        for expected in ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
            pair.answer()
            await wait_all_tasks_blocked()
            assert marks(pair) == expected
        del nursery
        assert ended == [0, 1, 2]


@pytest.mark.parametrize(
    ("entries", "bound", "expected"), [(8, None, 7), (8, 3, 3), (8, 20, 7), (2, None, 1), (8, 0, 1)]
)
async def test_the_bound_is_the_queue_less_one_and_maxcmd(entries, bound, expected):
    async with open_queue(entries, max_outstanding=bound) as (queue, pair, _):
        for mark in range(30):
            queue.submit(Command(sqe(mark), lambda _command: None))
        assert len(pair.sent) == expected


async def test_one_cid_is_kept_for_an_urgent_command():
    async with open_queue(entries=4, keep_one=True) as (queue, pair, _):
        for mark in range(4):
            queue.submit(Command(sqe(mark), lambda _command: None))
        assert marks(pair) == [0, 1]
        queue.submit(Command(sqe(9), lambda _command: None), urgent=True)
        assert marks(pair) == [0, 1, 9]
        assert queue.outstanding == 3
        queue.submit(Command(sqe(10), lambda _command: None), urgent=True)
        assert marks(pair) == [0, 1, 9], "there is but one"
        # Whichever ends first, its CID is kept again before anybody who waits gets it.
        pair.answer()
        await wait_all_tasks_blocked()
        assert marks(pair) == [0, 1, 9]
        queue.submit(Command(sqe(11), lambda _command: None), urgent=True)
        assert marks(pair) == [0, 1, 9, 11]
        for _ in range(6):
            pair.answer()
            await wait_all_tasks_blocked()
        assert marks(pair) == [0, 1, 9, 11, 2, 3, 10]
        assert queue.outstanding == 0


async def test_a_cancelled_command_keeps_its_cid_and_its_buffer_until_completion():
    async with open_queue(entries=2) as (queue, pair, nursery):
        buffer = bytearray(4)
        first = begin(
            nursery, lambda: queue.execute(sqe(1), data_in=memoryview(buffer), name="first")
        )
        await wait_all_tasks_blocked()
        first.scope.cancel()
        await wait_all_tasks_blocked()
        assert first.cancelled
        second = begin(nursery, queue.execute, sqe(2))
        await wait_all_tasks_blocked()
        assert marks(pair) == [1], "the only CID is the controller's"
        assert queue.outstanding == 1
        with pytest.raises(BufferError):
            buffer.extend(b"x")  # still held for the data that may come
        pair.answer(result=7)
        await wait_all_tasks_blocked()
        assert marks(pair) == [1, 2]
        assert not second.done, "the late completion is the first command's"
        pair.answer(result=8)
        await wait_all_tasks_blocked()
        assert second.value.result == 8


async def test_cancelled_before_it_is_called_sends_nothing():
    async with open_queue() as (queue, pair, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.execute(sqe())
        assert scope.cancelled_caught
        assert pair.log == []


async def test_death_tells_sent_from_not_sent():
    async with open_queue(entries=2) as (queue, pair, nursery):
        calls = [begin(nursery, lambda: queue.execute(sqe(), name="Probe")) for _ in range(2)]
        await wait_all_tasks_blocked()
        gone = begin(nursery, queue.execute, sqe())
        gone.scope.cancel()
        await wait_all_tasks_blocked()
        queue.kill(LOST)
        await wait_all_tasks_blocked()
        kinds = sorted(type(call.error).__name__ for call in calls)
        assert kinds == ["NotConnectedError", "OutcomeUnknownError"]
        assert all("Probe" in str(call.error) and "cut" in str(call.error) for call in calls)
        with pytest.raises(NotConnectedError):
            await queue.execute(sqe())
        assert len(pair.log) == 1
        assert queue.outstanding == queue.waiting == 0
        queue.kill(ConnectionLostError("again"))
        assert queue.error is LOST, "the first error stays"


async def test_submitting_to_a_dead_queue_ends_at_once_unsent():
    async with open_queue() as (queue, pair, _):
        queue.kill(LOST)
        ended: list[Command] = []
        queue.submit(Command(sqe(), ended.append))
        assert [command.sent for command in ended] == [False]
        assert pair.log == []


async def test_bad_status_and_bad_digest_are_errors_of_the_command():
    async with open_queue() as (queue, pair, nursery):
        refused = begin(nursery, lambda: queue.execute(sqe(), name="Probe"))
        await wait_all_tasks_blocked()
        pair.answer(status=INVALID_FIELD.with_dnr(), result=5)
        spoiled = begin(nursery, queue.execute, sqe())
        await wait_all_tasks_blocked()
        pair.answer(digest_error=True)
        await wait_all_tasks_blocked()
        assert isinstance(refused.error, CommandError)
        assert refused.error.status == INVALID_FIELD.with_dnr()
        assert refused.error.result == 5
        assert isinstance(spoiled.error, DataDigestError)
        # The queue lives.
        again = begin(nursery, queue.execute, sqe())
        await wait_all_tasks_blocked()
        pair.answer()
        await wait_all_tasks_blocked()
        assert again.error is None


@pytest.mark.parametrize("cid", [0, 1, 2, 3, 65535])
async def test_a_completion_for_no_command_ends_the_queue(cid):
    pair = FakeQueuePair(3)
    queue = HostQueue(pair, qid=1, entries=3)
    pair.put(ResponseCapsule(cid))
    with pytest.raises(RemoteProtocolError, match=f"CID {cid}"):
        await queue.run()


async def test_a_second_completion_of_one_command_ends_the_queue():
    pair = FakeQueuePair(3)
    queue = HostQueue(pair, qid=1, entries=3)
    ended: list[Command] = []
    queue.submit(Command(sqe(), ended.append))
    pair.answer()
    pair.put(ResponseCapsule(0))
    with pytest.raises(RemoteProtocolError):
        await queue.run()
    assert len(ended) == 1


async def test_a_completion_after_the_queue_was_killed_is_for_nobody():
    pair = FakeQueuePair(3)
    queue = HostQueue(pair, qid=1, entries=3)
    ended: list[Command] = []
    queue.submit(Command(sqe(), ended.append))
    queue.kill(LOST)
    pair.answer()
    with pytest.raises(ConnectionLostError) as caught:
        await queue.run()
    assert caught.value is LOST
    assert [command.response for command in ended] == [None]


@pytest.mark.parametrize(
    ("flow_control", "sqhd", "fatal"),
    [(True, 3, False), (True, 4, True), (True, None, False), (False, 0xFFFF, False)],
)
async def test_sqhd_lies_within_the_queue_where_it_counts(flow_control, sqhd, fatal):
    pair = FakeQueuePair(4)
    queue = HostQueue(pair, qid=1, entries=4)
    queue.sq_flow_control = flow_control
    ended: list[Command] = []
    queue.submit(Command(sqe(), ended.append))
    pair.answer(sqhd=sqhd)
    pair.put(LOST)
    with pytest.raises(RemoteProtocolError if fatal else ConnectionLostError):
        await queue.run()
    assert len(ended) == (0 if fatal else 1)


@pytest.mark.parametrize(
    ("data_bytes", "status", "digest_error", "fatal"),
    [
        (8, None, False, False),
        (7, None, False, True),
        (0, None, False, True),
        # Nobody uses the data of a command that failed.
        (3, INVALID_FIELD, False, False),
        (3, None, True, False),
    ],
)
async def test_success_means_all_the_data(data_bytes, status, digest_error, fatal):
    pair = FakeQueuePair(4)
    queue = HostQueue(pair, qid=1, entries=4)
    ended: list[Command] = []
    queue.submit(Command(sqe(), ended.append, data_in=memoryview(bytearray(8))))
    pair.answer(status=status, data_bytes=data_bytes, digest_error=digest_error)
    pair.put(LOST)
    with pytest.raises(RemoteProtocolError if fatal else ConnectionLostError):
        await queue.run()
    assert len(ended) == (0 if fatal else 1)


async def test_the_last_death_of_a_command_that_submits_another_is_orderly():
    """Whoever is told of the end may try again at once: it must not be sent, nor be forgotten."""
    pair = FakeQueuePair(2)
    queue = HostQueue(pair, qid=1, entries=2)
    ended: list[bool] = []

    def again(command: Command) -> None:
        ended.append(command.sent)
        queue.submit(Command(sqe(), lambda late: ended.append(late.sent)))

    queue.submit(Command(sqe(), again))
    queue.submit(Command(sqe(), again))
    queue.kill(LOST)
    assert sorted(ended) == [False, False, False, True]


STEPS = st.lists(
    st.sampled_from(["submit", "submit", "urgent", "answer", "answer", "fail", "cancel"]),
    max_size=60,
)


@given(STEPS, st.integers(2, 6), st.booleans(), st.integers(0, 1 << 16))
def test_any_mix_of_calls_ends_every_command_once(steps, entries, keep_one, seed):
    """The peer asserts that no CID is used twice and that the bound holds."""

    async def main() -> None:
        async with open_queue(entries, keep_one=keep_one) as (queue, pair, nursery):
            calls = []
            for number, step in enumerate(steps):
                match step:
                    case "submit" | "urgent":
                        urgent = step == "urgent"
                        call = begin(
                            nursery,
                            lambda mark, urgent: queue.execute(sqe(mark), urgent=urgent),
                            number,
                            urgent,
                        )
                        calls.append((number, call))
                    case "cancel" if calls:
                        calls[(seed + number) % len(calls)][1].scope.cancel()
                    case "answer" | "fail" if pair.sent:
                        capsule = pair.sent[(seed + number) % len(pair.sent)]
                        mark = SubmissionEntry.unpack(capsule.sqe).cdw10
                        bad = INVALID_FIELD if step == "fail" else None
                        pair.answer(capsule, bad, result=mark)
                await wait_all_tasks_blocked()
                assert queue.outstanding == len(pair.sent)
                spare = entries - 1 - len(pair.sent)
                assert not queue.waiting or spare <= (1 if keep_one else 0)
            queue.kill(LOST)
            await wait_all_tasks_blocked()
            for number, call in calls:
                assert call.done
                if call.value is not None:
                    assert call.value.result == number
                elif not call.cancelled:
                    assert isinstance(
                        call.error, CommandError | OutcomeUnknownError | NotConnectedError
                    )

    trio.run(main)
