"""Old copies of lost writes: nothing newer is sent onto their LBAs before they cannot land."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.fencing import Fence, Fences, when_all_lifted
from nvmf_transport import status as s
from nvmf_transport.errors import CommandError, NamespaceGoneError, NotConnectedError
from nvmf_transport.nvme import NvmOpcode

from .ghosts import NEW, OLD, changes, settle, standing
from .medium import LBA_BYTES, Medium, begin, opcode, open_link, open_namespace, pattern

L = LBA_BYTES

# The fence itself.


@pytest.mark.parametrize(
    ("kato_s", "traffic_based", "cqt_s", "wait_s"),
    [
        (15.0, False, 0.0, 30.0),
        (15.0, True, 0.0, 45.0),
        (1.0, False, 2.5, 4.5),
        (0.0, True, 9, None),
    ],
)
def test_when_time_lifts_it(kato_s, traffic_based, cqt_s, wait_s):
    fences = Fences()
    fence = Fence(1, kato_s=kato_s, traffic_based=traffic_based, cqt_s=cqt_s)
    fences.look(1e9)
    fences.add(fence, 100.0)
    if wait_s is None:
        fences.look(1e12)
        assert fence.stands
        assert fences.next_at() == float("inf")
        fences.lift_all("somebody vouches for it")
    else:
        assert fences.next_at() == 100 + wait_s
        fences.look(100 + wait_s - 0.001)
        assert fence.stands
        fences.look(100 + wait_s)
    assert not fence.stands
    assert len(fences) == 0


def test_it_is_lifted_once_and_calls_back_once():
    fence, calls = standing(), []
    fence.when_lifted(lambda: calls.append("before"))
    fence.lift("reset")
    fence.lift("again")
    fence.when_lifted(lambda: calls.append("after"))
    assert calls == ["before", "after"]
    assert fence.lifted == "reset"


def test_all_of_several_have_to_be_lifted():
    calls: list[int] = []
    first, second, lifted = standing(1), standing(2), standing(3)
    lifted.lift("reset")
    # The same one twice: a write can be found lost with it in two ways.
    when_all_lifted([first, second, first, lifted], lambda: calls.append(1))
    first.lift("reset")
    assert calls == []
    second.lift("reset")
    assert calls == [1]
    when_all_lifted([lifted], lambda: calls.append(2))
    assert calls == [1, 2]


def test_a_controller_that_looks_after_the_fence_of_another_is_told_of_its_time():
    told: list[float] = []
    theirs, ours = Fences(), Fences(lambda: told.append(ours.next_at()))
    fence = standing()
    ours.adopt(fence)
    ours.adopt(fence)
    theirs.add(fence, 100.0)
    assert told == [float("inf"), 130.0]
    ours.look(130.0)
    assert not fence.stands
    ours.adopt(fence)
    assert len(ours) == 0


# The ghost.


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("old", OLD)
async def test_nothing_newer_is_sent_until_the_old_copy_cannot_land(old, new):
    namespace, medium = open_namespace(), Medium(64)
    medium.data[:] = pattern(9, 64 * L)
    async with open_link() as first, open_link() as second, trio.open_nursery() as nursery:
        first.fence = standing()
        namespace.engine.resume(first.path())
        a = begin(nursery, OLD[old], namespace)
        await wait_all_tasks_blocked()
        while opcode(first.sent[0]) is NvmOpcode.READ:
            first.settle(medium)
            await wait_all_tasks_blocked()
        ghosts = first.lose(namespace)
        b = begin(nursery, NEW[new], namespace)
        namespace.engine.resume(second.path())
        await settle(second, medium)
        assert a.done
        assert a.error is None
        assert len(namespace.quarantine) == 1
        assert not b.done
        repeated = changes(second)
        after_a = bytes(medium.data)

        # Everything else goes on: other LBAs, reads, and a Flush behind what is stuck.
        others = [
            begin(nursery, namespace.write, 30 * L, pattern(3, L)),
            begin(nursery, namespace.read, 0, 64 * L),
            begin(nursery, namespace.flush),
        ]
        await settle(second, medium)
        assert all(each.done and each.error is None for each in others)
        assert changes(second) == [*repeated, (NvmOpcode.WRITE, [(30, 1)])]

        for ghost in ghosts:
            medium.execute(ghost)
        assert medium.data[: 30 * L] == after_a[: 30 * L], "the same bytes again"
        first.fence.lift("seen")
        await settle(second, medium)
        assert b.done
        assert b.error is None
        assert len(changes(second)) > len(repeated) + 1
        assert namespace.quarantine.ranges() == []
        assert medium.data != after_a


@pytest.mark.parametrize("offset", [4 * L, 4 * L + 1])
async def test_a_write_lost_several_times_needs_every_fence(offset):
    namespace, medium = open_namespace(), Medium(64)
    async with (
        open_link() as one,
        open_link() as two,
        open_link() as three,
        trio.open_nursery() as nursery,
    ):
        fences = []
        a = begin(nursery, namespace.write, offset, pattern(1, L))
        for link in (one, two):
            link.fence = standing()
            fences.append(link.fence)
            namespace.engine.resume(link.path())
            await wait_all_tasks_blocked()
            while opcode(link.sent[0]) is NvmOpcode.READ:
                link.settle(medium)
                await wait_all_tasks_blocked()
            link.lose(namespace)
        namespace.engine.resume(three.path())
        b = begin(nursery, namespace.write, offset, pattern(2, L))
        await settle(three, medium)
        assert a.done
        (held,) = namespace.quarantine.ranges()
        assert held.fences == tuple(fences)
        fences[1].lift("seen")
        await settle(three, medium)
        assert not b.done
        assert held.stands
        fences[0].lift("seen")
        await settle(three, medium)
        assert b.done
        assert not held.stands


async def test_a_loss_before_it_was_sent_needs_no_fence():
    namespace, medium = open_namespace(), Medium(64)
    async with open_link(entries=2) as one, open_link() as two, trio.open_nursery() as nursery:
        one.fence = standing()
        namespace.engine.resume(one.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        unsent = begin(nursery, namespace.write, 5 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        one.lose(namespace)
        namespace.engine.resume(two.path())
        await settle(two, medium)
        assert unsent.done
        assert [held.slba for held in namespace.quarantine.ranges()] == [0]


@pytest.mark.parametrize(
    ("where", "how"),
    [
        (where, how)
        for where in ("in flight", "waiting", "sent again", "reading again")
        for how in ("killed", "cancelled", "failed fast", "gone", "refused")
        # Before it is sent again there is nobody to refuse it.
        if how != "refused" or "again" in where
    ],
)
async def test_ending_the_wait_for_a_lost_write_does_not_lift_its_quarantine(where, how):
    namespace, medium = open_namespace(), Medium(64)
    offset = 4 * L + 1 if where == "reading again" else 4 * L
    async with open_link() as one, open_link() as two, trio.open_nursery() as nursery:
        one.fence = standing()
        namespace.engine.resume(one.path())
        length = L - 1 if where == "reading again" else L
        a = begin(nursery, namespace.write, offset, pattern(1, length))
        await wait_all_tasks_blocked()
        while opcode(one.sent[0]) is NvmOpcode.READ:
            one.settle(medium)
            await wait_all_tasks_blocked()
        if where != "in flight":
            one.lose(namespace)
        if where in ("sent again", "reading again"):
            namespace.engine.resume(two.path())
            await wait_all_tasks_blocked()
            again = NvmOpcode.READ if where == "reading again" else NvmOpcode.WRITE
            assert opcode(two.sent[0]) is again
        await wait_all_tasks_blocked()
        match how:
            case "killed":
                for wait in namespace.waits():
                    namespace.kill(wait.request)
            case "cancelled":
                a.scope.cancel()
            case "failed fast":
                if two.sent:
                    two.lose(namespace)
                elif where == "in flight":
                    one.lose(namespace)
                namespace.fail_fast("too long")
            case "gone":
                namespace.end("it was removed")
                if two.sent:
                    two.lose(namespace)
                elif where == "in flight":
                    one.lose(namespace)
            case _:
                while two.sent:
                    two.answer(status=s.WRITE_PROTECTED)
                    await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert a.done
        if how == "cancelled":
            assert a.cancelled
        else:
            assert isinstance(
                a.error, KilledError | NotConnectedError | NamespaceGoneError | CommandError
            )
        if where in ("in flight", "sent again") and how in ("killed", "cancelled"):
            assert namespace.quarantine.ranges() == [], "it holds its LBAs itself yet"
            (one if where == "in flight" else two).lose(namespace)
            await wait_all_tasks_blocked()
        (held,) = namespace.quarantine.ranges()
        assert (held.slba, held.nlb) == (4, 1)
        assert held.stands
        one.fence.lift("seen")
        assert namespace.quarantine.ranges() == []
