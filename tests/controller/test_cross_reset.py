"""Cross-Controller Reset: what is ended, what is waited for, what is refused."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_controller import FaultPlan, Namespace, Rule
from nvmf_controller.cross_reset import CROSS_RESET_LIMIT
from nvmf_controller.fault_actions import Drop, Ghost
from nvmf_transport.fabrics import ConnectData
from nvmf_transport.identify import IdentifyController
from nvmf_transport.logs import CrossControllerResetHeader, LogId
from nvmf_transport.nvme import (
    Cc,
    CrossControllerResetCommand,
    NvmOpcode,
    SubmissionEntry,
)
from nvmf_transport.status import (
    CROSS_RESET_IN_PROGRESS,
    CROSS_RESET_LIMIT_EXCEEDED,
    INVALID_FIELD,
    INVALID_OPCODE,
    Status,
)
from tests.controller.raw_host import (
    ENABLED,
    HOSTNQN,
    SUBNQN,
    discovery_data,
    rw,
    target,
)
from tests.controller.stores import SlowStore

OLD, NEW = b"\1" * 4096, b"\2" * 4096
DONE = (Status(), CrossControllerResetCommand.IMMEDIATE)


async def identified(admin) -> IdentifyController:
    status, data = await admin.identify(1)
    assert status.ok
    return IdentifyController.unpack(data)


def naming(controller: IdentifyController, **changes) -> bytes:
    fields = {"icid": controller.cntlid, "ciu": controller.ciu, "cirn": controller.cirn} | changes
    return CrossControllerResetCommand(**fields).pack()


async def reset(admin, sqe):
    status, result, _ = await admin.command(sqe)
    return status, result


async def test_every_instance_can_be_named():
    async with target() as t, t.admin() as first, t.admin() as second:
        one, other = await identified(first), await identified(second)
        assert one.ciu
        assert one.cirn
        assert one.ccrl == CROSS_RESET_LIMIT
        assert one.cqt == 5000
        assert one.cirn != other.cirn
        # A controller level reset makes another instance.
        await first.set_cc(Cc())
        await wait_all_tasks_blocked()
        await first.set_cc(ENABLED)
        again = await identified(first)
        assert again.cntlid == one.cntlid
        assert (again.ciu, again.cirn) != (one.ciu, one.cirn)


async def test_impacted_controller_is_ended():
    async with target() as t, t.admin() as admin, t.both() as (impacted, io):
        assert await reset(admin, naming(await identified(impacted))) == DONE
        await io.dead.wait()
        await impacted.dead.wait()
        assert [a.cntlid for a in t.server.associations] == [admin.cntlid]


async def test_answer_waits_for_commands_of_the_impacted_controller():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.admin() as admin, t.both() as (impacted, io):
        sqe = naming(await identified(impacted))
        io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
        await wait_all_tasks_blocked()
        cid, _ = admin.send(sqe)
        await io.dead.wait()
        await wait_all_tasks_blocked()
        assert not admin.answered(cid)
        # Others go on meanwhile.
        await identified(admin)
        store.gate.set()
        assert (await admin.answer(cid)).result == CrossControllerResetCommand.IMMEDIATE
        assert store.done == ["write"]


async def test_answer_waits_for_a_ghost(autojump_clock):
    plan = FaultPlan(rule=(Rule(opcode=("write",), nth=1, action=Ghost(seconds=3)),))
    async with target(faults=plan) as t:
        async with t.both() as (impacted, io):
            sqe = naming(await identified(impacted))
            io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
            await io.dead.wait()
        started = trio.current_time()
        async with t.both() as (admin, io):
            assert trio.current_time() == started
            assert await reset(admin, sqe) == DONE
            assert trio.current_time() == pytest.approx(started + 3)
            # What is written now is not written over.
            assert (await io.write(0, NEW)).ok
            await trio.sleep(10)
            assert (await io.read(0, 8))[1] == NEW


async def test_instance_that_is_over_has_been_reset():
    async with target() as t, t.admin() as admin:
        async with t.admin() as gone:
            sqe = naming(await identified(gone))
        await wait_all_tasks_blocked()
        assert await reset(admin, sqe) == DONE


async def test_another_instance_of_the_same_id_is_left_alone():
    async with target() as t, t.admin() as admin, t.admin() as living:
        sqe = naming(await identified(living), ciu=77)
        assert await reset(admin, sqe) == DONE
        assert not living.dead.is_set()
        await identified(living)


@pytest.mark.parametrize("changes", [{"icid": 0}, {"icid": 0xFFFF}, {"ciu": 0}, {"cirn": 0}])
async def test_names_that_no_instance_has(changes):
    async with target() as t, t.admin() as admin, t.admin() as living:
        sqe = naming(await identified(living), **changes)
        assert await reset(admin, sqe) == (INVALID_FIELD.with_dnr(), 0)


async def test_neither_itself_nor_another_hosts():
    data = ConnectData(hostid=b"\7" * 16, cntlid=0xFFFF, subnqn=SUBNQN, hostnqn=HOSTNQN)
    async with target() as t, t.admin() as admin, t.admin(data=data) as stranger:
        for queue in (admin, stranger):
            sqe = naming(await identified(queue))
            assert await reset(admin, sqe) == (INVALID_FIELD.with_dnr(), 0)
        await identified(stranger)


async def test_no_more_at_a_time_than_the_limit():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.admin() as admin, trio.open_nursery() as nursery:
        names = []

        async def hold():
            async with t.both() as (impacted, io):
                names.append(naming(await identified(impacted)))
                io.send(rw(NvmOpcode.WRITE, 0, 8), write=OLD)
                await io.dead.wait()
                await impacted.dead.wait()

        for _ in range(CROSS_RESET_LIMIT + 1):
            nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        waiting = [admin.send(sqe)[0] for sqe in names[:CROSS_RESET_LIMIT]]
        await wait_all_tasks_blocked()
        assert await reset(admin, names[0]) == (CROSS_RESET_IN_PROGRESS, 0)
        assert await reset(admin, names[-1]) == (CROSS_RESET_LIMIT_EXCEEDED, 0)
        store.gate.set()
        for cid in waiting:
            assert (await admin.answer(cid)).result == CrossControllerResetCommand.IMMEDIATE
        assert await reset(admin, names[-1]) == DONE


async def test_log_of_resets_that_went_on_is_empty():
    async with target() as t, t.admin() as admin:
        status, page = await admin.log(LogId.CROSS_CONTROLLER_RESET, 4096)
        assert status.ok
        assert CrossControllerResetHeader.unpack(page).entries == 0
        assert not any(page)


async def test_discovery_controllers_have_none():
    async with target() as t, t.admin(data=discovery_data()) as admin:
        assert not (await identified(admin)).ccrl
        sqe = CrossControllerResetCommand(icid=1, ciu=1, cirn=1).pack()
        assert await reset(admin, sqe) == (INVALID_OPCODE.with_dnr(), 0)


async def test_nothing_is_reset_before_enable():
    async with target() as t, t.admin(enable=False) as admin, t.admin() as living:
        status, _ = await reset(admin, naming(await identified(living)))
        assert not status.ok
        await identified(living)


async def test_reset_that_is_dropped_is_not_done():
    plan = FaultPlan(rule=(Rule(opcode=("cross_controller_reset",), action=Drop()),))
    async with target(faults=plan) as t, t.admin() as admin, t.admin() as living:
        cid, _ = admin.send(naming(await identified(living)))
        await wait_all_tasks_blocked()
        assert not admin.answered(cid)
        await identified(living)


def test_the_command_is_an_sqe():
    entry = SubmissionEntry.unpack(naming(IdentifyController(cntlid=7, ciu=3, cirn=5 << 32 | 9)))
    assert (entry.opc, entry.cdw10, entry.cdw12, entry.cdw13) == (0x38, 3 << 16 | 7, 9, 5)
