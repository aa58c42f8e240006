"""What an operator decides: another namespace, letting go, failing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from nvmf_host.messages import FailRequest, SetRequest
from nvmf_host.service import Requests
from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport.errors import BusyError, ConfigError, NotConnectedError

from .hosting import params, until
from .medium import LBA_BYTES, pattern
from .scripted import Disk
from .volatile import NODE, Stage, io, resume, stage

L = LBA_BYTES
LIVE = ControllerState.LIVE
PAUSED = NamespaceState.PAUSED
OTHER = bytes(range(16, 32))

# Another namespace.


async def test_accepting_another_namespace_gives_up_what_was_not_flushed(autojump_clock, announce):
    announce("not the same namespace")
    announce("resumed by hand")
    async with stage(announce) as it:
        await it.namespace.write(0, pattern(1, L))
        await it.lose()
        it.target.disks[1] = Disk(uuid=OTHER)
        it.in_background(it.namespace.write, L, pattern(2, L))
        await it.back()
        for fields in ({}, {"rewrite": True}):
            with pytest.raises(ConfigError, match="--accept takes it for the same"):
                await resume(it, **fields)
        await resume(it, accept=True)
        await until(lambda: it.lbas(1) == pattern(2, L))
        assert it.lbas(0) == bytes(L)
        assert it.namespace.losses == 1
        assert it.namespace.info().uuid is not None
        assert it.namespace.description.uuid == OTHER
        # From now on this is the one that has to be there.
        await it.lose()
        await it.back()
        assert it.state is NamespaceState.LIVE


async def test_a_second_path_is_one_also_to_a_namespace_that_was_accepted(autojump_clock, announce):
    announce("not the same namespace")
    announce("resumed by hand")
    announce("nvme1ns1 is the same namespace as nvme0ns1, and read-only here")
    async with stage(announce) as it:
        await it.lose()
        it.target.disks[1] = Disk(uuid=OTHER)
        await it.back()
        await resume(it, accept=True)
        second = await it.host.connect(params(duplicate=True))
        assert second.namespaces[1].same_as == NODE
        assert it.namespace.same_as is None


async def test_a_node_does_not_become_what_another_node_is_already(autojump_clock, announce):
    announce("not the same namespace")
    async with stage(announce) as it:
        await it.lose()
        it.target.disks[1] = Disk(uuid=OTHER)
        second = await it.host.connect(params(duplicate=True))
        await it.back()
        with pytest.raises(BusyError, match="nvme1ns1 is the namespace that it would become"):
            await resume(it, accept=True)
        assert it.state is PAUSED
        assert not second.namespaces[1].read_only


async def test_what_is_offered_has_to_be_known(autojump_clock, announce):
    """A change is reported, and not looked at yet: nobody accepts what may be gone."""
    announce("not the same namespace")
    async with stage(announce) as it:
        await it.lose()
        it.target.disks[1] = Disk(uuid=OTHER)
        await it.back()
        it.target.delays["IDENTIFY 00h"] = 1.0
        it.target.event(1)
        await trio.sleep(0.5)
        with pytest.raises(BusyError, match="being identified"):
            await resume(it, accept=True)
        await trio.sleep(2)
        announce("resumed by hand")
        await resume(it, accept=True)


async def test_what_is_missing_cannot_be_resumed(autojump_clock, announce):
    announce("not active there")
    async with stage(announce) as it:
        await it.lose()
        disk = it.target.disks.pop(1)
        await it.back()
        with pytest.raises(BusyError, match="not active"):
            await resume(it, accept=True)
        it.target.disks[1] = disk
        it.target.event(1)
        await until(lambda: it.state is NamespaceState.LIVE)


async def test_the_end_does_not_take_another_namespaces_flush_for_ours(autojump_clock, announce):
    """It was remapped while connected, with writes that were not flushed."""
    announce("not the same namespace")
    async with stage(announce) as it:
        await it.namespace.write(0, pattern(1, L))
        it.target.disks[1] = Disk(uuid=OTHER)
        it.target.event(1)
        await until(lambda: it.state is PAUSED)
        problems = await it.host.disconnect(it.controller)
        assert "FLUSH" not in it.target.names()
        assert any("may not be durable" in problem for problem in problems)


# A long outage.


@asynccontextmanager
async def long_outage(
    announce, *, shared: bool, write: bool, away_s: float
) -> AsyncIterator[Stage]:
    announce("resumed by hand", optional=True)
    announce("replay limit", optional=True)
    async with stage(announce) as it:
        if shared:
            it.target.nmic = 1
        await it.lose()
        if write:
            it.in_background(it.namespace.write, 0, pattern(1, L))
        it.in_background(it.namespace.read, 0, L)
        await trio.sleep(away_s)
        await it.back()
        yield it


@pytest.mark.parametrize(
    ("shared", "write", "away_s", "paused"),
    [
        (True, True, 601, True),
        (True, True, 599, False),
        (True, False, 601, False),
        (False, True, 601, False),
    ],
)
async def test_waiting_writes_may_be_too_old(
    shared, write, away_s, paused, autojump_clock, announce
):
    async with long_outage(announce, shared=shared, write=write, away_s=away_s) as it:
        await trio.sleep(1)
        assert (it.state is PAUSED) is paused
        assert len(it.namespace.waits()) == (2 if paused else 0)
        if paused:
            assert it.namespace.engine.cause is PauseCause.REPLAY_LIMIT
            assert it.lbas(0) == bytes(L)
            await resume(it)
            await until(lambda: it.lbas(0) == pattern(1, L))
            assert it.namespace.waits() == []


@pytest.mark.parametrize("change", ["unaligned", "zeroes", "deallocation"])
async def test_changes_that_have_to_look_first_may_be_too_old_too(change, autojump_clock, announce):
    announce("replay limit")
    announce("resumed by hand")
    async with stage(announce, nmic=1) as it:
        await it.lose()
        it.target.seen.clear()
        namespace = it.namespace
        if change == "unaligned":
            it.in_background(namespace.write, 5, b"new")
        elif change == "zeroes":
            it.in_background(namespace.write_zeroes, 0, 1)
        else:
            it.in_background(namespace.deallocate, [(0, 1)])
        await trio.sleep(601)
        await it.back()
        await trio.sleep(1)
        assert it.state is PAUSED
        assert namespace.engine.cause is PauseCause.REPLAY_LIMIT
        assert io(it.target) == []
        await resume(it)
        await until(lambda: not namespace.waits())
        assert [each for each in io(it.target) if each[0] != "READ"] != []


async def test_a_loss_after_it_was_let_go_begins_the_time_anew(autojump_clock, announce):
    async with long_outage(announce, shared=True, write=True, away_s=601) as it:
        await resume(it)
        await it.lose()
        it.in_background(it.namespace.write, 0, pattern(2, L))
        await trio.sleep(599)
        await it.back()
        await until(lambda: it.lbas(0) == pattern(2, L))


async def test_what_was_let_go_is_not_too_old_again(autojump_clock, announce):
    """Another cause stops it; when it is looked at again for that, nobody is asked twice."""
    announce("at LBA 5: ")
    announce("replay limit")
    announce("resumed by hand")
    async with stage(announce, nmic=1) as it:
        await it.namespace.write(5 * L, pattern(1, L))
        it.disk[5 * L] = 0
        await it.lose()
        it.in_background(it.namespace.write, 0, pattern(1, L))
        await trio.sleep(601)
        await it.back()
        assert "replay limit" in it.namespace.last_error
        await resume(it)
        it.target.event(1)
        await trio.sleep(1)
        assert it.state is PAUSED
        assert it.namespace.engine.cause is PauseCause.UNFLUSHED_LOST


async def test_what_is_too_old_can_be_failed_instead(autojump_clock, announce):
    async with long_outage(announce, shared=True, write=True, away_s=601) as it:
        await Requests(it.host).handle(FailRequest(device=NODE))
        await trio.sleep(1)
        assert it.namespace.waits() == []
        with pytest.raises(NotConnectedError, match="by hand"):
            await it.namespace.read(0, L)
        await resume(it)
        assert await it.namespace.read(0, L) == bytes(L)


async def test_the_limit_can_be_changed_while_it_is_away(autojump_clock, announce):
    announce("replay limit")
    async with stage(announce, nmic=1) as it:
        await it.lose()
        it.in_background(it.namespace.write, 0, pattern(1, L))
        await trio.sleep(20)
        await Requests(it.host).handle(SetRequest(device="nvme0", replay_limit_s=10))
        await it.back()
        assert it.state is PAUSED


async def test_failing_is_for_what_waits(autojump_clock, announce):
    async with stage(announce) as it:
        with pytest.raises(BusyError, match="nothing waits"):
            await Requests(it.host).handle(FailRequest(device=NODE))
