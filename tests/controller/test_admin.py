"""Admin commands: Identify, logs, features, events, Abort."""

import uuid

import pytest
import trio

from nvmf_controller import Namespace, RamDisk
from nvmf_controller.events import MAX_EVENT_REQUESTS
from nvmf_transport.fabrics import FabricsType
from nvmf_transport.identify import (
    IdentifyController,
    IdentifyNamespace,
    unpack_namespace_descriptors,
    unpack_namespace_list,
)
from nvmf_transport.logs import CommandEffectsLog, ErrorEntry, HealthLog, LogId
from nvmf_transport.nvme import (
    AEC_NAMESPACE_ATTRIBUTE,
    NSID_ALL,
    AdminOpcode,
    AsyncEvent,
    FeatureId,
    NvmOpcode,
    SubmissionEntry,
)
from nvmf_transport.status import (
    ABORT_REQUESTED,
    AER_LIMIT_EXCEEDED,
    COMMAND_SEQUENCE_ERROR,
    DATA_SGL_LENGTH_INVALID,
    FEATURE_NOT_SAVEABLE,
    INVALID_FIELD,
    INVALID_LOG_PAGE,
    INVALID_NAMESPACE,
    INVALID_OPCODE,
    Status,
)
from tests.controller.raw_host import HOSTID, SUBNQN, rw, target
from tests.controller.stores import SlowStore

AER = SubmissionEntry(opc=AdminOpcode.ASYNC_EVENT_REQUEST).pack()


async def test_identify_controller():
    async with target() as t, t.admin() as admin:
        fields = IdentifyController.unpack((await admin.identify(1))[1])

        assert fields.cntlid == admin.cntlid
        assert fields.subnqn == SUBNQN
        assert (fields.ver, fields.cntrltype, fields.mdts) == (0x10400, 1, 8)
        assert (fields.kas, fields.maxcmd, fields.icdoff) == (10, 1024, 0)
        assert (fields.ioccsz, fields.iorcsz) == ((64 + (1 << 20)) // 16, 1)
        assert fields.sgls & 3
        assert fields.tbkas == 1
        assert fields.ctratt & IdentifyController.CTRATT_HOSTID_128
        assert fields.oaes == AEC_NAMESPACE_ATTRIBUTE
        assert fields.vwc_present == 0
        assert (fields.sqes, fields.cqes) == (0x66, 0x44)


async def test_serial_depends_on_the_nqn_alone():
    async with target() as t, target() as u:
        assert t.subsystem.serial == u.subsystem.serial
        assert len(t.subsystem.serial) == 20


async def test_volatile_cache_is_reported_where_a_namespace_has_one():
    async with target(Namespace(1, SlowStore())) as t, t.admin() as admin:
        fields = IdentifyController.unpack((await admin.identify(1))[1])
        assert (fields.vwc_present, fields.vwc_flush_all) == (1, 3)


async def test_identify_namespaces():
    identifier = uuid.uuid4()
    disks = (
        Namespace(1, RamDisk(1 << 20), 512, identifier),
        Namespace(7, RamDisk(1 << 20), 4096),
    )
    async with target(*disks) as t, t.admin() as admin:
        assert unpack_namespace_list((await admin.identify(2, 0))[1]) == [1, 7]
        assert unpack_namespace_list((await admin.identify(2, 1))[1]) == [7]
        assert unpack_namespace_list((await admin.identify(2, 7))[1]) == []
        first = IdentifyNamespace.unpack((await admin.identify(0, 1))[1])
        assert (first.nsze, first.lba_format.lba_bytes) == (2048, 512)
        assert IdentifyNamespace.unpack((await admin.identify(0, 7))[1]).nsze == 256
        assert unpack_namespace_descriptors((await admin.identify(3, 1))[1]) == {
            3: identifier.bytes
        }
        # Inactive: zeroes.  Not valid at all: an error.
        assert (await admin.identify(0, 2)) == (Status(), bytes(4096))
        for cns, nsid in ((0, 0), (0, NSID_ALL), (0, 5000), (3, 2), (2, NSID_ALL)):
            assert (await admin.identify(cns, nsid))[0] == INVALID_NAMESPACE.with_dnr()
        for cns in (4, 5, 6, 8, 0x10, 0x1C):
            assert (await admin.identify(cns, 1))[0] == INVALID_FIELD.with_dnr()


async def test_identify_of_a_wrong_length():
    async with target() as t, t.admin() as admin:
        sqe = SubmissionEntry(opc=AdminOpcode.IDENTIFY, cdw10=1).pack()
        status, _, _ = await admin.command(sqe, read_bytes=512)
        assert status == DATA_SGL_LENGTH_INVALID.with_dnr()


async def test_ram_disks_are_new_at_every_start():
    assert Namespace(1, RamDisk(4096)).uuid != Namespace(1, RamDisk(4096)).uuid


@pytest.mark.parametrize("opcode", [0x00, 0x04, 0x0D, 0x10, 0x80, 0xC0])
async def test_admin_commands_that_are_not_there(opcode):
    async with target() as t, t.admin() as admin:
        status, _, _ = await admin.command(SubmissionEntry(opc=opcode).pack())
        assert status == INVALID_OPCODE.with_dnr()


async def test_fabrics_commands_that_are_refused():
    async with target() as t, t.both() as (admin, io):
        for queue, fctype, expected in (
            (admin, FabricsType.DISCONNECT, Status(1, 0x85)),
            (admin, FabricsType.AUTHENTICATION_SEND, INVALID_OPCODE),
            (io, FabricsType.DISCONNECT, INVALID_OPCODE),
            (io, FabricsType.PROPERTY_GET, INVALID_OPCODE),
        ):
            sqe = SubmissionEntry(opc=AdminOpcode.FABRICS, nsid=fctype).pack()
            assert (await queue.command(sqe))[0] == expected.with_dnr()


async def test_health_counts_what_was_done():
    async with target() as t, t.both() as (admin, io):
        await io.write(0, bytes(8192))
        await io.read(0, 8)
        status, page = await admin.log(LogId.HEALTH, 512)
        fields = HealthLog.unpack(page)

        assert status.ok
        assert (fields.host_reads, fields.host_writes) == (1, 1)
        assert (fields.data_units_read, fields.data_units_written) == (1, 1)
        assert fields.critical_warning == 0
        assert (await admin.log(LogId.HEALTH, 512, nsid=1))[0] == INVALID_FIELD.with_dnr()


async def test_log_pages_in_parts():
    async with target() as t, t.admin() as admin:
        _, whole = await admin.log(LogId.COMMAND_EFFECTS, 4096)
        assert (await admin.log(LogId.COMMAND_EFFECTS, 8, 1024))[1] == whole[1024:1032]
        # After the end there are zeroes, after that nothing.
        assert (await admin.log(LogId.COMMAND_EFFECTS, 16, 4088))[1] == whole[4088:] + bytes(8)
        assert (await admin.log(LogId.COMMAND_EFFECTS, 4, 4100))[0] == INVALID_FIELD.with_dnr()
        assert (await admin.log(LogId.COMMAND_EFFECTS, 4, 2))[0] == INVALID_FIELD.with_dnr()
        effects = CommandEffectsLog.unpack(whole)
        assert effects.io[NvmOpcode.WRITE] == 3
        assert effects.io[NvmOpcode.WRITE_UNCORRECTABLE] == 0


async def test_log_pages_that_are_there():
    async with target() as t, t.admin() as admin:
        _, page = await admin.log(0, 1024)
        there = {lid for lid in range(256) if page[4 * lid]}
        assert there == {0, 1, 2, 3, 4, 5, 0x1E}
        for lid in range(256):
            status, _ = await admin.log(lid, 512)
            assert status == (Status() if lid in there else INVALID_LOG_PAGE.with_dnr())


async def test_length_of_a_log_page_other_than_the_sgl():
    async with target() as t, t.admin() as admin:
        sqe = SubmissionEntry(opc=AdminOpcode.GET_LOG_PAGE, cdw10=2 | 127 << 16).pack()
        for read_bytes in (508, 516):
            status, _, _ = await admin.command(sqe, read_bytes=read_bytes)
            assert status == DATA_SGL_LENGTH_INVALID.with_dnr()


async def test_error_log_has_the_newest_first():
    async with target() as t, t.both() as (admin, io):
        await io.read(5000, 1)
        await admin.identify(0x55)
        _, page = await admin.log(LogId.ERROR, 128)
        newest, older = ErrorEntry.unpack(page), ErrorEntry.unpack(page, 64)

        assert (newest.error_count, newest.sqid, newest.opc) == (2, 0, AdminOpcode.IDENTIFY)
        assert (older.error_count, older.sqid, older.lba, older.nsid) == (1, 1, 5000, 1)
        assert older.status_field >> 1 == Status(0, 0x80, dnr=True).to_field()


async def test_number_of_queues():
    async with target() as t, t.admin() as admin:
        fid = FeatureId.NUMBER_OF_QUEUES
        assert (await admin.get_feature(fid))[1] == 63 * 0x10001
        assert await admin.set_feature(fid, 0xFFFF0000) == (INVALID_FIELD.with_dnr(), 0)
        assert await admin.set_feature(fid, 7 | 3 << 16) == (Status(), 3 * 0x10001)
        assert await admin.set_feature(fid, 999 * 0x10001) == (Status(), 63 * 0x10001)
        assert (await admin.get_feature(fid))[1] == 63 * 0x10001
        async with t.io(admin):
            status, _ = await admin.set_feature(fid, 0)
            assert status == COMMAND_SEQUENCE_ERROR.with_dnr()


@pytest.mark.parametrize(
    ("fid", "value", "default"),
    [
        (FeatureId.ARBITRATION, 5, 0),
        (FeatureId.POWER_MANAGEMENT, 0, 0),
        (FeatureId.TEMPERATURE_THRESHOLD, 350, 0xFFFF),
        (FeatureId.ERROR_RECOVERY, 100, 0),
        (FeatureId.WRITE_ATOMICITY, 1, 0),
        (FeatureId.ASYNC_EVENT_CONFIG, AEC_NAMESPACE_ATTRIBUTE, 0),
        (FeatureId.VOLATILE_WRITE_CACHE, 0, 1),
    ],
)
async def test_features(fid, value, default):
    async with target(Namespace(1, SlowStore())) as t, t.admin() as admin:
        assert (await admin.get_feature(fid))[1] == default
        assert (await admin.set_feature(fid, value))[0].ok
        assert (await admin.get_feature(fid))[1] == value
        for select in (1, 2):
            assert (await admin.get_feature(fid, select=select))[1] == default
        assert (await admin.get_feature(fid, select=3))[1] == 4
        status, _ = await admin.set_feature(fid | 1 << 31, value)
        assert status == FEATURE_NOT_SAVEABLE.with_dnr()


async def test_features_with_data():
    async with target() as t, t.admin() as admin:
        fid = FeatureId.HOST_BEHAVIOR_SUPPORT
        behavior = b"\x01" + bytes(511)
        assert (await admin.set_feature(fid, write=behavior))[0].ok
        assert (await admin.get_feature(fid, read_bytes=512))[2] == behavior
        status, _ = await admin.set_feature(fid, write=bytes(100))
        assert status == DATA_SGL_LENGTH_INVALID.with_dnr()
        fid = FeatureId.HOST_IDENTIFIER
        assert (await admin.get_feature(fid, 1, read_bytes=16))[2] == HOSTID
        assert (await admin.get_feature(fid, 0, read_bytes=8))[0] == Status(0, 0x18, dnr=True)
        status, _ = await admin.set_feature(fid, 1, write=bytes(16))
        assert status == COMMAND_SEQUENCE_ERROR.with_dnr()


@pytest.mark.parametrize(
    "fid", [FeatureId.ARBITRATION, FeatureId.HOST_BEHAVIOR_SUPPORT, FeatureId.NUMBER_OF_QUEUES]
)
async def test_data_that_no_feature_has_is_not_asked_for(fid):
    """Every queue entry could have a megabyte promised to it."""
    async with target() as t, t.admin() as admin:
        for length in (8193, 1 << 20):
            status, _ = await admin.set_feature(fid, write=bytes(length))
            assert status == DATA_SGL_LENGTH_INVALID.with_dnr()
        assert (await admin.set_feature(FeatureId.ARBITRATION, write=bytes(4096)))[0].ok
        assert t.association(admin).budget.used_bytes == 0


async def test_the_longest_keep_alive_timeout_fits_its_answer():
    async with target() as t, t.admin() as admin:
        assert (await admin.set_feature(FeatureId.KEEP_ALIVE_TIMER, 0xFFFFFFFF))[0].ok
        assert (await admin.get_feature(FeatureId.KEEP_ALIVE_TIMER))[1] == 4_294_967_000


async def test_features_that_are_not_there():
    async with target() as t, t.admin() as admin:
        for fid in (0, 0x03, 0x06, 0x08, 0x0C, 0x0E, 0x82, 0xD0):
            assert (await admin.get_feature(fid))[0] == INVALID_FIELD.with_dnr()
            assert (await admin.set_feature(fid))[0] == INVALID_FIELD.with_dnr()
        status, _ = await admin.set_feature(FeatureId.POWER_MANAGEMENT, 1)
        assert status == INVALID_FIELD.with_dnr()
        status, _ = await admin.set_feature(FeatureId.ASYNC_EVENT_CONFIG, 1 << 31)
        assert status == INVALID_FIELD.with_dnr()


NAMESPACE_CHANGED = AsyncEvent.of(event_type=2, info=0, log_page=4).value


async def changed(admin, **kwargs):
    return unpack_namespace_list((await admin.log(LogId.CHANGED_NAMESPACES, 4096, **kwargs))[1])


async def test_namespace_changes_are_reported_once_until_the_log_is_read():
    async with target() as t, t.admin() as admin:
        await admin.set_feature(FeatureId.ASYNC_EVENT_CONFIG, AEC_NAMESPACE_ATTRIBUTE)
        first, _ = admin.send(AER)
        second, _ = admin.send(AER)
        await trio.testing.wait_all_tasks_blocked()
        assert not admin.answered(first)

        t.subsystem.add_namespace(Namespace(3, RamDisk(1 << 20)))
        assert (await admin.answer(first)).result == NAMESPACE_CHANGED
        t.subsystem.resize_namespace(1, 100)
        assert await changed(admin, rae=True) == [1, 3]
        await trio.testing.wait_all_tasks_blocked()
        assert not admin.answered(second)

        assert await changed(admin) == [1, 3]
        assert await changed(admin) == []
        t.subsystem.remove_namespace(3).store.close()
        assert (await admin.answer(second)).result == NAMESPACE_CHANGED
        assert await changed(admin) == [3]
        assert unpack_namespace_list((await admin.identify(2))[1]) == [1]
        assert IdentifyNamespace.unpack((await admin.identify(0, 1))[1]).nsze == 100


async def test_event_waits_for_a_request():
    async with target() as t, t.admin() as admin:
        await admin.set_feature(FeatureId.ASYNC_EVENT_CONFIG, AEC_NAMESPACE_ATTRIBUTE)
        t.subsystem.resize_namespace(1, 100)
        assert (await admin.command(AER))[1] == NAMESPACE_CHANGED


async def test_events_that_were_not_asked_for():
    async with target() as t, t.admin() as admin:
        cid, _ = admin.send(AER)
        t.subsystem.resize_namespace(1, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert not admin.answered(cid)
        assert await changed(admin) == [1]


async def test_more_changes_than_the_list_holds():
    async with target() as t, t.admin() as admin:
        association = t.association(admin)
        for nsid in range(1, 1026):
            association.events.namespace_changed(nsid)
        assert await changed(admin) == [NSID_ALL]
        assert await changed(admin) == []


async def test_too_many_event_requests():
    async with target() as t, t.admin() as admin:
        for _ in range(MAX_EVENT_REQUESTS):
            admin.send(AER)
        assert (await admin.command(AER))[0] == AER_LIMIT_EXCEEDED.with_dnr()


def abort(qid, cid):
    return SubmissionEntry(opc=AdminOpcode.ABORT, cdw10=qid | cid << 16).pack()


async def test_abort():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        event, _ = admin.send(AER)
        assert (await admin.ok(abort(0, event)))[0] == 0
        assert Status.from_field((await admin.answer(event)).status) == ABORT_REQUESTED
        # Nothing of that name; and one that has begun.
        assert (await admin.ok(abort(0, 999)))[0] == 1
        assert (await admin.ok(abort(9, 1)))[0] == 1
        cids = [io.send(rw(2, 0, 2048), read_bytes=1 << 20)[0] for _ in range(40)]
        await trio.testing.wait_all_tasks_blocked()
        # 32 have begun; the others wait for memory.
        aborted = [cid for cid in cids if (await admin.ok(abort(1, cid)))[0] == 0]
        assert len(aborted) == 8
        for cid in aborted:
            assert Status.from_field((await io.answer(cid)).status) == ABORT_REQUESTED
        store.gate.set()
        for cid in set(cids) - set(aborted):
            assert (await io.answer(cid)).status == 0
        assert len(store.done) == 32
        assert t.association(admin).budget.used_bytes == 0


async def test_namespace_that_was_removed_under_a_host():
    async with target() as t, t.both() as (_, io):
        t.subsystem.remove_namespace(1).store.close()
        assert (await io.read(0, 1))[0] == INVALID_NAMESPACE.with_dnr()
