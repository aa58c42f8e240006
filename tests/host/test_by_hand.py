"""What an operator decides: writing again, accepting, letting go, failing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from nvmf_host.messages import FailRequest, ResumeRequest, SetRequest
from nvmf_host.service import Requests
from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport import status as s
from nvmf_transport.errors import (
    BusyError,
    CommandError,
    ConfigError,
    NotConnectedError,
    NvmfError,
)
from nvmf_transport.nvme import NvmOpcode

from .hosting import in_state, params, until
from .medium import LBA_BYTES, begin, pattern
from .scripted import Answer, Disk, Fate, Scripted
from .volatile import Stage, stage

L = LBA_BYTES
LOST, LIVE = ControllerState.LOST, ControllerState.LIVE
PAUSED = NamespaceState.PAUSED
OTHER = bytes(range(16, 32))
NODE = "nvme0ns1"


async def resume(it: Stage, *, rewrite: bool = False, accept: bool = False) -> None:
    await Requests(it.host).handle(ResumeRequest(device=NODE, rewrite=rewrite, accept=accept))


def io(target: Scripted) -> list[tuple[str, int]]:
    """I/O commands with their SLBA."""
    return [
        (seen.what, int.from_bytes(seen.sqe[40:48], "little"))
        for seen in target.seen
        if seen.qid > 0 and seen.what in NvmOpcode.__members__
    ]


@asynccontextmanager
async def lost_writes(announce, **fields) -> AsyncIterator[Stage]:
    """LBAs 2 to 9 were written, over each other too; 4, 5 and 8 have lost it."""
    announce("the medium does not have what was acknowledged")
    announce("resumed by hand", optional=True)
    async with stage(announce, **fields) as it:
        await it.namespace.write(2 * L, pattern(1, 8 * L))
        await it.namespace.write(4 * L, pattern(2, L))
        await it.namespace.write_zeroes(8, 1)
        it.disk[4 * L : 6 * L] = pattern(9, 2 * L)
        it.disk[8 * L : 9 * L] = pattern(9, L)
        await it.lose()
        await it.back()
        assert it.state is PAUSED
        it.target.seen.clear()
        yield it


WANTED = pattern(1, 2 * L) + pattern(2, L) + pattern(1, 3 * L) + bytes(L) + pattern(1, L)


# What a volatile cache has lost.


async def test_writing_again_makes_the_medium_what_it_was(autojump_clock, announce):
    async with lost_writes(announce) as it:
        it.in_background(it.namespace.write, 3 * L, pattern(5, L))
        await trio.sleep(1)
        await resume(it, rewrite=True)
        assert it.state is NamespaceState.LIVE
        await until(lambda: it.lbas(3) == pattern(5, L))
        assert it.lbas(2, 8) == WANTED[:L] + pattern(5, L) + WANTED[2 * L :]
        # Only what was lost is written, the newest of it, and flushed before anything goes on.
        changes = [each for each in io(it.target) if each[0] != "READ"]
        assert changes == [("WRITE", 4), ("WRITE", 5), ("WRITE", 8), ("FLUSH", 0), ("WRITE", 3)]
        assert it.namespace.losses == 0


async def test_accepting_tells_whoever_asks_for_durability(autojump_clock, announce):
    async with lost_writes(announce) as it:
        before = bytes(it.disk)
        await resume(it, accept=True)
        assert it.state is NamespaceState.LIVE
        assert it.disk == before
        assert it.namespace.losses == 1
        assert not it.namespace.engine.dirty
        assert io(it.target) == []


async def test_it_is_one_of_the_two(autojump_clock, announce):
    async with lost_writes(announce) as it:
        with pytest.raises(ConfigError, match="--rewrite or --accept"):
            await resume(it)
        with pytest.raises(ConfigError, match="one of"):
            await resume(it, rewrite=True, accept=True)
        assert it.state is PAUSED
        assert io(it.target) == []
        await resume(it, accept=True)
        with pytest.raises(BusyError, match="nothing to resume"):
            await resume(it, accept=True)


async def test_a_value_that_somebody_may_have_read_is_not_undone(autojump_clock, announce):
    """An interrupted write had landed where another LBA was lost."""
    announce("at LBA 7: ")
    announce("resumed by hand")
    async with stage(announce) as it:
        await it.namespace.write(4 * L, pattern(1, 4 * L))
        it.target.faults["WRITE"] = Fate.SILENT
        it.in_background(it.namespace.write, 4 * L, pattern(2, 2 * L))
        await until(lambda: it.target.names().count("WRITE") == 2)
        for wait in it.namespace.waits():
            it.namespace.kill(wait.request)
        await it.lose()
        it.target.faults.clear()
        it.disk[4 * L : 5 * L] = pattern(2, L)
        it.disk[7 * L : 8 * L] = bytes(L)
        await it.back()
        await resume(it, rewrite=True)
        assert it.lbas(4, 4) == pattern(2, L) + pattern(1, 3 * L)


@pytest.mark.parametrize("where", ["READ", "WRITE", "FLUSH"])
async def test_a_loss_while_writing_again_changes_nothing(where, autojump_clock, announce):
    async with lost_writes(announce, ciu=1, cirn=1) as it:
        it.target.faults[where] = Fate.CLOSE
        with pytest.raises(NvmfError):
            await resume(it, rewrite=True)
        await in_state(it.controller, LOST)
        it.target.faults.clear()
        it.target.seen.clear()
        assert it.state is PAUSED
        assert it.namespace.engine.dirty
        # An I/O queue was lost, so the controller was reset, and nothing of it can land.
        await it.back()
        if where == "FLUSH":
            assert it.state is NamespaceState.LIVE
        else:
            assert it.state is PAUSED
            await resume(it, rewrite=True)
        assert it.lbas(2, 8) == WANTED


async def test_what_was_written_again_and_lost_may_land_late(autojump_clock, announce):
    """Nothing goes on before it cannot: what waits came before it, and no range holds it back."""
    announce("the old controller stopped")
    async with lost_writes(announce) as it:
        it.in_background(it.namespace.write, 4 * L, pattern(7, L))
        it.target.faults["WRITE"] = Fate.SILENT
        it.in_background(lambda: resume(it, rewrite=True))
        await until(lambda: ("WRITE", 4) in io(it.target))
        it.target.close_queue(0)
        await in_state(it.controller, LOST)
        lost_at = it.controller.since
        it.target.faults.clear()
        await it.back()
        assert it.state is NamespaceState.HELD
        assert "may still land" in it.namespace.last_error
        with pytest.raises(BusyError, match="not paused"):
            await resume(it, accept=True)
        await trio.sleep_until(lost_at + 29)
        assert it.state is NamespaceState.HELD
        it.disk[4 * L : 5 * L] = pattern(2, L)
        await trio.sleep_until(lost_at + 31)
        assert it.state is PAUSED
        assert "LBA 5" in it.namespace.last_error
        await resume(it, rewrite=True)
        await until(lambda: it.lbas(4) == pattern(7, L))


async def test_it_is_written_again_once_at_a_time(autojump_clock, announce):
    async with lost_writes(announce) as it:
        it.target.delays["WRITE"] = 1.0
        it.in_background(lambda: resume(it, rewrite=True))
        await trio.sleep(0.5)
        with pytest.raises(BusyError, match="already"):
            await resume(it, rewrite=True)
        await until(lambda: it.state is NamespaceState.LIVE)
        assert it.lbas(2, 8) == WANTED


async def test_a_namespace_that_changes_meanwhile_is_not_written_to(autojump_clock, announce):
    announce("paused: not the same namespace")
    async with lost_writes(announce) as it:
        it.target.delays["WRITE"] = 1.0
        outcome = begin(it.tasks, lambda: resume(it, rewrite=True))
        await until(lambda: ("WRITE", 4) in io(it.target))
        it.target.disks[1].uuid = OTHER
        it.target.event(1)
        await until(lambda: outcome.done)
        assert isinstance(outcome.error, BusyError)
        assert "changed meanwhile" in str(outcome.error)
        assert io(it.target).count(("WRITE", 5)) == 0
        await until(lambda: it.namespace.engine.cause is PauseCause.IDENTITY)
        assert it.state is PAUSED


async def test_writing_again_with_nobody_waiting_leaves_no_write_behind(autojump_clock, announce):
    async with lost_writes(announce) as it:
        it.target.delays["WRITE"] = 5.0
        with trio.move_on_after(1) as scope:
            await resume(it, rewrite=True)
        assert scope.cancelled_caught
        assert io(it.target)[-1] == ("WRITE", 4)
        assert it.lbas(4) == pattern(2, L), "the write that was under way has ended"
        assert it.state is PAUSED
        it.target.delays.clear()
        await resume(it, rewrite=True)
        assert it.lbas(2, 8) == WANTED


async def test_a_rewrite_that_is_refused_leaves_it_paused(autojump_clock, announce):
    async with lost_writes(announce) as it:
        it.target.faults["WRITE"] = Answer(s.WRITE_PROTECTED)
        with pytest.raises(CommandError):
            await resume(it, rewrite=True)
        assert it.state is PAUSED
        assert it.namespace.engine.dirty


async def test_nothing_is_decided_without_a_connection(autojump_clock, announce):
    async with lost_writes(announce) as it:
        await it.lose()
        for fields in ({"rewrite": True}, {"accept": True}, {}):
            with pytest.raises(NotConnectedError):
                await resume(it, **fields)
        # Nor on one over which nothing was identified yet.
        it.target.delays["IDENTIFY 02h"] = 1.0
        it.in_background(it.back)
        await until(lambda: it.controller.association is not None)
        with pytest.raises(BusyError, match="being identified"):
            await resume(it, accept=True)


async def test_nothing_is_decided_while_another_namespace_is_being_looked_at(
    autojump_clock, announce
):
    disks = {1: Disk(), 2: Disk(uuid=OTHER)}
    announce("at LBA 0: ")
    async with stage(announce, disks=disks) as it:
        for namespace in it.controller.namespaces.values():
            await namespace.write(0, pattern(1, L))
        it.disk[0] = 0
        await it.lose()
        # The first one is read back, and paused; the second takes its time.
        it.target.delays["READ"] = 5.0
        it.in_background(it.back)
        await until(lambda: it.state is PAUSED)
        with pytest.raises(BusyError, match="are being identified"):
            await resume(it, accept=True)
        await in_state(it.controller, LIVE)
        announce("resumed by hand")
        await resume(it, accept=True)


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
