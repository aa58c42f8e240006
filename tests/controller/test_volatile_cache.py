"""The volatile cache: what it keeps, what a loss takes, and that reads never see the difference."""

import os
import random
import signal

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmf_controller import Namespace, RamDisk, VolatileCache
from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import DSM_AD, RW_FUA, Cc, DsmRange, NvmOpcode, SubmissionEntry
from tests.controller.nvmfd_process import ANY_PORT, hosted
from tests.controller.raw_host import ENABLED, SUBNQN, rw, target
from tests.controller.stores import SlowStore

FLUSH = SubmissionEntry(opc=NvmOpcode.FLUSH, nsid=1).pack()
OLD, NEW, OTHER = b"\1" * 4096, b"\2" * 4096, b"\3" * 4096


def cache(**kwargs) -> VolatileCache:
    return VolatileCache(RamDisk(1 << 20), **kwargs)


async def test_write_is_read_back_and_not_in_the_store():
    cached = cache()
    await cached.write(4096, NEW, fua=False)
    assert await cached.read(0, 12288) == bytes(4096) + NEW + bytes(4096)
    assert await cached.store.read(4096, 4096) == bytes(4096)
    assert cached.cached_bytes == 4096


async def test_flush_saves_and_loss_takes_the_rest():
    cached = cache()
    await cached.write(0, OLD, fua=False)
    await cached.flush()
    await cached.write(0, NEW, fua=False)
    await cached.write(8192, NEW, fua=True)
    assert cached.lose() == 4096
    assert (cached.losses, cached.lost_bytes, cached.cached_bytes) == (1, 4096, 0)
    assert await cached.read(0, 4096) == OLD
    assert await cached.read(8192, 4096) == NEW


async def test_fua_over_a_part_of_what_is_cached_saves_that_part():
    cached = cache()
    await cached.write(0, OLD * 3, fua=False)
    await cached.write(4096, NEW, fua=True)
    assert await cached.read(0, 12288) == OLD + NEW + OLD
    cached.lose()
    assert await cached.read(0, 12288) == bytes(4096) + NEW + bytes(4096)


async def test_zeroes_and_deallocation():
    cached = cache()
    await cached.write(0, OLD * 3, fua=False)
    await cached.write_zeroes(4096, 4096, deallocate=False, fua=False)
    assert await cached.read(0, 12288) == OLD + bytes(4096) + OLD
    await cached.deallocate(0, 4096)
    assert await cached.read(0, 12288) == bytes(8192) + OLD
    await cached.flush()
    assert await cached.store.read(0, 12288) == bytes(8192) + OLD


async def test_memory_is_bounded_and_the_oldest_goes_first():
    cached = cache(limit_bytes=64 << 10)
    for index in range(200):
        await cached.write(index * 4096, bytes([index]) * 4096, fua=False)
        assert cached.cached_bytes <= 68 << 10
    assert await cached.store.read(0, 4096) == bytes(4096)
    assert await cached.store.read(50 * 4096, 4096) == bytes([50]) * 4096
    assert await cached.store.read(199 * 4096, 4096) == bytes(4096)
    for index in range(200):
        assert await cached.read(index * 4096, 4096) == bytes([index]) * 4096


async def test_write_beside_a_flush_is_not_undone_by_it():
    store = SlowStore()
    cached = VolatileCache(store)
    await cached.write(0, OLD * 3, fua=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cached.flush)
        await trio.testing.wait_all_tasks_blocked()
        await cached.write(4096, NEW, fua=False)
        store.gate.set()
    assert await cached.read(0, 12288) == OLD + NEW + OLD
    assert cached.cached_bytes == 4096
    cached.lose()
    assert await cached.read(0, 12288) == OLD * 3


async def test_what_was_written_over_in_part_is_flushed_all_the_same():
    store = SlowStore()
    cached = VolatileCache(store)
    await cached.write(16384, OTHER, fua=False)
    await cached.write(0, OLD * 2, fua=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cached.flush)
        await trio.testing.wait_all_tasks_blocked()
        await cached.write(0, NEW, fua=False)
        store.gate.set()
    cached.lose()
    assert await cached.read(4096, 4096) == OLD


@pytest.mark.parametrize("change", ["fua", "zeroes"])
async def test_write_beside_fua_or_zeroes_is_the_newer(change):
    store = SlowStore()
    cached = VolatileCache(store)
    async with trio.open_nursery() as nursery:
        if change == "fua":
            nursery.start_soon(lambda: cached.write(0, OLD, fua=True))
            await trio.testing.wait_all_tasks_blocked()
            assert await cached.read(0, 4096) == OLD
        else:
            nursery.start_soon(lambda: cached.write_zeroes(0, 4096, deallocate=False, fua=False))
        await trio.testing.wait_all_tasks_blocked()
        await cached.write(0, NEW, fua=False)
        store.gate.set()
    assert await cached.read(0, 4096) == NEW


async def test_flush_during_a_loss_fails():
    store = SlowStore()
    cached = VolatileCache(store)
    await cached.write(0, OLD, fua=False)
    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cached.flush)
            await trio.testing.wait_all_tasks_blocked()
            cached.lose()
            store.gate.set()


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "fua", "zeroes", "deallocate", "flush", "read"]),
        st.integers(0, 15),
        st.integers(1, 8),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(operations, st.integers(0, 1 << 30))
def test_reads_are_as_without_a_cache_and_a_loss_takes_only_what_was_not_flushed(todo, seed):
    chaos = random.Random(seed)

    async def run():
        cached = VolatileCache(RamDisk(32 * 64), limit_bytes=chaos.choice([600, 1 << 20]))
        model = bytearray(32 * 64)
        # What each block may hold after a loss.
        allowed = [{bytes(64)} for _ in range(32)]

        def block(index):
            return bytes(model[index * 64 : index * 64 + 64])

        for what, first, count in todo:
            at, length = first * 64, count * 64
            touched = range(first, first + count)
            match what:
                case "write" | "fua":
                    data = chaos.randbytes(length)
                    await cached.write(at, data, fua=what == "fua")
                    model[at : at + length] = data
                    for index in touched:
                        keep = set() if what == "fua" else allowed[index]
                        allowed[index] = keep | {block(index)}
                case "zeroes" | "deallocate":
                    if what == "zeroes":
                        await cached.write_zeroes(at, length, deallocate=True, fua=False)
                    else:
                        await cached.deallocate(at, length)
                    model[at : at + length] = bytes(length)
                    for index in touched:
                        allowed[index] = allowed[index] | {bytes(64)}
                case "flush":
                    await cached.flush()
                    assert cached.cached_bytes == 0
                    allowed = [{block(index)} for index in range(32)]
                case _:
                    assert await cached.read(at, length) == model[at : at + length]
        assert await cached.read(0, 32 * 64) == model
        cached.lose()
        after = bytes(await cached.read(0, 32 * 64))
        for index in range(32):
            assert after[index * 64 : index * 64 + 64] in allowed[index]

    trio.run(run)


async def test_controller_with_a_volatile_cache():
    store = cache()
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        _, data = await admin.identify(1)
        assert IdentifyController.unpack(data).vwc_present
        assert (await io.write(0, OLD)).ok
        assert (await io.write(8, NEW, cdw12=RW_FUA)).ok
        assert (await io.read(0, 16))[1] == OLD + NEW
        assert await store.store.read(0, 8192) == bytes(4096) + NEW
        assert (await io.command(FLUSH))[0].ok
        assert await store.store.read(0, 8192) == OLD + NEW
        assert (await io.write(16, OTHER)).ok
        ranges = DsmRange(length_lbas=8, slba=0).pack()
        sqe = SubmissionEntry(
            opc=NvmOpcode.DATASET_MANAGEMENT, nsid=1, cdw10=0, cdw11=DSM_AD
        ).pack()
        assert (await io.command(sqe, write=ranges))[0].ok
        assert (await io.command(rw(NvmOpcode.COMPARE, 16, 8), write=OTHER))[0].ok
        await admin.set_cc(ENABLED.replace(shn=Cc.SHN_NORMAL))
        await trio.testing.wait_all_tasks_blocked()
    assert store.cached_bytes == 0


async def test_kill_loses_what_was_not_flushed(start, tmp_path):
    """Against the process: FUA and Flush survive kill -9, a plain write does not."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    process, (at,), _, _ = start(*ANY_PORT, "-n", SUBNQN, "--volatile-cache", str(path))
    async with hosted(at) as (_, io):
        assert (await io.write(0, OLD)).ok
        assert (await io.command(FLUSH))[0].ok
        assert (await io.write(8, NEW, cdw12=RW_FUA)).ok
        assert (await io.write(16, OTHER)).ok
        assert (await io.read(0, 24))[1] == OLD + NEW + OTHER
        process.kill()
        await io.dead.wait()
    assert process.wait(10) == -signal.SIGKILL
    assert path.read_bytes()[:12288] == OLD + NEW + bytes(4096)


async def test_signal_loses_the_cache_and_an_orderly_end_saves_it(start, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    process, (at,), _, _ = start(*ANY_PORT, "-n", SUBNQN, "--volatile-cache", str(path))
    async with hosted(at) as (_, io):
        assert (await io.write(0, OLD)).ok
        process.send_signal(signal.SIGUSR2)
        line = await trio.to_thread.run_sync(process.stderr.readline)
        assert "namespace 1 has lost 4096 bytes" in line
        assert (await io.read(0, 8))[1] == bytes(4096)
        assert (await io.write(8, NEW)).ok
        os.kill(process.pid, signal.SIGTERM)
        await io.dead.wait()
    assert process.wait(15) == 0
    assert path.read_bytes()[:8192] == bytes(4096) + NEW
