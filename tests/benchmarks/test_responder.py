"""The responder that the host is judged with: right answers, whole, at any cutting."""

import socket
import struct
import threading

import pytest

from benchmarks.responder import PATTERN, IoQueue
from nvmf_host.io_path import io_sqe, rw_cdw12
from nvmf_tcp.pdu import LAST_PDU, SUCCESS, CapsuleRespHeader, DataHeader, PduType, R2THeader
from nvmf_transport.nvme import NvmOpcode


@pytest.fixture
def host():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        thread = threading.Thread(target=IoQueue(theirs).run)
        thread.start()
        yield ours
        ours.shutdown(socket.SHUT_WR)
        thread.join(5)
        assert not thread.is_alive()


def capsule(opcode, cid, length, *, data=b""):
    sqe = io_sqe(opcode, 1, 0, rw_cdw12(max(1, length // 512)))
    struct.pack_into("<H", sqe, 2, cid)
    struct.pack_into("<I", sqe, 32, length)
    pdo = 72 if data else 0
    return struct.pack("<BBBBI", PduType.CAPSULE_CMD, 0, 72, pdo, 72 + len(data)) + sqe + data


def h2c_data(cid, data, *, last):
    flags = LAST_PDU if last else 0
    header = DataHeader(
        pdu_type=PduType.H2C_DATA,
        flags=flags,
        hlen=24,
        pdo=24,
        plen=24 + len(data),
        cccid=cid,
        ttag=cid,
        datal=len(data),
    )
    return header.pack() + data


def take_bytes(host, length):
    data = bytearray()
    while len(data) < length:
        got = host.recv(length - len(data))
        assert got, "closed"
        data += got
    return data


def take(host, kind):
    return kind.unpack(take_bytes(host, kind.SIZE))


def test_reads_give_the_pattern_in_the_order_of_commands(host):
    host.sendall(capsule(NvmOpcode.READ, 7, 4096) + capsule(NvmOpcode.READ, 500, 1 << 20))
    for cid, length in ((7, 4096), (500, 1 << 20)):
        header = take(host, DataHeader)

        assert (header.cccid, header.datal, header.plen) == (cid, length, 24 + length)
        assert header.flags == LAST_PDU | SUCCESS
        assert take_bytes(host, length) == PATTERN[:length]


def test_write_in_the_capsule_is_answered_whole(host):
    host.sendall(capsule(NvmOpcode.WRITE, 3, 4096, data=bytes(4096)))

    response = take(host, CapsuleRespHeader)

    assert (response.pdu_type, response.cid, response.status_field) == (PduType.CAPSULE_RESP, 3, 0)


def test_capsule_that_is_longer_than_the_buffer_is_answered_after_its_last_byte(host):
    long = capsule(NvmOpcode.WRITE, 4, 1 << 20, data=bytes(1 << 20))
    host.sendall(long[:-1])
    host.settimeout(0.05)
    with pytest.raises(TimeoutError):
        host.recv(1)
    host.settimeout(5)
    host.sendall(long[-1:] + long + capsule(NvmOpcode.FLUSH, 10, 0))

    assert [take(host, CapsuleRespHeader).cid for _ in range(3)] == [4, 4, 10]


def test_long_write_is_asked_for_and_answered_after_its_last_byte(host):
    host.sendall(capsule(NvmOpcode.WRITE, 9, 1 << 20))
    asked = take(host, R2THeader)

    assert (asked.pdu_type, asked.cccid, asked.r2to, asked.r2tl) == (PduType.R2T, 9, 0, 1 << 20)

    half = bytes(1 << 19)
    host.sendall(h2c_data(9, half, last=False) + h2c_data(9, half, last=True)[:-1])
    host.settimeout(0.05)
    with pytest.raises(TimeoutError):
        host.recv(1)
    host.settimeout(5)
    host.sendall(b"\0" + capsule(NvmOpcode.FLUSH, 10, 0))

    assert [take(host, CapsuleRespHeader).cid for _ in range(2)] == [9, 10]


def test_commands_may_come_byte_by_byte(host):
    for byte in capsule(NvmOpcode.READ, 1, 4096):
        host.sendall(bytes([byte]))

    assert take(host, DataHeader).cccid == 1
    assert take_bytes(host, 4096) == PATTERN[:4096]
