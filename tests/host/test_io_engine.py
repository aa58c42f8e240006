"""Waiting, replaying and retrying, seen from the commands that a controller gets."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.io_engine import IoEngine
from nvmf_host.io_request import IoRequest, Kind
from nvmf_host.namespace import Namespace
from nvmf_host.state import NamespaceState, PauseCause
from nvmf_transport import status as s
from nvmf_transport.errors import (
    CommandError,
    DataDigestError,
    LocalProtocolError,
    NamespaceGoneError,
)
from nvmf_transport.nvme import SubmissionEntry
from nvmf_transport.status import Status

from .medium import (
    LBA_BYTES,
    Link,
    begin,
    controller_data,
    lbas_of,
    opcode,
    open_link,
    open_namespace,
    pattern,
)

S = NamespaceState
L = LBA_BYTES


def sent(link: Link) -> list[tuple[str, int]]:
    """Commands without an answer, as (opcode, SLBA), in the order in which they were sent."""
    return [
        (opcode(capsule).name, SubmissionEntry.unpack(capsule.sqe).slba) for capsule in link.sent
    ]


def state_of(namespace: Namespace) -> NamespaceState:
    """Its state now: a function, or mypy takes the last look for granted."""
    return namespace.state


# Waiting for the path, and the order of resuming.


async def test_io_waits_for_the_first_association_and_goes_in_order_of_arrival():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        for lba in (5, 3, 9):
            begin(nursery, namespace.read, lba * L, L)
            await wait_all_tasks_blocked()
        assert link.sent == []
        assert namespace.engine.waiting == 3
        namespace.engine.resume(link.path())
        assert sent(link) == [("READ", 5), ("READ", 3), ("READ", 9)]
        assert namespace.engine.waiting == 0
        nursery.cancel_scope.cancel()


async def test_a_held_namespace_sends_nothing_and_what_runs_goes_on():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        namespace.engine.hold("being identified")
        waiting = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        assert sent(link) == [("READ", 0)]
        link.answer()
        await wait_all_tasks_blocked()
        assert running.done
        assert not waiting.done
        assert link.sent == []
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert sent(link) == [("WRITE", 0)]
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_cid_is_not_sent_to_a_namespace_that_is_held():
    """By the time there is a CID, its NSID may be another namespace's."""
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        waiting = begin(nursery, namespace.write, 3 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        assert sent(link) == [("READ", 0)]
        namespace.engine.hold("being identified")
        link.answer()
        await wait_all_tasks_blocked()
        assert running.done
        assert link.sent == []
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert sent(link) == [("WRITE", 3)]
        link.answer()
        await wait_all_tasks_blocked()
        assert waiting.done
        # No copy of it was ever on its way.
        assert namespace.quarantine.total == 0


async def test_what_waits_for_a_cid_fails_with_a_namespace_that_goes():
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        waiting = begin(nursery, namespace.write, 3 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        namespace.end("removed")
        link.answer()
        await wait_all_tasks_blocked()
        assert isinstance(waiting.error, NamespaceGoneError)
        assert link.sent == []


async def test_ambiguous_writes_go_first_in_order_of_arrival_then_all_that_waited():
    namespace = open_namespace()
    async with open_link(queues=2) as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        reading = begin(nursery, namespace.read, 50 * L, L)
        await wait_all_tasks_blocked()
        writes = []
        for lba in (30, 10, 20):
            writes.append(begin(nursery, namespace.write, lba * L, pattern(lba, L)))
            await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert sorted(namespace.engine.ambiguous) == [(10, 1), (20, 1), (30, 1)]
        later = begin(nursery, namespace.write, 40 * L, pattern(40, L))
        await wait_all_tasks_blocked()
        assert new.sent == []
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.REPLAYING
        assert sent(new) == [("WRITE", 30), ("WRITE", 10), ("WRITE", 20)]
        for expected in (2, 1):
            new.answer()
            await wait_all_tasks_blocked()
            assert len(new.sent) == expected, "everything else waits for the last of them"
        new.answer()
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.LIVE
        assert sent(new) == [("READ", 50), ("WRITE", 40)]
        assert all(write.value == L for write in writes)
        for _ in range(2):
            new.answer()
        await wait_all_tasks_blocked()
        assert reading.done
        assert later.value == L
        assert namespace.engine.ambiguous == []


async def test_a_write_that_was_never_sent_is_not_ambiguous():
    namespace = open_namespace()
    async with open_link(entries=2) as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        for lba in (1, 2):
            begin(nursery, namespace.write, lba * L, pattern(lba, L))
            await wait_all_tasks_blocked()
        assert sent(old) == [("WRITE", 1)]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [(1, 1)]
        namespace.engine.resume(new.path())
        assert sent(new) == [("WRITE", 1)]
        nursery.cancel_scope.cancel()


async def test_an_answered_attempt_does_not_make_an_unsent_one_ambiguous(autojump_clock):
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.answer(status=s.INTERNAL_ERROR)
        await wait_all_tasks_blocked()
        begin(nursery, namespace.read, 9 * L, L)
        await trio.sleep(0.2)
        assert sent(link) == [("READ", 9)], "the write waits for the only CID"
        link.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == []
        nursery.cancel_scope.cancel()


async def test_a_write_stays_ambiguous_through_a_second_loss():
    namespace = open_namespace()
    async with (
        open_link() as old,
        open_link() as bad,
        open_link() as new,
        trio.open_nursery() as nursery,
    ):
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, L, pattern(1, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(bad.path())
        bad.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [(1, 1)]
        reading = begin(nursery, namespace.read, 5 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        assert sent(new) == [("WRITE", 1)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == L
        assert sent(new) == [("READ", 5)]
        new.answer()
        await wait_all_tasks_blocked()
        assert reading.done


async def test_a_request_is_cut_by_the_limits_of_the_path_it_is_sent_over():
    namespace = open_namespace()
    data = bytes(range(256)) * 2 * 8
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 3 * L, data)
        await wait_all_tasks_blocked()
        assert [lbas_of(capsule) for capsule in old.sent] == [[(3, 8)]]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(
            new.path(controller_data(mdts=0, oncs=0), noiob_lbas=4),
        )
        await wait_all_tasks_blocked()
        assert [lbas_of(capsule)[0] for capsule in new.sent] == [(3, 1), (4, 4), (8, 3)]
        joined = b"".join(bytes(capsule.data_out or b"") for capsule in new.sent)
        assert joined == data
        for _ in range(3):
            assert not write.done
            new.answer()
            await wait_all_tasks_blocked()
        assert write.value == len(data)


async def test_one_lost_part_makes_the_whole_write_go_again():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path(noiob_lbas=1))
        write = begin(nursery, namespace.write, 0, pattern(1, 3 * L))
        await wait_all_tasks_blocked()
        old.answer()
        old.answer()
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert not write.done
        namespace.engine.resume(new.path())
        assert [lbas_of(capsule)[0] for capsule in new.sent] == [(0, 3)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == 3 * L


# Flush.


async def test_a_flush_goes_after_all_writes_before_it_also_over_a_loss():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 9 * L, pattern(2, L))
        await wait_all_tasks_blocked()
        assert sent(old) == [("WRITE", 0), ("WRITE", 9)]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 0), ("WRITE", 9)]
        new.answer()
        await wait_all_tasks_blocked()
        assert not flush.done
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.done
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert flush.error is None


async def test_a_flush_that_was_lost_goes_again():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [], "it changes no data"
        namespace.engine.resume(new.path())
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done


async def test_without_a_volatile_cache_a_flush_sends_nothing_but_waits_for_a_path():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        assert not flush.done
        namespace.engine.resume(link.path(controller_data(vwc=0)))
        await wait_all_tasks_blocked()
        assert flush.done
        assert link.pairs[0].log == []


async def test_dirty_is_what_no_completed_flush_or_fua_covers():
    namespace = open_namespace()
    engine = namespace.engine
    async with open_link() as link, trio.open_nursery() as nursery:
        engine.resume(link.path())

        async def finished(*calls: object) -> None:
            del calls
            await wait_all_tasks_blocked()
            while link.sent:
                link.answer()
                await wait_all_tasks_blocked()

        await finished(begin(nursery, lambda: namespace.write(0, pattern(1, L), fua=True)))
        assert not engine.dirty
        await finished(begin(nursery, namespace.write, 0, pattern(1, L)))
        assert engine.dirty
        await finished(begin(nursery, lambda: namespace.write(0, pattern(1, L), fua=True)))
        assert engine.dirty, "a FUA write says nothing of those before it"
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        # Acknowledged while the Flush is under way: not covered by it.
        begin(nursery, namespace.write, 5 * L, pattern(2, L))
        await wait_all_tasks_blocked()
        link.answer(link.sent[1])
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert engine.dirty
        await finished(begin(nursery, namespace.flush))
        assert not engine.dirty


# Statuses.


async def attempts(link: Link, status: Status | None, *, digest_error: bool = False) -> list[float]:
    """Answers every command in this way until none comes; returns when they came."""
    times = []
    start = trio.current_time()
    with trio.move_on_after(10000):
        while True:
            await link.transmitted()
            times.append(round(trio.current_time() - start, 6))
            link.answer(status=status, digest_error=digest_error)
    return times


async def test_a_retriable_status_is_retried_for_30_s_in_all(autojump_clock):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        call = begin(nursery, namespace.read, 0, L)
        times = await attempts(link, s.INTERNAL_ERROR)
        expected = [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3, 26.3, 30.0]
        assert times == pytest.approx(expected)
        assert isinstance(call.error, CommandError)
        assert call.error.status == s.INTERNAL_ERROR
        assert "nvme0ns1: read of LBAs 0+1" in str(call.error)
        assert str(call.error) in namespace.last_error


@pytest.mark.parametrize(("crdt1", "expected"), [(70, [0, 7, 14, 21, 28, 30]), (60000, [0, 30])])
async def test_the_delay_that_the_controller_asks_for_is_bounded_too(
    autojump_clock, crdt1, expected
):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(controller_data(crdt1=crdt1)))
        call = begin(nursery, namespace.read, 0, L)
        times = await attempts(link, Status(0, 6, crd=1))
        assert times == pytest.approx(expected)
        assert isinstance(call.error, CommandError)


@pytest.mark.parametrize(
    ("status", "digest_error", "error"),
    [
        (s.TRANSIENT_TRANSPORT_ERROR, False, CommandError),
        (None, True, DataDigestError),
    ],
)
async def test_at_once_means_three_times(autojump_clock, status, digest_error, error):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        call = begin(nursery, namespace.read, 0, L)
        assert await attempts(link, status, digest_error=digest_error) == [0, 0, 0, 0]
        assert isinstance(call.error, error)


@pytest.mark.parametrize(
    "status", [s.LBA_OUT_OF_RANGE, s.RESERVATION_CONFLICT, s.INTERNAL_ERROR.with_dnr()], ids=str
)
async def test_a_final_status_fails_the_request_at_once(autojump_clock, status):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        call = begin(nursery, namespace.write, 0, pattern(1, L))
        assert await attempts(link, status) == [0]
        assert isinstance(call.error, CommandError)
        # The range is free again.
        again = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert again.value == L


async def test_a_retry_succeeds_with_all_parts_again(autojump_clock):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(noiob_lbas=1))
        call = begin(nursery, namespace.write, 0, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        link.answer(status=s.NAMESPACE_NOT_READY)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert sent(link) == [("WRITE", 1)], "no retry while a part is outstanding"
        link.answer()
        await trio.sleep(1)
        assert sent(link) == [("WRITE", 0), ("WRITE", 1)]
        link.answer()
        link.answer()
        await wait_all_tasks_blocked()
        assert call.value == 2 * L


async def test_time_without_an_association_is_no_time_spent_retrying(autojump_clock):
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        call = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        old.answer(status=s.INTERNAL_ERROR)
        await trio.sleep(0.2)
        old.lose(namespace)
        await trio.sleep(600)
        namespace.engine.resume(new.path())
        new.answer(status=s.NAMESPACE_NOT_READY)
        await trio.sleep(0.15)
        assert not call.done
        new.answer()
        await wait_all_tasks_blocked()
        assert call.error is None


async def test_a_request_that_pauses_between_retries_ends_with_the_namespace(autojump_clock):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(controller_data(crdt1=200)))
        call = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        link.answer(status=Status(0, 6, crd=1))
        await wait_all_tasks_blocked()
        before = trio.current_time()
        namespace.engine.end("removed")
        await wait_all_tasks_blocked()
        assert isinstance(call.error, NamespaceGoneError)
        assert trio.current_time() == before


@pytest.mark.parametrize("status", [s.ANA_INACCESSIBLE, s.ANA_TRANSITION, s.ANA_PERSISTENT_LOSS])
async def test_an_inaccessible_namespace_holds_everything_until_it_is_identified(status):
    asked: list[str] = []
    namespace = open_namespace(on_recheck=lambda _namespace, reason: asked.append(reason))
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        first = begin(nursery, namespace.read, 0, L)
        begin(nursery, namespace.read, L, L)
        await wait_all_tasks_blocked()
        link.answer(status=status)
        link.answer(status=status)
        await wait_all_tasks_blocked()
        assert len(asked) == 1, "once is enough"
        assert state_of(namespace) is S.HELD
        assert "Asymmetric" in namespace.last_error
        begin(nursery, namespace.read, 2 * L, L)
        await wait_all_tasks_blocked()
        assert link.sent == []
        # As often as it takes.
        for turn in range(6):
            namespace.engine.resume(link.path())
            await wait_all_tasks_blocked()
            assert len(link.sent) == 3
            for _ in range(3):
                link.answer(status=status)
            await wait_all_tasks_blocked()
            assert len(asked) == 2 + turn
        assert not first.done
        nursery.cancel_scope.cancel()


async def test_a_namespace_that_is_identified_and_yet_invalid_is_given_up_on():
    asked: list[str] = []
    namespace = open_namespace(on_recheck=lambda _namespace, reason: asked.append(reason))
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        call = begin(nursery, namespace.read, 0, L)
        for _ in range(3):
            await wait_all_tasks_blocked()
            link.answer(status=s.INVALID_NAMESPACE.with_dnr())
            await wait_all_tasks_blocked()
            assert not call.done
            namespace.engine.resume(link.path())
        link.answer(status=s.INVALID_NAMESPACE.with_dnr())
        await wait_all_tasks_blocked()
        assert isinstance(call.error, CommandError)
        assert len(asked) == 3


async def test_a_status_that_asks_to_wait_does_not_hold_what_is_already_lost():
    """The answer came just before the loss: nobody but the next association may resume."""
    asked: list[str] = []
    namespace = open_namespace(on_recheck=lambda _namespace, reason: asked.append(reason))
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        namespace.engine.hold("connection lost")
        link.answer(status=s.ANA_TRANSITION)
        await wait_all_tasks_blocked()
        assert asked == []
        assert namespace.engine.reason == "connection lost"
        nursery.cancel_scope.cancel()


async def test_a_replay_that_is_refused_settles_the_write():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        reading = begin(nursery, namespace.read, 5 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer(status=s.WRITE_PROTECTED)
        await wait_all_tasks_blocked()
        assert isinstance(write.error, CommandError)
        assert sent(new) == [("READ", 5)]
        new.answer()
        await wait_all_tasks_blocked()
        assert reading.done


async def test_a_replay_that_has_to_wait_is_replayed_again_before_the_rest():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        for lba in (1, 2):
            begin(nursery, namespace.write, lba * L, pattern(lba, L))
            await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        begin(nursery, namespace.read, 9 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer(status=s.ANA_TRANSITION)
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.HELD
        assert sent(new) == [("WRITE", 2)]
        namespace.engine.resume(new.path())
        assert sent(new) == [("WRITE", 2), ("WRITE", 1)], "the other is still under way"
        assert state_of(namespace) is S.REPLAYING
        new.answer()
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 1)]
        new.answer()
        await wait_all_tasks_blocked()
        assert sent(new) == [("READ", 9)]
        nursery.cancel_scope.cancel()


# Cancelling.


async def test_a_cancelled_ambiguous_write_is_not_replayed_and_frees_the_rest():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 0, pattern(2, L))
        old.lose(namespace)
        await wait_all_tasks_blocked()
        write.scope.cancel()
        await wait_all_tasks_blocked()
        assert write.cancelled
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert [bytes(capsule.data_out or b"")[:1] for capsule in new.sent] == [b"\2"]
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.value == L


async def test_a_replay_that_is_cancelled_under_way_lets_the_rest_go():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 0, pattern(2, L))
        reading = begin(nursery, namespace.read, 9 * L, L)
        await wait_all_tasks_blocked()
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        write.scope.cancel()
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.LIVE
        assert sent(new) == [("WRITE", 0), ("READ", 9)], "newer and flush wait for its command"
        new.answer(new.sent[1])
        new.answer()
        await wait_all_tasks_blocked()
        assert reading.done
        assert [bytes(capsule.data_out or b"")[:1] for capsule in new.sent] == [b"\2"]
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.done
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done


async def test_a_request_cancelled_while_it_waits_is_never_sent():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        for call in (
            begin(nursery, namespace.read, 0, L),
            begin(nursery, namespace.write, 0, pattern(1, L)),
            begin(nursery, namespace.write, 10, b"unaligned"),
            begin(nursery, namespace.flush),
        ):
            await wait_all_tasks_blocked()
            call.scope.cancel()
            await wait_all_tasks_blocked()
            assert call.cancelled
        assert namespace.engine.waiting == 0
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert link.sent == []


# The end.


async def test_the_end_fails_what_waits_and_lets_what_runs_end():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        in_line = begin(nursery, namespace.write, 0, pattern(2, L))
        await wait_all_tasks_blocked()
        namespace.engine.hold("being identified")
        waiting = begin(nursery, namespace.read, 5 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.end("the namespace was removed")
        namespace.engine.end("again")
        await wait_all_tasks_blocked()
        assert isinstance(waiting.error, NamespaceGoneError)
        assert "was removed" in str(waiting.error)
        assert not running.done
        link.answer()
        await wait_all_tasks_blocked()
        assert running.value == L
        assert isinstance(in_line.error, NamespaceGoneError)
        late = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert isinstance(late.error, NamespaceGoneError)
        namespace.engine.hold("connection lost")
        assert state_of(namespace) is S.GONE


async def test_failing_an_ambiguous_write_does_not_hide_that_it_is():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, 7 * L, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        link.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.end("the controller was disconnected")
        await wait_all_tasks_blocked()
        assert isinstance(write.error, NamespaceGoneError)
        assert namespace.engine.ambiguous == [(7, 2)]


async def test_a_replay_that_ends_after_the_end_is_not_ambiguous_any_more():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 7 * L, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        namespace.engine.end("the controller was disconnected")
        assert namespace.engine.ambiguous == [(7, 2)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == 2 * L
        assert namespace.engine.ambiguous == []


async def test_a_paused_namespace_resumes_only_through_being_held():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        namespace.engine.pause("another namespace", PauseCause.IDENTITY)
        assert namespace.last_error == "another namespace"
        with pytest.raises(LocalProtocolError):
            namespace.engine.resume(link.path())
        assert link.sent == []
        namespace.engine.hold("being identified")
        namespace.engine.resume(link.path())
        assert sent(link) == [("READ", 0)]
        nursery.cancel_scope.cancel()


async def test_a_queue_that_is_dead_unannounced_lets_others_run():
    """A bug elsewhere, which must not become a loop that never yields."""
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        for queue in link.queues:
            queue.kill()
        call = begin(nursery, namespace.read, 0, L)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        call.scope.cancel()
        await wait_all_tasks_blocked()
        assert call.cancelled


async def test_a_flush_without_a_cache_is_complete_as_it_starts():
    engine = IoEngine("nvme0ns1", lambda _reason: None)
    async with open_link() as link:
        engine.resume(link.path(controller_data(vwc=0)))
        assert await engine.perform(IoRequest(Kind.FLUSH, engine.next_order()))
        assert not engine.dirty
