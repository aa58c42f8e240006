"""Quarantine belongs to the namespace, not to its node: it survives both node and controller."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from nvmf_host.controller import Controller
from nvmf_host.fencing import Fence, Fences
from nvmf_host.host import Host
from nvmf_host.io_request import IoRequest, Kind
from nvmf_host.namespace import Namespace
from nvmf_host.quarantine import Quarantine
from nvmf_host.range_lock import RangeLock
from nvmf_host.state import ControllerState
from nvmf_transport.address import Address

from .hosting import hosting, in_state, params, until
from .medium import begin
from .scripted import Disk, Fate, Scripted, scripted

L = 512
A, B = Address("a", 4420), Address("b", 4420)
LOST = ControllerState.LOST
NEW = b"n" * L


def spans(namespace: Namespace) -> list[tuple[int, int]]:
    return [(held.slba, held.nlb) for held in namespace.quarantine.ranges()]


@attrs.define(eq=False)
class Stage:
    target: Scripted
    host: Host
    tasks: trio.Nursery

    async def lost_write(self, address: Address = A) -> Controller:
        """A controller whose first LBA has a write under way, and then no connection."""
        controller = await self.host.connect(params(address=address, duplicate=True))
        self.target.faults["WRITE"] = Fate.SILENT
        begin(self.tasks, controller.namespaces[1].write, 0, b"o" * L)
        await until(lambda: "WRITE" in self.target.names())
        return controller

    async def lose(self, controller: Controller) -> None:
        self.target.close_queue(0)
        await in_state(controller, LOST)
        self.target.faults.clear()


@asynccontextmanager
async def stage(announce, **fields) -> AsyncIterator[Stage]:
    announce("association lost", optional=True)
    announce("may still land|unknown outcome|could not be told|read-only here", optional=True)
    target = Scripted(**fields)
    async with (
        scripted(target, A, B),
        hosting(target.network) as (host, _),
        trio.open_nursery() as tasks,
    ):
        yield Stage(target, host, tasks)
        tasks.cancel_scope.cancel()


async def test_the_next_node_of_a_namespace_takes_it_over(autojump_clock, announce):
    async with stage(announce) as it:
        controller = await it.lost_write()
        await it.lose(controller)
        lost_at = controller.since
        await it.host.disconnect(controller)
        other = await it.host.connect(params(address=B))
        namespace = other.namespaces[1]
        assert spans(namespace) == [(0, 1)]
        newer = begin(it.tasks, namespace.write, 0, NEW)
        elsewhere = begin(it.tasks, namespace.write, L, NEW)
        flush = begin(it.tasks, namespace.flush)
        await trio.sleep(1)
        assert (newer.done, elsewhere.done, flush.done) == (False, True, True)
        await trio.sleep_until(lost_at + 29.9)
        assert not newer.done
        await trio.sleep_until(lost_at + 30.1)
        assert newer.done
        assert spans(namespace) == []


async def test_it_goes_on_from_node_to_node(autojump_clock, announce):
    async with stage(announce) as it:
        controller = await it.lost_write()
        await it.lose(controller)
        await it.host.disconnect(controller)
        for _ in range(3):
            controller = await it.host.connect(params(address=A))
            assert spans(controller.namespaces[1]) == [(0, 1)]
            await it.host.disconnect(controller)
        await trio.sleep(40)
        controller = await it.host.connect(params(address=A))
        await until(lambda: not spans(controller.namespaces[1]), limit_s=1)


async def test_nodes_without_one_leave_nothing_behind(autojump_clock, announce):
    """Whose namespaces never come back under the same identity."""
    async with stage(announce) as it:
        for number in range(3):
            it.target.disks[1] = Disk(uuid=bytes([number]) * 16)
            controller = await it.host.connect(params(address=A))
            await controller.namespaces[1].write(0, NEW)
            await it.host.disconnect(controller)
        assert it.host._estates == {}


async def test_another_namespace_gets_none_of_it(autojump_clock, announce):
    async with stage(announce) as it:
        controller = await it.lost_write()
        await it.lose(controller)
        await it.host.disconnect(controller)
        it.target.disks[1] = Disk(uuid=bytes(range(16, 32)))
        controller = await it.host.connect(params(address=A))
        assert spans(controller.namespaces[1]) == []


async def test_a_second_path_that_becomes_the_first_takes_it_over_and_wakes(
    autojump_clock, announce
):
    """Its controller is idle, and has to learn that there is a time to look at."""
    first = Scripted()
    second = Scripted(network=first.network, disks=first.disks)
    announce("association lost|may still land|unknown outcome|could not|read-only here")
    async with (
        scripted(first, A),
        scripted(second, B),
        hosting(first.network) as (host, _),
        trio.open_nursery() as tasks,
    ):
        it = Stage(first, host, tasks)
        controller = await it.lost_write()
        other = await host.connect(params(address=B))
        namespace = other.namespaces[1]
        assert namespace.read_only
        await it.lose(controller)
        lost_at = controller.since
        await trio.sleep(5)
        await host.disconnect(controller)
        assert not namespace.read_only
        newer = begin(tasks, namespace.write, 0, NEW)
        await trio.sleep_until(lost_at + 29.9)
        assert not newer.done
        await trio.sleep_until(lost_at + 30.1)
        assert newer.done
        tasks.cancel_scope.cancel()


async def test_a_namespace_that_went_with_writes_under_way_and_came_back(autojump_clock, announce):
    """It is removed while connected; what was under way is lost later, and then quarantined."""
    async with stage(announce) as it:
        controller = await it.lost_write()
        disk = it.target.disks.pop(1)
        it.target.event(1)
        await until(lambda: not controller.namespaces)
        it.target.disks[1] = disk
        it.target.event(1)
        await until(lambda: controller.namespaces)
        namespace = controller.namespaces[1]
        assert spans(namespace) == []
        await it.lose(controller)
        assert spans(namespace) == [(0, 1)]
        await controller.reconnect(controller.params)
        newer = begin(it.tasks, namespace.write, 0, NEW)
        await trio.sleep(29)
        assert not newer.done
        await trio.sleep(2)
        assert newer.done


# By itself.


def lost(*fences: Fence) -> IoRequest:
    request = IoRequest(Kind.WRITE, 1, 0, 8)
    request.fences = list(fences)
    return request


async def test_it_begins_when_no_command_is_outstanding():
    lock = RangeLock()
    quarantine = Quarantine(lock)
    fence = Fence(1)
    request = lost()
    request.outstanding = 2
    quarantine.let_go(lock.enter(0, 8), request)
    assert (len(lock), len(quarantine)) == (1, 0)
    request.outstanding = 0
    request.fences.append(fence)
    assert request.on_idle is not None
    request.on_idle()
    assert (len(lock), len(quarantine)) == (1, 1)
    fence.lift("seen")
    assert (len(lock), len(quarantine)) == (0, 0)


@pytest.mark.parametrize("fences", [[], [Fence(1, lifted="reset")]], ids=["not lost", "lost"])
async def test_what_cannot_land_is_given_back_at_once(fences):
    lock = RangeLock()
    Quarantine(lock).let_go(lock.enter(0, 8), lost(*fences))
    assert len(lock) == 0


async def test_the_heir_of_an_heir_gets_what_comes_late():
    quarantines, fences = [Quarantine(RangeLock()) for _ in range(3)], Fences()
    quarantines[0].bequeath(quarantines[1], fences)
    quarantines[1].bequeath(quarantines[2], fences)
    fence = Fence(1)
    first = quarantines[0]
    first.let_go(first._lock.enter(0, 8), lost(fence))
    assert [len(each) for each in quarantines] == [1, 1, 1]
    assert fences.standing() == [fence]
    fences.lift_all("vouched for")
    assert [len(each) for each in quarantines] == [0, 0, 0]
    assert [len(each._lock) for each in quarantines] == [0, 0, 0]
