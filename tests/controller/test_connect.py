"""CONNECT: every reason to refuse it, with where the host is told to look."""

import attrs
import pytest
import trio

from nvmf_controller import Namespace, State
from nvmf_transport.fabrics import ConnectData
from nvmf_transport.nvme import AdminOpcode, Cc, FeatureId, SubmissionEntry
from nvmf_transport.status import (
    COMMAND_SEQUENCE_ERROR,
    CONNECT_INVALID_PARAMETERS,
    CONTROLLER_BUSY,
    INCOMPATIBLE_FORMAT,
    INVALID_OPCODE,
)
from tests.controller.raw_host import (
    ENABLED,
    HOSTID,
    HOSTNQN,
    SUBNQN,
    discovery_data,
    rw,
    target,
)
from tests.controller.stores import SlowStore

GOOD = ConnectData(hostid=HOSTID, subnqn=SUBNQN, hostnqn=HOSTNQN)
LONG = "nqn.2024-01.org.example:" + "x" * 200
IN_DATA = 1 << 16


@pytest.fixture(autouse=True)
def refused(announce):
    announce("CONNECT refused", optional=True)


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"sqsize": 0}, 44),
        ({"sqsize": 4096}, 44),
        ({"qid": 1, "kato": 5000}, 48),
        ({"payload": bytes(1020)}, 24),
        ({"payload": bytes(1028)}, 24),
        ({"data": attrs.evolve(GOOD, hostid=bytes(16))}, IN_DATA | 0),
        ({"data": attrs.evolve(GOOD, cntlid=1)}, IN_DATA | 16),
        ({"data": attrs.evolve(GOOD, cntlid=0xFFFE)}, IN_DATA | 16),
        ({"qid": 1, "data": attrs.evolve(GOOD, cntlid=0xFFF0)}, IN_DATA | 16),
        ({"qid": 1, "data": attrs.evolve(GOOD, cntlid=77)}, IN_DATA | 16),
        ({"data": attrs.evolve(GOOD, subnqn="")}, IN_DATA | 256),
        ({"data": attrs.evolve(GOOD, subnqn=LONG)}, IN_DATA | 256),
        ({"data": attrs.evolve(GOOD, subnqn=SUBNQN + "x")}, IN_DATA | 256),
        ({"data": attrs.evolve(GOOD, subnqn=SUBNQN.upper())}, IN_DATA | 256),
        ({"data": attrs.evolve(GOOD, hostnqn="")}, IN_DATA | 512),
        ({"data": attrs.evolve(GOOD, hostnqn=LONG)}, IN_DATA | 512),
        ({"qid": 1, "data": attrs.evolve(discovery_data(), cntlid=1)}, 42),
        # The earlier check counts where several fail.
        ({"sqsize": 0, "data": attrs.evolve(GOOD, hostid=bytes(16), subnqn="x")}, 44),
        ({"data": attrs.evolve(GOOD, hostid=bytes(16), subnqn="x")}, IN_DATA | 0),
    ],
)
async def test_invalid_parameters(fields, result):
    async with target() as t, t.queue() as queue:
        status, where, _ = await queue.connect(**fields)

        assert status == CONNECT_INVALID_PARAMETERS.with_dnr()
        assert where == result
        assert t.server.associations == []


async def test_record_format():
    async with target() as t, t.queue() as queue:
        assert (await queue.connect(recfmt=1))[0] == INCOMPATIBLE_FORMAT.with_dnr()


async def test_other_commands_before_connect(autojump_clock):
    for sqe, expected in (
        (SubmissionEntry(opc=AdminOpcode.IDENTIFY, cdw10=1).pack(), INVALID_OPCODE),
        (SubmissionEntry(opc=AdminOpcode.FABRICS).pack(), COMMAND_SEQUENCE_ERROR),
    ):
        async with target() as t, t.queue() as queue:
            assert (await queue.command(sqe))[0] == expected.with_dnr()
            await queue.dead.wait()


async def test_silent_host_is_hung_up_on(autojump_clock):
    async with target() as t, t.queue() as queue:
        with trio.fail_after(60):
            await queue.dead.wait()


@pytest.mark.parametrize(("cattr", "sqhd"), [(0, 1), (4, 0xFFFF)])
async def test_sq_flow_control(cattr, sqhd):
    async with target() as t, t.queue() as queue:
        status, result, head = await queue.connect(cattr=cattr)

        assert status.ok
        assert result == 1
        assert head == sqhd


async def test_sq_head_goes_round():
    async with target() as t, t.admin(sqsize=3) as admin:
        heads = []
        for _ in range(6):
            cid, _ = admin.send(SubmissionEntry(opc=AdminOpcode.KEEP_ALIVE).pack())
            heads.append((await admin.answer(cid)).sqhd)

        # CONNECT and Property Set went before.
        assert heads == [3, 0, 1, 2, 3, 0]


async def test_io_queue_must_match_its_admin_queue():
    async with target() as t, t.admin() as admin:
        await admin.set_feature(FeatureId.NUMBER_OF_QUEUES, 0x10001)
        good = attrs.evolve(GOOD, cntlid=admin.cntlid)
        for data, where in (
            (attrs.evolve(good, hostid=bytes(15) + b"x"), 0),
            (attrs.evolve(good, hostnqn=HOSTNQN + "x"), 512),
        ):
            async with t.queue() as queue:
                status, result, _ = await queue.connect(qid=1, data=data)
                assert status == CONNECT_INVALID_PARAMETERS.with_dnr()
                assert result == IN_DATA | where
        async with t.queue() as queue:
            assert (await queue.connect(qid=3, data=good))[1] == 42
        async with t.queue() as queue:
            assert (await queue.connect(qid=1, sqsize=1024, data=good))[1] == 44
        async with t.io(admin), t.queue() as queue:
            status, _, _ = await queue.connect(qid=1, data=good)
            assert status == COMMAND_SEQUENCE_ERROR.with_dnr()


async def test_io_queue_before_its_time():
    async with target() as t, t.admin(enable=False) as admin:
        async with t.queue() as queue:
            status, _, _ = await queue.connect(qid=1, cntlid=admin.cntlid)
            assert status == COMMAND_SEQUENCE_ERROR.with_dnr()
        assert (await admin.set_cc(ENABLED)).ok
        async with t.queue() as queue:
            status, _, _ = await queue.connect(qid=1, cntlid=admin.cntlid)
            assert status == COMMAND_SEQUENCE_ERROR.with_dnr()


async def test_io_queue_after_shutdown():
    async with target() as t, t.admin() as admin:
        await admin.set_feature(FeatureId.NUMBER_OF_QUEUES, 0x10001)
        await admin.set_cc(ENABLED.replace(shn=Cc.SHN_NORMAL))
        async with t.queue() as queue:
            status, where, _ = await queue.connect(qid=1, cntlid=admin.cntlid)
            assert status == CONNECT_INVALID_PARAMETERS.with_dnr()
            assert where == IN_DATA | 16


async def test_connect_twice():
    async with target() as t, t.both() as (admin, io):
        for queue in (admin, io):
            assert (await queue.connect())[0] == COMMAND_SEQUENCE_ERROR.with_dnr()


async def test_cntlids_go_round_and_skip_the_living():
    async with target() as t, t.admin() as first, t.admin() as second:
        assert (first.cntlid, second.cntlid) == (1, 2)
        t.subsystem._last_cntlid = 0xFFEE
        async with t.admin() as third, t.admin() as fourth:
            assert (third.cntlid, fourth.cntlid) == (0xFFEF, 3)


async def test_connect_waits_for_the_commands_of_a_lost_association():
    store = SlowStore()
    async with target(Namespace(1, store)) as t:
        async with t.both() as (_, io):
            io.send(rw(1, 0, 8), write=bytes(4096))
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        (lost,) = t.server.associations
        assert lost.state is State.ENDING

        async with trio.open_nursery() as nursery:

            async def reconnect():
                async with t.admin() as admin:
                    # Its CNTLID was not free either.
                    assert admin.cntlid == 2
                    assert store.done == ["write"]

            nursery.start_soon(reconnect)
            await trio.testing.wait_all_tasks_blocked()
            assert t.server.associations == [lost]
            store.gate.set()
        assert lost.ended.is_set()


async def test_connect_waits_no_longer_than_cap_to(autojump_clock):
    store = SlowStore()
    async with target(Namespace(1, store)) as t:
        async with t.both() as (_, io):
            io.send(rw(1, 0, 8), write=bytes(4096))
            await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        async with t.queue() as queue:
            assert (await queue.connect())[0] == CONTROLLER_BUSY
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        # Another host does not wait.
        async with t.admin(data=attrs.evolve(GOOD, hostid=bytes(15) + b"x")):
            pass
        store.gate.set()


async def test_many_hosts_at_a_time():
    async with target() as t:

        async def one(number, ready, go):
            data = attrs.evolve(GOOD, hostid=bytes(15) + bytes([number + 1]))
            async with t.admin(data=data) as admin:
                ready.set()
                await go.wait()
                assert (await admin.identify(1))[0].ok

        async with trio.open_nursery() as nursery:
            go = trio.Event()
            for number in range(20):
                ready = trio.Event()
                nursery.start_soon(one, number, ready, go)
                await ready.wait()
            assert len(t.server.associations) == 20
            go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert t.server.associations == []
