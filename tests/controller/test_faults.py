"""Faults that a plan brings about, over the transport in memory: the examples of docs/faults.md."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_controller import FaultPlan, Namespace, RamDisk, Rule, VolatileCache
from nvmf_controller.fault_actions import Delay, Ghost, Scope
from nvmf_transport.errors import (
    ConnectionLostError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.nvme import Cc, Csts, NvmOpcode, Property, SubmissionEntry
from nvmf_transport.status import (
    CONNECT_INVALID_PARAMETERS,
    NAMESPACE_NOT_READY,
    TRANSIENT_TRANSPORT_ERROR,
    Status,
)
from tests.controller.fault_examples import example
from tests.controller.raw_host import ENABLED, rw, target
from tests.controller.stores import SlowStore

FLUSH = SubmissionEntry(opc=NvmOpcode.FLUSH, nsid=1).pack()
OLD, NEW = b"\1" * 4096, b"\2" * 4096
BIG = b"\3" * 65536


async def test_delay_of_an_answer(autojump_clock):
    async with target(faults=example("delay")) as t, t.both() as (_, io):
        started = trio.current_time()
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 1), read_bytes=512)
        assert (await io.read(0, 1))[0].ok
        assert trio.current_time() == started
        await io.answer(cid)
        assert trio.current_time() == started + 5


async def test_delay_of_every_tenth_write(autojump_clock):
    async with target(faults=example("overview")) as t, t.both() as (_, io):
        started = trio.current_time()
        for index in range(20):
            assert (await io.write(index * 8, OLD)).ok
        assert trio.current_time() - started == pytest.approx(0.6)


async def test_probability_is_decided_by_the_seed():
    async def seen():
        async with target(faults=example("overview")) as t, t.both() as (_, io):
            return [(await io.read(0, 1))[0] for _ in range(100)]

    first = await seen()
    assert first == await seen()
    assert first.count(TRANSIENT_TRANSPORT_ERROR) == 3
    assert set(first) == {Status(), TRANSIENT_TRANSPORT_ERROR}


async def test_drop_after_execution(autojump_clock):
    async with target(faults=example("drop")) as t, t.both() as (_, io):
        cid, _ = io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
        await trio.sleep(1000)
        assert not io.answered(cid)
        assert (await io.read(0, 8))[1] == OLD


async def test_queue_that_is_accepted_and_silent(autojump_clock):
    async with target(faults=example("silent queue")) as t, t.admin() as admin:
        await admin.set_feature(7, 0)
        async with t.queue() as queue:
            with trio.move_on_after(5) as waiting:
                await queue.connect(qid=1, cntlid=admin.cntlid)
            assert waiting.cancelled_caught
            assert not queue.dead.is_set()


async def test_status_of_the_plans_choice():
    async with target(faults=example("status")) as t, t.both() as (_, io):
        assert await io.write(0, OLD) == NAMESPACE_NOT_READY.with_dnr()
        assert (await io.read(0, 8))[1] == bytes(4096)
        assert (await io.write(0, OLD)).ok


async def test_refused_queue():
    async with (
        target(faults=example("refused queue")) as t,
        t.both() as (admin, _),
        t.queue() as queue,
    ):
        status, *_ = await queue.connect(qid=2, cntlid=admin.cntlid)
        assert status == CONNECT_INVALID_PARAMETERS.with_dnr()


async def test_fewer_queues():
    async with target(faults=example("fewer queues")) as t, t.admin() as admin:
        assert (await admin.set_feature(7, 3 * 0x10001))[1] == 0
        assert (await admin.get_feature(7))[1] == 0


async def test_reset_of_all_after_execution():
    async with target(faults=example("reset")) as t:
        async with t.both() as (admin, io):
            assert (await io.write(0, OLD)).ok
            io.send(rw(NvmOpcode.WRITE, 0, 8), write=NEW)
            await io.dead.wait()
            await admin.dead.wait()
            assert isinstance(io.error, ConnectionLostError)
        await wait_all_tasks_blocked()
        assert t.server.associations == []
        async with t.both() as (_, io):
            assert (await io.read(0, 8))[1] == NEW


async def test_close_once_answered():
    async with target(faults=example("close")) as t, t.both() as (_, io):
        assert (await io.read(0, 1))[0].ok
        assert (await io.read(0, 1))[0].ok
        await io.dead.wait()


async def test_close_at_accept():
    async with target(faults=example("close at accept")) as t, t.admin():
        with pytest.raises(TransportError):
            async with t.queue():
                pass
        async with t.queue():
            pass


async def test_silence_at_accept(autojump_clock):
    async with target(faults=example("silence at accept")) as t:
        started = trio.current_time()
        with pytest.raises(TransportError):
            async with t.queue():
                pass
        assert trio.current_time() == started + 5
        async with t.admin():
            pass


async def test_cut_every_second(autojump_clock):
    async with target(faults=example("cut every second")) as t:
        started = trio.current_time()
        for second in (1, 2, 3):
            async with t.both() as (admin, io):
                await io.dead.wait()
                await admin.dead.wait()
                assert trio.current_time() - started == pytest.approx(second)
        await trio.sleep(20)
        async with t.both() as (_, io):
            await trio.sleep(20)
            assert (await io.read(0, 1))[0].ok


@pytest.mark.parametrize("data", [OLD, BIG], ids=["in capsule", "by R2T"])
async def test_ghost_lands_over_what_is_newer(autojump_clock, data):
    async with target(faults=example("ghost")) as t:
        async with t.both() as (admin, io):
            io.send(rw(NvmOpcode.WRITE, 0, len(data) // 512), write=data)
            await io.dead.wait()
            await admin.dead.wait()
        started = trio.current_time()
        async with t.both() as (_, io):
            assert (await io.write(0, data)).ok
            assert (await io.write(0, NEW)).ok
            assert trio.current_time() == started
            assert (await io.read(0, 8))[1] == NEW
            # The old controller is not over, and keeps its CNTLID.
            assert len(t.server.associations) == 2
            await trio.sleep(3.1)
            assert (await io.read(0, 8))[1] == data[:4096]
            assert len(t.server.associations) == 1


async def test_reset_waits_for_a_ghost(autojump_clock):
    plan = FaultPlan(
        rule=(Rule(opcode=("write",), nth=1, action=Ghost(seconds=3, scope=Scope.QUEUE)),)
    )
    async with target(faults=plan) as t, t.both() as (admin, io):
        io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
        await io.dead.wait()
        await admin.set_cc(Cc())
        await wait_all_tasks_blocked()
        assert Csts(await admin.get(Property.CSTS)).rdy
        await trio.sleep(2.9)
        assert Csts(await admin.get(Property.CSTS)).rdy
        await trio.sleep(0.2)
        assert not Csts(await admin.get(Property.CSTS)).rdy
        assert (await admin.set_cc(ENABLED)).ok
        async with t.io(admin) as again:
            assert (await again.read(0, 8))[1] == OLD


async def test_ghosts_do_not_outlive_the_server(autojump_clock):
    store = RamDisk(1 << 20)
    plan = example("ghost")
    started = trio.current_time()
    async with target(Namespace(1, store), faults=plan) as t, t.both() as (_, io):
        io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
        await io.dead.wait()
    assert trio.current_time() - started == pytest.approx(3)


async def test_close_inside_a_pdu():
    async with target(faults=example("truncate")) as t, t.both() as (_, io):
        io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
        await io.dead.wait()
        assert isinstance(io.error, ConnectionLostError)


async def test_flipped_digests():
    plan = example("flip")
    async with (
        target(faults=plan, header_digest=True, data_digest=True) as t,
        t.both() as (_, io),
    ):
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
        assert (await io.answer(cid)).digest_error
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
        await io.dead.wait()
        assert isinstance(io.error, RemoteProtocolError)


async def test_digests_that_were_not_agreed_are_not_flipped():
    async with target(faults=example("flip")) as t, t.both() as (_, io):
        for _ in range(3):
            cid, _ = io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
            assert not (await io.answer(cid)).digest_error


async def test_wrong_cid():
    async with target(faults=example("wrong CID")) as t, t.both() as (_, io):
        cid, _ = io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
        await wait_all_tasks_blocked()
        assert not io.answered(cid)
        assert io.answered(cid + 1000)


async def test_short_data():
    async with target(faults=example("short data")) as t, t.both() as (_, io):
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
        assert (await io.answer(cid)).data_bytes == 3584


@pytest.mark.parametrize(
    "name", ["overlapping data", "R2T out of range", "R2T for too much", "bad PLEN"]
)
async def test_breaches_of_the_protocol(name):
    async with target(faults=example(name)) as t, t.both() as (_, io):
        io.send(rw(NvmOpcode.WRITE, 0, 128), write=BIG)
        io.send(rw(NvmOpcode.READ, 0, 8), read_bytes=4096)
        await io.dead.wait()
        assert isinstance(io.error, RemoteProtocolError)


@pytest.mark.logs_warnings
async def test_cache_lost_in_an_outage():
    store = VolatileCache(RamDisk(1 << 20))
    plan = example("lose the cache in an outage")
    async with target(Namespace(1, store), faults=plan) as t:
        async with t.both() as (_, io):
            assert (await io.write(0, OLD)).ok
            assert (await io.command(FLUSH))[0].ok
            assert (await io.write(0, NEW)).ok
            io.send(rw(NvmOpcode.WRITE, 8, 8), write=NEW)
            await io.dead.wait()
        async with t.both() as (_, io):
            assert (await io.read(0, 16))[1] == OLD + bytes(4096)
    assert store.losses == 1


async def test_other_data_under_the_same_identity(autojump_clock):
    async with target(faults=example("other data")) as t, t.both() as (admin, io):
        _, before = await admin.identify(3, 1)
        assert (await io.write(0, OLD)).ok
        await trio.sleep(5.1)
        assert (await io.read(0, 8))[1] == bytes(4096)
        assert (await admin.identify(3, 1))[1] == before


async def test_new_identity():
    async with target(faults=example("new identity")) as t, t.both() as (admin, io):
        _, before = await admin.identify(3, 1)
        assert (await io.write(0, OLD)).ok
        assert (await io.command(FLUSH))[0].ok
        assert (await admin.identify(3, 1))[1] != before
        assert (await io.read(0, 8))[1] == OLD


async def test_remap(autojump_clock):
    disks = [Namespace(1, RamDisk(1 << 20)), Namespace(2, RamDisk(1 << 21))]
    async with target(*disks, faults=example("remap")) as t, t.both() as (admin, io):
        assert (await io.write(0, OLD)).ok
        _, first = await admin.identify(3, 1)
        await trio.sleep(5.1)
        assert (await admin.identify(3, 2))[1] == first
        assert (await io.read(0, 8, nsid=2))[1] == OLD
        assert (await io.read(0, 8, nsid=1))[1] == bytes(4096)


async def test_resize(autojump_clock):
    async with target(faults=example("resize")) as t, t.both() as (_, io):
        assert (await io.read(1024, 1))[0].ok
        await trio.sleep(5.1)
        assert not (await io.read(1024, 1))[0].ok


async def test_delayed_command_that_was_not_begun_never_is(autojump_clock):
    store = SlowStore()
    plan = FaultPlan(rule=(Rule(opcode=("write",), action=Delay(seconds=60)),))
    async with target(Namespace(1, store), faults=plan) as t:
        async with t.both() as (_, io):
            io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
            await wait_all_tasks_blocked()
        await trio.sleep(100)
        assert store.begun == []
        assert t.server.associations == []
