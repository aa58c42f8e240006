"""Data in capsules: what is done at once, and what those that must wait may hold."""

import random
from typing import Any

import pytest
import trio

from nvmf_controller import ControllerConfig, Namespace, RamDisk
from nvmf_transport.nvme import RW_FUA, Cc, NvmOpcode, SubmissionEntry
from nvmf_transport.status import COMMAND_ID_CONFLICT
from tests.controller.raw_host import rw, target
from tests.controller.stores import SlowStore

BLOCK = 8192
LBAS = BLOCK // 512
#: Room for eight.
SMALL = ControllerConfig(memory_bytes=8 * BLOCK)


class PlainDisk(RamDisk):
    """A RAM disk whose commands are tasks, as those of a file are."""

    inline = None  # type: ignore[assignment]


def block(number: int) -> bytes:
    return bytes([number + 1]) * BLOCK


async def test_queue_waits_where_capsules_hold_all_they_may():
    store = SlowStore()
    async with target(Namespace(1, store), config=SMALL) as t, t.both() as (admin, io):
        capsules = t.association(admin).capsules
        cids = [io.send(rw(1, i * LBAS, LBAS), write=block(i))[0] for i in range(12)]
        await trio.testing.wait_all_tasks_blocked()
        assert store.begun == ["write"] * 8
        assert capsules.used_bytes == 8 * BLOCK
        # The admin queue does not wait with it.
        assert (await admin.identify(1))[0].ok
        store.gate.set()
        for cid in cids:
            assert (await io.answer(cid)).status == 0
        assert capsules.used_bytes == 0
        for i in range(12):
            assert (await io.read(i * LBAS, LBAS))[1] == block(i)


async def test_compare_holds_what_it_reads_as_well():
    store = SlowStore()
    async with target(Namespace(1, store), config=SMALL) as t, t.both() as (_, io):
        cids = [io.send(rw(NvmOpcode.COMPARE, 0, LBAS), write=bytes(BLOCK))[0] for _ in range(6)]
        await trio.testing.wait_all_tasks_blocked()
        assert store.begun == ["read"] * 4
        store.gate.set()
        for cid in cids:
            assert (await io.answer(cid)).status == 0


async def test_data_asked_for_does_not_wait_for_capsules_nor_they_for_it():
    store = SlowStore()
    async with target(Namespace(1, store), config=SMALL) as t, t.both() as (admin, io):
        association = t.association(admin)
        # All the memory there is for data that is asked for, and all there is for capsules.
        asked, _ = io.send(rw(1, 0, 8 * LBAS), write=bytes(8 * BLOCK))
        cids = [io.send(rw(1, i * LBAS, LBAS), write=block(i))[0] for i in range(8, 18)]
        await trio.testing.wait_all_tasks_blocked()
        assert association.budget.used_bytes == association.capsules.used_bytes == 8 * BLOCK
        store.gate.set()
        for cid in (asked, *cids):
            assert (await io.answer(cid)).status == 0
        assert association.budget.used_bytes == association.capsules.used_bytes == 0


async def test_command_that_waits_for_room_is_not_begun_after_a_reset():
    store = SlowStore()
    async with target(Namespace(1, store), config=SMALL) as t, t.both() as (admin, io):
        capsules = t.association(admin).capsules
        for i in range(10):
            io.send(rw(1, i * LBAS, LBAS), write=block(i))
        await trio.testing.wait_all_tasks_blocked()
        await admin.set_cc(Cc())
        store.gate.set()
        await io.dead.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert store.done == ["write"] * 8
        assert capsules.used_bytes == 0


async def test_room_of_a_command_whose_cid_is_in_use_is_given_back():
    store = SlowStore()
    async with target(Namespace(1, store), config=SMALL) as t, t.both() as (admin, io):
        cid, _ = io.send(rw(1, 0, LBAS), write=block(0))
        await trio.testing.wait_all_tasks_blocked()
        io.qpair._outstanding.clear()
        io.send(rw(1, 0, LBAS), write=block(1), cid=cid)
        response = await io.answer(cid)
        assert response.status == COMMAND_ID_CONFLICT.with_dnr().to_field()
        assert t.association(admin).capsules.used_bytes == BLOCK
        store.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert t.association(admin).capsules.used_bytes == 0


@pytest.mark.parametrize("seed", range(3))
async def test_commands_done_at_once_do_what_tasks_do(seed):
    """The same commands, right and wrong, by the fast paths and by their plain twins."""
    rng = random.Random(seed)
    size_lbas = 64
    disks = [RamDisk(size_lbas * 512), PlainDisk(size_lbas * 512)]
    results: tuple[list[Any], list[Any]] = ([], [])
    async with (
        target(*(Namespace(1, disk) for disk in disks[:1])) as fast,
        target(*(Namespace(1, disk) for disk in disks[1:])) as plain,
        fast.both() as (_, fast_io),
        plain.both() as (_, plain_io),
    ):
        for _ in range(300):
            opcode = rng.choice((1, 1, 2, 2, 5, 0))
            blocks = rng.choice((1, 2, 8, 17))
            entry = SubmissionEntry(
                opc=opcode,
                nsid=1,
                cdw10=rng.randrange(size_lbas + 4),
                cdw12=(blocks - 1) | rng.choice((0, 0, RW_FUA)),
            )
            length = blocks * 512 if rng.random() < 0.9 else rng.choice((0, 512, 1024))
            data = rng.randbytes(length)
            for io, result in zip((fast_io, plain_io), results, strict=True):
                # A host's CID is free once its answer is here.
                result.append(
                    await io.command(
                        entry.pack(),
                        write=data if opcode & 1 and length else None,
                        read_bytes=length if opcode == 2 else 0,
                    )
                )
        assert results[0] == results[1]
        assert fast.server.statistics == plain.server.statistics
    assert {status.ok for status, _, _ in results[0]} == {True, False}


async def test_read_only_namespace_is_not_written_at_once():
    namespace = Namespace(1, RamDisk(1 << 16), read_only=True)
    async with target(namespace) as t, t.both() as (_, io):
        status, _, _ = await io.command(rw(1, 0, LBAS), write=block(1))
        assert not status.ok
        assert (await io.read(0, LBAS))[1] == bytes(BLOCK)
