"""Whoever waits for LBAs in quarantine, and how that can be ended."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.namespace import Namespace
from nvmf_transport import status as s
from nvmf_transport.errors import NotConnectedError
from nvmf_transport.nvme import NvmOpcode

from .ghosts import NEW, changes, lost, settle, standing
from .medium import LBA_BYTES, Link, Medium, begin, open_link, open_namespace, pattern

L = LBA_BYTES


async def quarantined(namespace: Namespace, one: Link, two: Link, medium: Medium) -> None:
    """LBAs 4 to 7 are in quarantine, the namespace is live over `two`."""
    async with trio.open_nursery() as nursery:
        a, _ = await lost(namespace, one, nursery)
        namespace.engine.resume(two.path())
        await settle(two, medium)
        assert a.done


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("how", ["killed", "failed fast", "gone", "by hand", "cancelled"])
async def test_what_waits_for_lbas_in_quarantine_can_be_ended(how, kind):
    namespace, medium = open_namespace(), Medium(64)
    async with open_link() as one, open_link() as two, trio.open_nursery() as nursery:
        await quarantined(namespace, one, two, medium)
        b = begin(nursery, NEW[kind], namespace)
        behind = begin(nursery, NEW[kind], namespace)
        await settle(two, medium)
        waits = [wait for wait in namespace.waits() if wait.quarantined]
        assert len(waits) == 2
        assert "old copy" in waits[0].reason
        before = changes(two)
        match how:
            case "killed":
                for wait in waits:
                    namespace.kill(wait.request)
            case "failed fast":
                two.lose(namespace)
                namespace.fail_fast("too long")
            case "gone":
                namespace.end("it was removed")
            case "by hand":
                assert namespace.fail_stuck("by hand") == 2
            case _:
                b.scope.cancel()
                behind.scope.cancel()
        await wait_all_tasks_blocked()
        assert (b.done, behind.done) == (True, True)
        assert changes(two) == before
        assert [held.slba for held in namespace.quarantine.ranges()] == [4]
        one.fence.lift("seen")
        assert len(namespace.line) == 0
        if how in ("killed", "by hand", "cancelled"):
            again = begin(nursery, NEW[kind], namespace)
            await settle(two, medium)
            assert again.error is None
            assert again.done


async def test_what_waited_in_quarantine_through_another_loss_is_sent_once():
    namespace, medium = open_namespace(), Medium(64)
    async with (
        open_link() as one,
        open_link() as two,
        open_link() as three,
        trio.open_nursery() as nursery,
    ):
        await quarantined(namespace, one, two, medium)
        b = begin(nursery, namespace.write, 4 * L, pattern(2, L))
        await wait_all_tasks_blocked()
        two.lose(namespace)
        one.fence.lift("seen")
        namespace.engine.resume(three.path())
        await settle(three, medium)
        assert b.done
        assert changes(three) == [(NvmOpcode.WRITE, [(4, 1)])]


async def test_fast_failure_leaves_nothing_waiting_and_ends_with_the_return(autojump_clock):
    """What is outstanding on queues that are not closed yet fails as well, and what pauses."""
    namespace, medium = open_namespace(), Medium(64)
    async with open_link() as one, open_link() as two, trio.open_nursery() as nursery:
        one.fence = standing()
        namespace.engine.resume(one.path())
        outstanding = begin(nursery, namespace.read, 0, L)
        pausing = begin(nursery, namespace.read, L, L)
        await wait_all_tasks_blocked()
        one.answer(one.sent[1], s.INTERNAL_ERROR)
        await wait_all_tasks_blocked()
        namespace.engine.hold("connection lost")
        waiting = begin(nursery, namespace.read, 0, L)
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        namespace.fail_fast("too long")
        late = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        for each in (outstanding, pausing, waiting, flush, late):
            assert each.done
            assert isinstance(each.error, NotConnectedError)
        assert trio.current_time() == began
        one.lose(namespace)
        namespace.engine.resume(two.path())
        fine = begin(nursery, namespace.write, 0, pattern(1, L))
        await settle(two, medium)
        assert fine.done
        assert fine.error is None
        # It was for that outage only.
        two.lose(namespace)
        waits = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert not waits.done
        waits.scope.cancel()


async def test_what_pauses_between_retries_is_killed_at_once_and_not_sent_again(autojump_clock):
    namespace = open_namespace()
    async with open_link() as one, trio.open_nursery() as nursery:
        namespace.engine.resume(one.path())
        pausing = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        one.answer(status=s.INTERNAL_ERROR)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        (wait,) = namespace.waits()
        namespace.kill(wait.request)
        await wait_all_tasks_blocked()
        assert isinstance(pausing.error, KilledError)
        assert trio.current_time() == began
        await trio.sleep(10)
        assert one.sent == []


async def test_a_live_namespace_does_not_fail_fast():
    namespace, medium = open_namespace(), Medium(64)
    async with open_link() as one, trio.open_nursery() as nursery:
        namespace.engine.resume(one.path())
        namespace.fail_fast("too long")
        namespace.engine.hold("being identified")
        waits = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert not waits.done
        namespace.engine.resume(one.path())
        await settle(one, medium)
        assert waits.error is None


async def test_failing_what_waits_behind_replays_is_for_that_time_only():
    namespace, medium = open_namespace(), Medium(64)
    async with open_link() as one, open_link() as two, trio.open_nursery() as nursery:
        a, _ = await lost(namespace, one, nursery)
        await wait_all_tasks_blocked()
        namespace.engine.resume(two.path())
        behind = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert not behind.done
        namespace.fail_fast("by hand")
        await settle(two, medium)
        assert isinstance(behind.error, NotConnectedError)
        assert a.done
        namespace.engine.hold("being identified")
        waits = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert not waits.done
        namespace.engine.resume(two.path())
        await settle(two, medium)
        assert waits.error is None


async def test_many_ranges_in_quarantine_cost_an_io_nothing():
    """Counted, not timed: the neighbours that a newcomer looks at, and what a Flush waits for."""
    namespace = open_namespace()
    line = namespace.line
    fence = standing()
    for slba in range(10_000):
        held = line._lock.enter(1000 * slba, 1000 * slba + 8)
        namespace.quarantine._settle(held, [fence])
    held = line._lock.enter(500, 508)
    assert held.blockers == 0
    assert line._lock.barrier().blockers == 1
    assert [len(piece) for piece in map(line._lock._pieces.get, (1, 0)) if piece] == [1, 1]
    assert len(line._lock._barring) == 1
    fence.lift("seen")
    assert len(line._lock) == 1
