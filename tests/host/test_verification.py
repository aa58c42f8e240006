"""A volatile cache: what was acknowledged and not flushed is looked for before I/O goes on."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.cache_log import MAX_BYTES
from nvmf_host.errors import KilledError
from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport import status as s
from nvmf_transport.errors import NotConnectedError, NvmfError
from nvmf_transport.nvme import NvmOpcode

from .hosting import in_state, until
from .medium import (
    LBA_BYTES,
    Medium,
    begin,
    controller_data,
    describe,
    opcode,
    open_link,
    open_namespace,
    pattern,
)
from .scripted import Answer, Disk, Fate
from .volatile import stage

L = LBA_BYTES
LOST, LIVE = ControllerState.LOST, ControllerState.LIVE


async def test_what_is_still_there_lets_all_go_on(autojump_clock, announce):
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, 2 * L))
        await it.namespace.write_zeroes(4, 1)
        it.disk[4 * L : 5 * L] = bytes(L)
        await it.lose()
        it.in_background(it.namespace.write, 3 * L, pattern(2, L))
        await trio.sleep(0.1)
        await it.back()
        await until(lambda: it.lbas(3) == pattern(2, L))
        io = [seen.what for seen in it.target.seen if seen.qid > 0 and "CONN" not in seen.what]
        assert io == ["READ", "READ", "WRITE"]
        assert it.namespace.losses == 0
        # They are unflushed still.
        await it.lose()
        await it.back()
        assert it.target.names().count("READ") == 2
        await it.namespace.flush()
        await it.lose()
        await it.back()
        assert "READ" not in it.target.names()


async def test_what_was_lost_pauses_it_and_says_where(autojump_clock, announce):
    announce("the medium does not have what was acknowledged, at LBA 3, LBAs 6 to 7: the target")
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, 5 * L))
        for lba in (3, 6, 7):
            it.disk[lba * L] ^= 1
        before = bytes(it.disk)
        await it.lose()
        it.in_background(it.namespace.write, 3 * L, pattern(2, L))
        it.in_background(it.namespace.read, 0, L)
        await it.back()
        await trio.sleep(1000)
        assert it.state is NamespaceState.PAUSED
        assert it.namespace.engine.cause is PauseCause.UNFLUSHED_LOST
        assert len(it.namespace.waits()) == 2
        assert it.disk == before


async def test_only_as_many_differences_are_named_as_help(autojump_clock, announce):
    announce("at LBA 0, LBA 2, LBA 4, LBA 6: the target")
    async with stage(announce) as it:
        await it.namespace.write(0, pattern(1, 64 * L))
        for lba in range(0, 64, 2):
            it.disk[lba * L] ^= 1
        await it.lose()
        await it.back()


@pytest.mark.parametrize("found", ["before", "after", "torn", "neither"])
async def test_an_interrupted_write_may_have_landed_or_not(found, autojump_clock, announce):
    """LBA by LBA; and its LBAs are looked at as all others are."""
    if found == "neither":
        announce("at LBA 5: ")
    async with stage(announce) as it:
        await it.namespace.write(4 * L, pattern(1, 3 * L))
        it.target.faults["WRITE"] = Fate.SILENT
        it.in_background(it.namespace.write, 5 * L, pattern(2, 2 * L))
        await until(lambda: it.target.names().count("WRITE") == 2)
        await it.lose()
        it.target.faults.clear()
        match found:
            case "after":
                it.disk[5 * L : 7 * L] = pattern(2, 2 * L)
            case "torn":
                it.disk[6 * L : 7 * L] = pattern(2, L)
            case "neither":
                it.disk[5 * L : 6 * L] = bytes(L)
            case _:
                pass
        await it.back()
        await trio.sleep(1)
        if found == "neither":
            assert it.state is NamespaceState.PAUSED
        else:
            assert it.lbas(4, 3) == pattern(1, L) + pattern(2, 2 * L)


@pytest.mark.parametrize("kind", ["killed", "refused"])
async def test_a_write_that_failed_hides_no_loss(kind, autojump_clock, announce):
    announce("at LBA 5: ")
    async with stage(announce) as it:
        await it.namespace.write(5 * L, pattern(1, L))
        if kind == "killed":
            it.target.faults["WRITE"] = Fate.SILENT
            it.in_background(it.namespace.write, 5 * L, pattern(2, L))
            await until(lambda: it.target.names().count("WRITE") == 2)
            for wait in it.namespace.waits():
                it.namespace.kill(wait.request)
        else:
            it.target.faults["WRITE"] = Answer(s.WRITE_PROTECTED)
            with pytest.raises(NvmfError):
                await it.namespace.write(5 * L, pattern(2, L))
        await it.lose()
        it.target.faults.clear()
        it.disk[5 * L : 6 * L] = bytes(L)
        await it.back()
        assert it.state is NamespaceState.PAUSED


@pytest.mark.parametrize("ambiguous", [True, False])
async def test_what_lies_between_deallocated_ranges_is_looked_at(
    ambiguous, autojump_clock, announce
):
    announce("at LBA 5: ")
    async with stage(announce) as it:
        await it.namespace.write(4 * L, pattern(1, 3 * L))
        if ambiguous:
            it.target.faults["DATASET_MANAGEMENT"] = Fate.SILENT
        it.in_background(it.namespace.deallocate, [(4, 1), (6, 1)])
        await trio.sleep(0.1)
        it.disk[4 * L : 7 * L] = bytes(3 * L)
        await it.lose()
        await it.back()
        assert it.state is NamespaceState.PAUSED


async def test_a_cut_in_the_middle_of_the_comparison_begins_it_again(autojump_clock, announce):
    async with stage(announce, mdts=1) as it:
        await it.namespace.write(0, pattern(1, 64 * L))
        await it.lose()
        it.target.faults["READ"] = Fate.CLOSE
        with pytest.raises(NvmfError):
            await it.back()
        await in_state(it.controller, LOST)
        assert "connection lost" in it.namespace.last_error
        it.target.faults.clear()
        await it.back()
        assert it.namespace.last_error == ""
        it.disk[63 * L] = 0
        announce("at LBA 63: ")
        await it.lose()
        await it.back()
        assert it.state is NamespaceState.PAUSED


async def test_lbas_that_cannot_be_read_back_are_lost(autojump_clock, announce):
    announce(r"at LBAs 3 to 4 \(Read .comparison.: .*Unrecovered")
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, 2 * L))
        await it.lose()
        it.target.faults["READ"] = Answer(s.Status(s.SCT_MEDIA, 0x81, dnr=True))
        await it.back()
        assert it.state is NamespaceState.PAUSED


async def test_a_read_that_may_succeed_later_is_made_later(autojump_clock, announce):
    announce("could not be read back yet")
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, 2 * L))
        await it.lose()
        it.target.faults["READ"] = Answer(s.NAMESPACE_NOT_READY)
        await it.back()
        assert it.state is NamespaceState.HELD
        await trio.sleep(20)
        assert it.state is NamespaceState.HELD
        assert 3 < it.target.names().count("READ") < 12
        it.target.faults.clear()
        await until(lambda: it.state is NamespaceState.LIVE, limit_s=6)


async def test_an_event_while_comparing_has_it_looked_at_again(autojump_clock, announce):
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, L))
        await it.lose()
        it.target.delays["READ"] = 1.0
        it.in_background(it.back)
        await until(lambda: "READ" in it.target.names())
        it.target.event(1)
        it.target.disks[1].size_lbas = 128
        it.target.disks[1].data += bytes(64 * L)
        await in_state(it.controller, LIVE)
        await trio.sleep(3)
        assert it.state is NamespaceState.LIVE
        assert it.namespace.size_bytes == 128 * L
        assert it.target.names().count("READ") == 2


async def test_one_that_has_lost_writes_does_not_hold_the_others_up(autojump_clock, announce):
    announce("at LBA 0: ")
    disks = {1: Disk(), 2: Disk(uuid=bytes(range(16, 32)))}
    async with stage(announce, disks=disks) as it:
        for namespace in it.controller.namespaces.values():
            await namespace.write(0, pattern(1, L))
        it.disk[0] = 0
        await it.lose()
        await it.back()
        states = [namespace.state for namespace in it.controller.namespaces.values()]
        assert states == [NamespaceState.PAUSED, NamespaceState.LIVE]
        await it.controller.namespaces[2].flush()


@pytest.mark.parametrize("intact", [True, False])
async def test_a_cache_that_is_not_there_any_more(intact, autojump_clock, announce):
    """What it held is looked for all the same; what is written from then on is safe."""
    if not intact:
        announce("at LBA 3: ")
    async with stage(announce) as it:
        await it.namespace.write(3 * L, pattern(1, L))
        if not intact:
            it.disk[3 * L] = 0
        await it.lose()
        it.target.vwc = 0
        await it.back()
        assert it.state is (NamespaceState.LIVE if intact else NamespaceState.PAUSED)
        if intact:
            await it.namespace.flush()
            await it.namespace.write(0, pattern(1, L))
            assert not it.namespace.engine.dirty


async def test_a_cache_that_appears(autojump_clock, announce):
    async with stage(announce, vwc=0) as it:
        await it.namespace.write(3 * L, pattern(1, L))
        assert not it.namespace.engine.dirty
        await it.lose()
        it.target.vwc = 1
        await it.back()
        assert "READ" not in it.target.names()
        await it.namespace.write(3 * L, pattern(1, L))
        assert it.namespace.engine.dirty


# What is remembered, and for how long.


async def test_a_flush_that_is_lost_and_sent_again_covers_what_was_there_then():
    namespace, medium = open_namespace(), Medium(64)
    async with open_link() as one, open_link() as two, trio.open_nursery() as nursery:
        namespace.engine.resume(one.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        one.settle(medium)
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        begin(nursery, namespace.write, L, pattern(1, L))
        await wait_all_tasks_blocked()
        one.answer(one.sent[1])
        await wait_all_tasks_blocked()
        one.lose(namespace)
        assert namespace.engine.unverified
        assert len(namespace.engine.log) == 2
        namespace.engine.resume(two.path())
        await wait_all_tasks_blocked()
        assert [opcode(capsule) for capsule in two.sent] == [NvmOpcode.FLUSH]
        two.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert not namespace.engine.dirty


async def test_fua_supersedes_what_is_remembered_and_is_not_remembered_alone():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        for fua in (True, False, True):
            begin(nursery, lambda fua=fua: namespace.write(0, pattern(1 + fua, L), fua=fua))
            await wait_all_tasks_blocked()
            link.answer()
            await wait_all_tasks_blocked()
            assert namespace.engine.dirty is not (fua and not len(namespace.engine.log))
        (expected,) = namespace.engine.log.expected()
        assert expected.data is not None
        assert bytes(expected.data) == pattern(2, L)


async def test_a_full_log_is_flushed_by_whoever_filled_it():
    namespace = open_namespace(describe(size_lbas=4096))
    data = pattern(1, 1 << 20)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        for _ in range(MAX_BYTES >> 20):
            begin(nursery, namespace.write, 0, data)
            await wait_all_tasks_blocked()
            link.answer()
        await wait_all_tasks_blocked()
        assert link.sent == []
        last = [begin(nursery, namespace.write, offset, data) for offset in (0, 1 << 20)]
        await wait_all_tasks_blocked()
        link.answer()
        link.answer()
        await wait_all_tasks_blocked()
        assert [opcode(capsule) for capsule in link.sent] == [NvmOpcode.FLUSH], "one for both"
        assert not any(each.done for each in last)
        link.answer()
        await wait_all_tasks_blocked()
        assert all(each.done and each.value == len(data) for each in last)
        assert not namespace.engine.dirty
        assert namespace.losses == 0


@pytest.mark.parametrize("how", ["refused", "killed", "fails fast"])
async def test_a_full_log_that_cannot_be_flushed(how):
    """Refused, what was remembered is given up, and the next fsync says so; else it is kept."""
    namespace = open_namespace(describe(size_lbas=4096))
    namespace.engine.log.held_bytes = MAX_BYTES
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        match how:
            case "refused":
                link.answer(status=s.WRITE_PROTECTED)
            case "killed":
                namespace.kill(namespace.waits()[0].request)
            case _:
                link.lose(namespace)
                namespace.fail_fast("too long")
        await wait_all_tasks_blocked()
        assert write.done
        if how == "refused":
            assert write.value == L
            assert namespace.losses == 1
            assert not namespace.engine.dirty
        else:
            assert isinstance(write.error, KilledError | NotConnectedError)
            assert namespace.losses == 0
            assert namespace.engine.dirty


async def test_zeroes_and_deallocations_fill_the_log_too():
    namespace = open_namespace()
    namespace.engine.log.held_bytes = MAX_BYTES + 1
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(controller_data()))
        zeroes = begin(nursery, namespace.write_zeroes, 0, 1)
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert [opcode(capsule) for capsule in link.sent] == [NvmOpcode.FLUSH]
        link.answer()
        await wait_all_tasks_blocked()
        assert zeroes.done
