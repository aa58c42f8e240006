"""Launched reads and writes whose association is lost, or whose namespace fails or goes."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.cache_log import MAX_BYTES
from nvmf_host.state import NamespaceState
from nvmf_transport import status as s
from nvmf_transport.errors import ConnectionLostError, NamespaceGoneError, NotConnectedError

from . import launching
from .ghosts import standing
from .medium import LBA_BYTES, Medium, begin, open_link, open_namespace, pattern, sent, state_of

S = NamespaceState
L = LBA_BYTES


async def test_a_write_that_was_lost_is_sent_again_before_everything_else():
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, L))
        lost_read = launching.read(namespace, nursery, 20 * L, L)
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [(0, 1)]
        reading = begin(nursery, namespace.read, 9 * L, L)
        await wait_all_tasks_blocked()
        assert namespace.engine.waiting == 3
        namespace.engine.resume(new.path())
        assert state_of(namespace) is S.REPLAYING
        assert sent(new) == [("WRITE", 0)]
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.LIVE
        assert writing.succeeded
        assert namespace.engine.replayed == 1
        assert sent(new) == [("READ", 20), ("READ", 9)]
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert lost_read.succeeded
        assert reading.done


async def test_a_namespace_that_resumes_before_the_task_comes_knows_of_the_write():
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, L), prompt=False)
        old.lose(namespace)
        assert namespace.engine.ambiguous == [(0, 1)]
        assert [change.slba for change in namespace.engine.unknown] == [0]
        assert namespace.has_waiting_changes
        namespace.engine.resume(new.path())
        assert state_of(namespace) is S.REPLAYING
        reading = begin(nursery, namespace.read, 0, L)
        assert namespace.launch_read(9 * L, L, None) is None
        await wait_all_tasks_blocked()
        assert sent(new) == []
        writing.see_through()
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 0)]
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert writing.succeeded
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert bytes(reading.value) == pattern(1, L)


async def test_what_was_not_sent_is_not_ambiguous():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        old.queues[0].kill(ConnectionLostError("nobody knows yet"))
        writing = launching.write(namespace, nursery, 0, pattern(1, L), prompt=False)
        reading = launching.read(namespace, nursery, 9 * L, L, prompt=False)
        assert not writing.launch.request.outstanding
        assert not reading.launch.request.outstanding
        old.lose(namespace)
        assert namespace.engine.ambiguous == []
        writing.see_through()
        reading.see_through()
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        assert state_of(namespace) is S.LIVE
        assert sent(new) == [("WRITE", 0), ("READ", 9)]
        new.answer()
        new.answer()
        await wait_all_tasks_blocked()
        assert writing.succeeded
        assert reading.succeeded


async def test_on_a_queue_that_is_dead_it_does_not_spin():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        link.queues[0].kill(ConnectionLostError("nobody knows yet"))
        writing = launching.write(namespace, nursery, 0, pattern(1, L))
        for _ in range(5):
            # Others have their turn.
            await trio.lowlevel.checkpoint()
        assert not writing.done
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_cid_is_withdrawn_when_the_namespace_is_held():
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        first = launching.write(namespace, nursery, 0, pattern(1, L))
        second = launching.write(namespace, nursery, 9 * L, pattern(2, L))
        namespace.engine.hold("another namespace may be there")
        assert second.concluded == [False]
        link.answer()
        await wait_all_tasks_blocked()
        assert first.concluded == [True]
        assert sent(link) == []
        namespace.engine.resume(link.path(nsid=5))
        assert sent(link) == [("WRITE", 9)]
        link.answer()
        await wait_all_tasks_blocked()
        assert second.succeeded


async def test_what_was_lost_leaves_its_lbas_in_quarantine():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        old.fence = standing()
        namespace.engine.resume(old.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, 2 * L))
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer()
        await wait_all_tasks_blocked()
        assert writing.succeeded, "its repetition is not held up"
        assert [(one.slba, one.nlb) for one in namespace.quarantine.ranges()] == [(0, 2)]
        newer = launching.write(namespace, nursery, L, pattern(2, 2 * L))
        elsewhere = launching.write(namespace, nursery, 9 * L, pattern(3, L))
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 9)]
        assert [wait.quarantined for wait in namespace.waits()] == [True, False]
        new.answer()
        await wait_all_tasks_blocked()
        assert elsewhere.succeeded
        old.fence.lift("by hand")
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 1)]
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.succeeded
        assert namespace.quarantine.is_over


@pytest.mark.parametrize("prompt", [True, False])
async def test_what_is_under_way_fails_fast(prompt):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, L), prompt=prompt)
        reading = launching.read(namespace, nursery, 9 * L, L, prompt=prompt)
        namespace.engine.hold("the connection is being looked after")
        namespace.fail_fast("too long")
        for flight in (writing, reading):
            assert flight.concluded == [False]
            if not prompt:
                flight.see_through()
        await wait_all_tasks_blocked()
        assert isinstance(writing.error, NotConnectedError)
        assert isinstance(reading.error, NotConnectedError)
        assert not namespace.quarantine.is_over, "it may land yet"
        link.lose(namespace)
        assert namespace.quarantine.is_over


@pytest.mark.parametrize("how", ["fails fast", "goes"])
@pytest.mark.parametrize("prompt", [True, False])
async def test_who_waits_for_a_quarantine_fails_with_the_namespace_also_before_its_task(
    how, prompt
):
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        old.fence = standing()
        namespace.engine.resume(old.path())
        launching.write(namespace, nursery, 0, pattern(1, L))
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer()
        await wait_all_tasks_blocked()
        newer = launching.write(namespace, nursery, 0, pattern(2, L), prompt=prompt)
        await wait_all_tasks_blocked()
        new.lose(namespace)
        if how == "goes":
            namespace.end("removed")
        else:
            namespace.fail_fast("too long")
        if not prompt:
            newer.see_through()
        await wait_all_tasks_blocked()
        assert isinstance(newer.error, NamespaceGoneError if how == "goes" else NotConnectedError)
        assert len(namespace.quarantine) == 1
        old.fence.lift("by hand")
        assert namespace.quarantine.is_over


async def test_what_is_under_way_when_the_namespace_goes_may_still_succeed():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        answered = launching.write(namespace, nursery, 0, pattern(1, L))
        refused = launching.write(namespace, nursery, 9 * L, pattern(2, L))
        lost = launching.write(namespace, nursery, 20 * L, pattern(3, L))
        namespace.end("removed")
        link.answer()
        link.answer(status=s.INVALID_NAMESPACE)
        await wait_all_tasks_blocked()
        assert answered.concluded == [True]
        assert isinstance(refused.error, NamespaceGoneError)
        link.lose(namespace)
        await wait_all_tasks_blocked()
        assert isinstance(lost.error, NamespaceGoneError)
        assert namespace.waits() == []


async def test_no_more_is_acknowledged_than_can_be_remembered():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        namespace.engine.log.held_bytes = MAX_BYTES
        writing = launching.write(namespace, nursery, 0, pattern(1, L))
        link.answer()
        await wait_all_tasks_blocked()
        assert writing.concluded == [False]
        assert not writing.done
        assert sent(link) == [("FLUSH", 0)]
        newer = launching.write(namespace, nursery, 0, pattern(2, L))
        assert newer.launch.request.outstanding, "its LBAs were given back"
        link.answer(link.sent[0])
        await wait_all_tasks_blocked()
        assert writing.succeeded
        assert writing.error is None
        nursery.cancel_scope.cancel()
