"""What each status does to a request: again at once, again later, held, or an error."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.state import NamespaceState
from nvmf_transport import status as s
from nvmf_transport.errors import CommandError, DataDigestError, NamespaceGoneError
from nvmf_transport.status import Status

from .medium import (
    LBA_BYTES,
    Link,
    begin,
    controller_data,
    open_link,
    open_namespace,
    pattern,
    sent,
    state_of,
)

S = NamespaceState
L = LBA_BYTES


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
