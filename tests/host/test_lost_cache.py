"""What a volatile cache has lost, and what an operator decides: write it again, or accept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport import status as s
from nvmf_transport.errors import BusyError, CommandError, ConfigError, NotConnectedError, NvmfError

from .hosting import in_state, until
from .medium import LBA_BYTES, begin, pattern
from .scripted import Answer, Disk, Fate
from .volatile import Stage, io, resume, stage

L = LBA_BYTES
LOST, LIVE = ControllerState.LOST, ControllerState.LIVE
PAUSED = NamespaceState.PAUSED
OTHER = bytes(range(16, 32))


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
