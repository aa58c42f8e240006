"""Faults in the bytes: what our own NVMe/TCP host makes of each, and nvmfd with a plan."""

import subprocess

import pytest
import trio

from nvmf_controller import FaultPlan, Rule
from nvmf_controller.fault_actions import (
    BadLength,
    BadOffset,
    BadPlen,
    Flip,
    Ghost,
    OverlappingData,
    Part,
    Reset,
    ShortData,
    Truncate,
    WrongCid,
)
from nvmf_tcp import TcpTransport
from nvmf_transport.errors import ConnectionLostError, RemoteProtocolError
from nvmf_transport.faults import PduKind
from nvmf_transport.nvme import NvmOpcode
from tests.controller.fault_examples import examples
from tests.controller.nvmfd_process import ANY_PORT, NVMFD, hosted
from tests.controller.raw_host import SUBNQN, rw, target

#: Fatal Error Status: Invalid PDU Header Field, PDU Sequence Error, Header Digest Error, Data
#: Transfer Out of Range.
HEADER, SEQUENCE, HEADER_DIGEST, OUT_OF_RANGE = 1, 2, 3, 4
DATA = bytes(range(256)) * 256
RESPONSE, C2H, R2T = PduKind.RESPONSE, PduKind.DATA, PduKind.R2T


def faulty(action, **digests):
    """A target over TCP; the third command of its I/O queue, after CONNECT, meets with `action`."""
    plan = FaultPlan(rule=(Rule(queue="io", nth=3, action=action),))
    return target(faults=plan, transport=TcpTransport(), **digests)


async def prepare(io):
    assert (await io.write(0, DATA)).ok


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize(
    ("action", "opcode", "fes"),
    [
        (Flip(part=Part.HEADER_DIGEST, pdu=C2H), "read", HEADER_DIGEST),
        (Flip(part=Part.HEADER_DIGEST, pdu=RESPONSE), "read", HEADER_DIGEST),
        (Flip(part=Part.HEADER_DIGEST, pdu=R2T), "write", HEADER_DIGEST),
        (BadPlen(pdu=RESPONSE), "write", HEADER),
        (BadPlen(pdu=R2T, add=4), "write", HEADER),
        (BadPlen(pdu=C2H, add=1 << 30), "read", HEADER),
        (BadOffset(pdu=R2T), "write", SEQUENCE),
        (BadOffset(pdu=C2H, add=512), "read", OUT_OF_RANGE),
        (OverlappingData(bytes=512), "read", SEQUENCE),
        (BadLength(pdu=R2T), "write", OUT_OF_RANGE),
        (BadLength(pdu=C2H), "read", HEADER),
    ],
)
async def test_breaches(action, opcode, fes, digests):
    async with (
        faulty(action, header_digest=digests, data_digest=digests) as t,
        t.both() as (_, io),
    ):
        await prepare(io)
        if opcode == "write":
            io.send(rw(NvmOpcode.WRITE, 0, 128), write=DATA)
        else:
            io.send(rw(NvmOpcode.READ, 0, 128), read_bytes=65536)
        if not digests and isinstance(action, Flip):
            # There is no digest to flip.
            assert (await io.read(0, 128))[1] == DATA
            return
        await io.dead.wait()
        assert isinstance(io.error, RemoteProtocolError), io.error
        assert io.error.fes == fes, io.error


async def test_flipped_data_digest_fails_one_command():
    async with (
        faulty(Flip(part=Part.DATA_DIGEST), data_digest=True) as t,
        t.both() as (_, io),
    ):
        await prepare(io)
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 128), read_bytes=65536)
        assert (await io.answer(cid)).digest_error
        assert (await io.read(0, 128))[1] == DATA


@pytest.mark.parametrize("digest", [False, True])
async def test_flipped_data_is_seen_with_a_digest_alone(digest):
    async with faulty(Flip(part=Part.PAYLOAD), data_digest=digest) as t, t.both() as (_, io):
        await prepare(io)
        cid, data = io.send(rw(NvmOpcode.READ, 0, 128), read_bytes=65536)
        assert (await io.answer(cid)).digest_error == digest
        assert bytes(data) == b"\1" + DATA[1:]


@pytest.mark.parametrize("pdu", [RESPONSE, C2H, R2T])
@pytest.mark.parametrize("count", [0, 1, 8, 23])
async def test_close_inside_a_pdu(pdu, count):
    async with faulty(Truncate(pdu=pdu, bytes=count)) as t, t.both() as (_, io):
        await prepare(io)
        if pdu is C2H:
            io.send(rw(NvmOpcode.READ, 0, 128), read_bytes=65536)
        else:
            io.send(rw(NvmOpcode.WRITE, 0, 128), write=DATA)
        await io.dead.wait()
        assert isinstance(io.error, ConnectionLostError)
        assert ("between PDUs" if count == 0 else "inside a PDU") in str(io.error)


async def test_wrong_cid_of_a_response():
    async with faulty(WrongCid()) as t, t.both() as (_, io):
        await prepare(io)
        cid, _ = io.send(rw(NvmOpcode.WRITE, 0, 128), write=DATA)
        with trio.move_on_after(5):
            await io.dead.wait()
        assert isinstance(io.error, RemoteProtocolError)
        assert str(cid + 1000) in str(io.error)


async def test_short_data():
    async with faulty(ShortData(bytes=512), data_digest=True) as t, t.both() as (_, io):
        await prepare(io)
        cid, _ = io.send(rw(NvmOpcode.READ, 0, 128), read_bytes=65536)
        with trio.move_on_after(0.5):
            response = await io.answer(cid)
            assert response.data_bytes == 65024
            assert not response.digest_error
            return
        assert isinstance(io.error, RemoteProtocolError)


async def test_reset_is_a_reset():
    async with faulty(Reset()) as t, t.both() as (_, io):
        await prepare(io)
        io.send(rw(NvmOpcode.WRITE, 0, 128), write=DATA)
        await io.dead.wait()
        assert "reset" in str(io.error)


@pytest.mark.parametrize("blocks", [8, 128], ids=["in capsule", "by R2T"])
async def test_ghost(blocks):
    async with faulty(Ghost(seconds=0.2)) as t:
        async with t.both() as (admin, io):
            old = t.association(admin)
            await prepare(io)
            io.send(rw(NvmOpcode.WRITE, 0, blocks), write=b"\1" * blocks * 512)
            await io.dead.wait()
            await admin.dead.wait()
        async with t.both() as (_, io):
            assert not old.ended.is_set()
            assert (await io.write(0, b"\2" * 4096)).ok
            await old.ended.wait()
            assert (await io.read(0, 8))[1] == b"\1" * 4096


async def test_process_with_a_plan(start, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(examples()["reset"])
    process, (at,), _, _ = start(*ANY_PORT, "-v", "-n", SUBNQN, "--faults", str(plan), "ramdisk:1M")
    async with hosted(at) as (admin, io):
        assert (await io.write(0, DATA)).ok
        io.send(rw(NvmOpcode.WRITE, 128, 128), write=DATA)
        await io.dead.wait()
        await admin.dead.wait()
    async with hosted(at) as (_, io):
        assert (await io.read(128, 128))[1] == DATA
    process.terminate()
    _, log = process.communicate(timeout=15)
    assert process.returncode == 0
    assert log.count("Reset(do='reset'") == 1


def test_bad_plan_is_refused(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("[[rule]]\naction = { do = 'fly' }\n")
    done = subprocess.run(
        [*NVMFD, *ANY_PORT, "--faults", str(plan), "ramdisk:1M"],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("nvmfd: fault plan, rule[1].action.do fly: give one of delay,")
    assert done.stderr.count("\n") == 1
