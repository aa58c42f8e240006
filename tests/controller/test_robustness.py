"""Hostile and careless hosts, and many of them one after the other."""

import random

import pytest
import trio

from nvmf_controller import Namespace, RamDisk
from nvmf_transport.nvme import AdminOpcode, NvmOpcode
from nvmf_transport.status import INTERNAL_ERROR
from tests.controller.raw_host import rw, target
from tests.controller.stores import SlowStore


def garbage(rng: random.Random, opcodes: list[int]) -> bytes:
    """An SQE with a known opcode, small and large values in its other fields."""
    sqe = bytearray(64)
    sqe[0] = rng.choice(opcodes)
    sqe[1] = rng.choice((0x40, 0x40, 0x40, 0x41))
    sqe[4:8] = rng.choice((1, 1, 1, 0, 2, 0xFFFFFFFF, rng.getrandbits(32))).to_bytes(4, "little")
    for at in range(40, 64, 4):
        value = rng.choice((0, 1, rng.getrandbits(8), rng.getrandbits(32)))
        sqe[at : at + 4] = value.to_bytes(4, "little")
    return bytes(sqe)


@pytest.mark.parametrize("seed", range(4))
async def test_every_command_gets_an_answer(seed):
    rng = random.Random(seed)
    # Events are answered when they happen; a Property Set would disable the controller.
    excepted = {AdminOpcode.ASYNC_EVENT_REQUEST, AdminOpcode.FABRICS}
    admin_opcodes = [0xC1, *set(AdminOpcode) - excepted]
    io_opcodes = [*NvmOpcode, 0x7F, 0xC1]
    async with target(Namespace(1, RamDisk(1 << 16))) as t, t.both() as (admin, io):
        for number in range(400):
            queue, opcodes = (io, io_opcodes) if number % 2 else (admin, admin_opcodes)
            length = rng.choice((0, 0, 4, 16, 512, 4096, 8192, 65536))
            sqe = garbage(rng, opcodes)
            # The opcode says which way data goes; in a capsule it may also go the wrong way.
            write = bool(sqe[0] & 1) or (length <= 8192 and rng.random() < 0.4)
            with trio.fail_after(10):
                status, _, _ = await queue.command(
                    sqe,
                    write=rng.randbytes(length) if write and length else None,
                    read_bytes=0 if write else length,
                )
            assert status.code != INTERNAL_ERROR.code
        assert t.association(admin).budget.used_bytes == 0
        assert t.association(admin).capsules.used_bytes == 0


async def test_more_commands_than_the_queue_has_entries():
    store = SlowStore()
    async with target(Namespace(1, store)) as t, t.admin() as admin, t.io(admin, sqsize=3) as io:
        for _ in range(4):
            io.send(rw(NvmOpcode.READ, 0, 1), read_bytes=512)
        await trio.testing.wait_all_tasks_blocked()
        assert not io.dead.is_set()
        io.send(rw(NvmOpcode.READ, 0, 1), read_bytes=512)
        await io.dead.wait()
        store.gate.set()


async def test_nothing_is_left_after_many_rounds():
    async with target() as t:
        tasks = 0
        for number in range(60):
            async with t.both() as (admin, io):
                assert (await io.read(0, 8))[0].ok
                if number % 3 == 0:
                    t.transport.connections[number % 2].cut()
                    await (admin if number % 2 == 0 else io).dead.wait()
            await trio.testing.wait_all_tasks_blocked()
            for association in t.server.associations:
                await association.ended.wait()
            await trio.testing.wait_all_tasks_blocked()
            living = trio.lowlevel.current_statistics().tasks_living
            tasks = tasks or living
            assert living == tasks
