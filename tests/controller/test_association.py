"""The life of a controller: enabling, reset, shutdown, keep alive, lost queues."""

import pytest
import trio
import trio.lowlevel

from nvmf_controller import Namespace, State
from nvmf_controller.association import TRANSITIONS
from nvmf_transport.nvme import AdminOpcode, Cap, Cc, Csts, FeatureId, Property, SubmissionEntry, Vs
from nvmf_transport.status import COMMAND_SEQUENCE_ERROR, INVALID_FIELD
from tests.controller.raw_host import ENABLED, rw, target
from tests.controller.stores import SlowStore

KEEP_ALIVE = SubmissionEntry(opc=AdminOpcode.KEEP_ALIVE).pack()


def csts(value: int) -> tuple[int, int]:
    """RDY and SHST."""
    return Csts(value).rdy, Csts(value).shst


async def wait_for(queue, rdy, shst):
    for _ in range(100):
        if csts(await queue.get(Property.CSTS)) == (rdy, shst):
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError(csts(await queue.get(Property.CSTS)))


def test_every_state_has_its_transitions():
    assert set(TRANSITIONS) == set(State)


async def test_properties():
    async with target() as t, t.admin(enable=False) as admin:
        cap = Cap(await admin.get(Property.CAP, 1))
        assert (cap.mqes, cap.cqr, cap.css, cap.mpsmin) == (1023, 1, 1, 0)
        assert cap.timeout_s == 5.0
        assert str(Vs(await admin.get(Property.VS))) == "1.4.0"
        assert await admin.get(Property.CC) == 0
        assert csts(await admin.get(Property.CSTS)) == (0, 0)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(Property.CAP, 0), (Property.VS, 1), (Property.NSSR, 0), (Property.CRTO, 0), (0xC, 0), (3, 0)],
)
async def test_properties_that_are_not_there(offset, size):
    from nvmf_transport.fabrics import PropertyGetCommand

    async with target() as t, t.admin() as admin:
        sqe = PropertyGetCommand(ofst=offset, attrib=size).pack()
        assert (await admin.command(sqe))[0] == INVALID_FIELD.with_dnr()


@pytest.mark.parametrize(
    "cc",
    [
        ENABLED.replace(iosqes=5),
        ENABLED.replace(iocqes=3),
        ENABLED.replace(shn=3),
        ENABLED.replace(ams=1),
        ENABLED.replace(css=6),
        ENABLED.replace(mps=5),
        Cc(ENABLED.value | 1 << 25),
        Cc(ENABLED.value | 1 << 1),
    ],
)
async def test_cc_values_that_are_refused(cc):
    async with target() as t, t.admin(enable=False) as admin:
        assert await admin.set_cc(cc) == INVALID_FIELD.with_dnr()
        assert await admin.get(Property.CC) == 0


async def test_page_size_is_fixed_while_enabled():
    async with target() as t, t.admin() as admin:
        assert await admin.set_cc(ENABLED.replace(mps=1)) == INVALID_FIELD.with_dnr()


async def test_only_fabrics_commands_before_enable():
    async with target() as t, t.admin(enable=False) as admin:
        assert (await admin.identify(1))[0] == COMMAND_SEQUENCE_ERROR.with_dnr()
        assert (await admin.command(KEEP_ALIVE))[0] == COMMAND_SEQUENCE_ERROR.with_dnr()
        await admin.set_cc(ENABLED)
        assert csts(await admin.get(Property.CSTS)) == (1, 0)
        assert (await admin.identify(1))[0].ok


async def test_reset_waits_for_commands():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        io.send(rw(1, 0, 8), write=bytes(4096))
        await trio.testing.wait_all_tasks_blocked()
        assert (await admin.set_cc(Cc())).ok
        for _ in range(5):
            assert csts(await admin.get(Property.CSTS)) == (1, 0)
        # CC.EN may not be set again before it is done.
        assert await admin.set_cc(ENABLED) == COMMAND_SEQUENCE_ERROR.with_dnr()
        store.gate.set()
        await wait_for(admin, 0, 0)
        assert store.done == ["write"]
        await io.dead.wait()

        assert (await admin.set_cc(ENABLED)).ok
        assert t.association(admin).granted_io_queues == 0
        async with t.io(admin) as again:
            assert (await again.read(0, 1))[0].ok


async def test_command_that_was_not_begun_is_not_begun_after_a_reset():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        # More than the memory budget holds: the last of them wait for it.
        for _ in range(40):
            io.send(rw(2, 0, 2048), read_bytes=1 << 20)
        await trio.testing.wait_all_tasks_blocked()
        assert len(store.begun) == 32
        await admin.set_cc(Cc())
        store.gate.set()
        await wait_for(admin, 0, 0)
        assert len(store.begun) == 32


async def test_shutdown_waits_for_commands_and_flushes():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        io.send(rw(1, 0, 8), write=bytes(4096))
        await trio.testing.wait_all_tasks_blocked()
        await admin.set_cc(ENABLED.replace(shn=Cc.SHN_NORMAL))
        assert csts(await admin.get(Property.CSTS)) == (1, Csts.SHST_OCCURRING)
        store.gate.set()
        await wait_for(admin, 1, Csts.SHST_COMPLETE)
        assert store.done == ["write", "flush"]
        # A reset is the way back.
        await admin.set_cc(Cc())
        await wait_for(admin, 0, 0)
        assert (await admin.set_cc(ENABLED)).ok


async def test_host_that_closes_its_io_queues_first_can_still_shut_down(autojump_clock):
    async with target() as t, t.admin() as admin:
        async with t.io(admin):
            pass
        await trio.sleep(1)
        await admin.set_cc(ENABLED.replace(shn=Cc.SHN_NORMAL))
        await trio.sleep(10)
        assert csts(await admin.get(Property.CSTS)) == (1, Csts.SHST_COMPLETE)


async def test_lost_io_queue_ends_the_association(autojump_clock):
    async with target() as t, t.admin() as admin:
        async with t.io(admin, qid=2) as other:
            async with t.io(admin):
                pass
            with trio.fail_after(3):
                await admin.dead.wait()
                await other.dead.wait()
        assert t.server.associations == []


async def test_lost_admin_queue_ends_the_association():
    async with target() as t, t.admin() as admin:
        async with t.io(admin) as io:
            t.transport.connections[0].cut()
            await io.dead.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert t.server.associations == []


async def test_silent_host_loses_its_controller(autojump_clock):
    async with target() as t, t.both(kato=3500) as (admin, io):
        assert t.association(admin).kato_ms == 4000
        started = trio.current_time()
        await admin.dead.wait()
        await io.dead.wait()
        assert 4 <= trio.current_time() - started <= 8


@pytest.mark.parametrize("by_io", [False, True])
async def test_any_command_keeps_the_controller_alive(autojump_clock, by_io):
    async with target() as t, t.both(kato=2000) as (admin, io):
        for _ in range(20):
            await trio.sleep(1.5)
            await (io.read(0, 1) if by_io else admin.command(KEEP_ALIVE))
        assert not admin.dead.is_set()


async def test_keep_alive_timeout_can_be_changed(autojump_clock):
    async with target() as t, t.admin() as admin:
        await trio.sleep(1000)  # Without one, silence is allowed.
        assert (await admin.set_feature(FeatureId.KEEP_ALIVE_TIMER, 1))[0].ok
        assert (await admin.get_feature(FeatureId.KEEP_ALIVE_TIMER))[1] == 1000
        with trio.fail_after(3):
            await admin.dead.wait()


async def test_controller_that_is_never_enabled_ends(autojump_clock):
    async with target() as t, t.admin(enable=False) as admin:
        with trio.fail_after(121):
            await admin.dead.wait()


async def test_end_of_the_server_waits_for_commands():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        io.send(rw(1, 0, 8), write=b"x" * 4096)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(t.server.end)
            await io.dead.wait()
            assert store.done == []
            store.gate.set()
        assert store.done == ["write", "flush"]
        assert t.server.associations == []
