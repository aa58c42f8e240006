"""What I/O commands do, on a RAM disk and on a file."""

import os
import struct

import pytest
import trio

from nvmf_controller import FileStore, Namespace, RamDisk
from nvmf_controller.io_commands import SQE
from nvmf_transport.nvme import (
    DSM_AD,
    NSID_ALL,
    RW_FUA,
    WZ_DEAC,
    NvmOpcode,
    SubmissionEntry,
)
from nvmf_transport.status import (
    COMPARE_FAILURE,
    DATA_SGL_LENGTH_INVALID,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    INVALID_OPCODE,
    LBA_OUT_OF_RANGE,
    UNRECOVERED_READ_ERROR,
    WRITE_PROTECTED,
)
from tests.controller.raw_host import rw, target

SIZE = 1 << 20


@pytest.fixture(params=["ram-512", "ram-4096", "file-512", "file-4096"])
async def namespace(request, tmp_path):
    kind, lba = request.param.split("-")
    store = RamDisk(SIZE) if kind == "ram" else await open_file(tmp_path / "disk")
    return Namespace(1, store, int(lba))


async def open_file(path, content=bytes(SIZE), **kwargs):
    path.write_bytes(content)
    return await FileStore.open(str(path), **kwargs)


def test_short_sqe_layout_is_the_declared_one():
    entry = SubmissionEntry(
        opc=2, flags=0x41, nsid=7, cdw10=0x11223344, cdw11=0x55667788, cdw12=0x99AABBCC
    )

    assert SQE.unpack(entry.pack()) == (2, 0x41, 7, entry.slba, 0x99AABBCC)


@pytest.mark.parametrize("length", [4096, 8192, 65536, 1 << 19])
async def test_what_was_written_is_read(namespace, length):
    data = os.urandom(length)
    async with target(namespace) as t, t.both() as (_, io):
        assert (await io.write(8, data, lba_bytes=namespace.lba_bytes)).ok
        blocks = length // namespace.lba_bytes

        assert (await io.read(8, blocks, lba_bytes=namespace.lba_bytes))[1] == data
        before = await io.read(0, 8, lba_bytes=namespace.lba_bytes)
        assert before[1] == bytes(8 * namespace.lba_bytes)


async def test_many_commands_at_a_time(namespace):
    lba = namespace.lba_bytes
    blocks = [os.urandom(16384) for _ in range(48)]
    step = 16384 // lba
    async with target(namespace) as t, t.both() as (_, io):

        async def work(number):
            assert (await io.write(number * step, blocks[number], lba_bytes=lba)).ok
            status, data = await io.read(number * step, step, lba_bytes=lba)
            assert status.ok
            assert data == blocks[number]

        async with trio.open_nursery() as nursery:
            for number in range(48):
                nursery.start_soon(work, number)


@pytest.mark.parametrize("opcode", [NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE])
async def test_range_beyond_the_end(namespace, opcode):
    lba = namespace.lba_bytes
    last = SIZE // lba - 1
    async with target(namespace) as t, t.both() as (_, io):
        for slba in (last, last + 1, 2**64 - 1, 2**64 - 2):
            sqe = rw(opcode, slba, 2)
            if opcode == NvmOpcode.READ:
                status, _, _ = await io.command(sqe, read_bytes=2 * lba)
            else:
                status, _, _ = await io.command(sqe, write=bytes(2 * lba))
            assert status == LBA_OUT_OF_RANGE.with_dnr()


async def test_length_other_than_the_sgl(namespace):
    lba = namespace.lba_bytes
    async with target(namespace) as t, t.both() as (_, io):
        for read_bytes in (lba, 3 * lba):
            status, _, _ = await io.command(rw(NvmOpcode.READ, 0, 2), read_bytes=read_bytes)
            assert status == DATA_SGL_LENGTH_INVALID.with_dnr()
        for length in (lba, 3 * lba):
            status, _, _ = await io.command(rw(NvmOpcode.WRITE, 0, 2), write=b"\xff" * length)
            assert status == DATA_SGL_LENGTH_INVALID.with_dnr()
        assert (await io.read(0, 2, lba_bytes=lba))[1] == bytes(2 * lba)


async def test_compare(namespace):
    lba = namespace.lba_bytes
    data = os.urandom(4 * lba)
    async with target(namespace) as t, t.both() as (_, io):
        await io.write(0, data, lba_bytes=lba)
        assert (await io.command(rw(NvmOpcode.COMPARE, 0, 4), write=data))[0].ok
        other = data[:-1] + bytes([data[-1] ^ 1])
        status, _, _ = await io.command(rw(NvmOpcode.COMPARE, 0, 4), write=other)
        assert status == COMPARE_FAILURE.with_dnr()


@pytest.mark.parametrize("cdw12", [0, WZ_DEAC, RW_FUA])
async def test_write_zeroes(namespace, cdw12):
    lba = namespace.lba_bytes
    data = os.urandom(32 * lba)
    async with target(namespace) as t, t.both() as (_, io):
        await io.write(0, data, lba_bytes=lba)
        await io.ok(rw(NvmOpcode.WRITE_ZEROES, 3, 20, cdw12=cdw12))
        expected = data[: 3 * lba] + bytes(20 * lba) + data[23 * lba :]

        assert (await io.read(0, 32, lba_bytes=lba))[1] == expected
        status, _, _ = await io.command(rw(NvmOpcode.WRITE_ZEROES, SIZE // lba - 1, 2))
        assert status == LBA_OUT_OF_RANGE.with_dnr()


def dsm(*ranges):
    sqe = SubmissionEntry(
        opc=NvmOpcode.DATASET_MANAGEMENT, nsid=1, cdw10=len(ranges) - 1, cdw11=DSM_AD
    ).pack()
    return sqe, b"".join(struct.pack("<IIQ", 0, blocks, slba) for slba, blocks in ranges)


async def test_deallocated_blocks_read_as_zeroes(namespace):
    lba = namespace.lba_bytes
    data = os.urandom(64 * lba)
    async with target(namespace) as t, t.both() as (_, io):
        await io.write(0, data, lba_bytes=lba)
        sqe, ranges = dsm((0, 8), (16, 0), (20, 30))
        await io.ok(sqe, write=ranges)
        expected = bytes(8 * lba) + data[8 * lba : 20 * lba] + bytes(30 * lba) + data[50 * lba :]

        assert (await io.read(0, 64, lba_bytes=lba))[1] == expected


async def test_one_bad_range_deallocates_nothing(namespace):
    lba = namespace.lba_bytes
    async with target(namespace) as t, t.both() as (_, io):
        await io.write(0, b"x" * lba, lba_bytes=lba)
        sqe, ranges = dsm((0, 1), (SIZE // lba, 1))
        status, _, _ = await io.command(sqe, write=ranges)
        assert status == LBA_OUT_OF_RANGE.with_dnr()
        assert (await io.read(0, 1, lba_bytes=lba))[1] == b"x" * lba


async def test_256_ranges(namespace):
    async with target(namespace) as t, t.both() as (_, io):
        sqe, ranges = dsm(*[(0, 1)] * 256)
        await io.ok(sqe, write=ranges)
        status, _, _ = await io.command(sqe, write=ranges[:-16])
        assert status == DATA_SGL_LENGTH_INVALID.with_dnr()


async def test_room_for_more_ranges_than_there_are(namespace):
    lba = namespace.lba_bytes
    async with target(namespace) as t, t.both() as (_, io):
        await io.write(0, b"x" * 2 * lba, lba_bytes=lba)
        sqe, ranges = dsm((0, 1))
        await io.ok(sqe, write=ranges.ljust(4096, b"\xff"))
        assert (await io.read(0, 2, lba_bytes=lba))[1] == bytes(lba) + b"x" * lba


async def test_flush_and_verify(namespace):
    async with target(namespace) as t, t.both() as (_, io):
        for nsid in (1, NSID_ALL):
            await io.ok(SubmissionEntry(opc=NvmOpcode.FLUSH, nsid=nsid).pack())
        status, _, _ = await io.command(SubmissionEntry(opc=NvmOpcode.FLUSH, nsid=2).pack())
        assert status == INVALID_NAMESPACE.with_dnr()
        await io.ok(rw(NvmOpcode.VERIFY, 0, SIZE // namespace.lba_bytes))


async def test_commands_that_are_refused():
    async with target() as t, t.both() as (_, io):
        for sqe, expected in (
            (SubmissionEntry(opc=0x55, nsid=1).pack(), INVALID_OPCODE),
            (SubmissionEntry(opc=NvmOpcode.READ, nsid=5).pack(), INVALID_NAMESPACE),
            (SubmissionEntry(opc=NvmOpcode.READ, nsid=NSID_ALL).pack(), INVALID_NAMESPACE),
            (SubmissionEntry(opc=NvmOpcode.WRITE_ZEROES, nsid=0).pack(), INVALID_NAMESPACE),
            (SubmissionEntry(opc=NvmOpcode.VERIFY, nsid=1, flags=0x41).pack(), INVALID_FIELD),
        ):
            status, _, _ = await io.command(sqe)
            assert status == expected.with_dnr()


async def test_read_only_namespace(tmp_path):
    store = await open_file(tmp_path / "disk", os.urandom(SIZE), read_only=True)
    async with target(Namespace(1, store)) as t, t.both() as (admin, io):
        assert await io.write(0, bytes(512)) == WRITE_PROTECTED.with_dnr()
        for sqe in (rw(NvmOpcode.WRITE_ZEROES, 0, 1),):
            assert (await io.command(sqe))[0] == WRITE_PROTECTED.with_dnr()
        sqe, ranges = dsm((0, 1))
        assert (await io.command(sqe, write=ranges))[0] == WRITE_PROTECTED.with_dnr()
        assert (await io.read(0, 8))[0].ok
        assert (await admin.identify(0, 1))[1][99] & 1


async def test_fua_writes_are_counted_and_synchronous(tmp_path, monkeypatch):
    store = await open_file(tmp_path / "disk")
    flags = []
    pwritev = os.pwritev

    def watched(fd, buffers, offset, flag):
        flags.append(flag)
        return pwritev(fd, buffers, offset, flag)

    monkeypatch.setattr(os, "pwritev", watched)
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        assert (await io.write(0, bytes(512))).ok
        assert (await io.write(0, bytes(512), cdw12=RW_FUA)).ok
        assert flags == [0, os.RWF_DSYNC]
        assert t.server.statistics.fua_writes == 1
        assert t.server.statistics.io(NvmOpcode.WRITE) == 2


async def test_file_that_became_shorter_is_a_read_error(tmp_path, announce):
    announce("ends at 4096")
    store = await open_file(tmp_path / "disk")
    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        os.truncate(tmp_path / "disk", 4096)
        assert (await io.read(0, 8))[0].ok
        status, _ = await io.read(8, 8)
        assert status == UNRECOVERED_READ_ERROR.with_dnr()


async def test_failed_flush_is_not_forgotten(tmp_path, monkeypatch, announce):
    announce("Input/output error")
    announce("earlier flush failed")
    store = await open_file(tmp_path / "disk")
    flush = SubmissionEntry(opc=NvmOpcode.FLUSH, nsid=1).pack()

    def fail(fd):
        raise OSError(5, "Input/output error")

    async with target(Namespace(1, store)) as t, t.both() as (_, io):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            assert not (await io.command(flush))[0].ok
        assert not (await io.command(flush))[0].ok
