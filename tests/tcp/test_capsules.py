"""Commands as the controller takes them from their capsules."""

import random
import struct

import attrs
import pytest

from nvmf_tcp.pdu import (
    CAPSULE_CMD_HEAD,
    CAPSULE_CMD_SQE,
    DDGSTF,
    SGL,
    SGL_OFFSET,
    CommonHeader,
    PduType,
)
from nvmf_tcp.sgl import judged_command
from nvmf_transport.errors import RemoteProtocolError
from nvmf_transport.interfaces import ControllerQueueParams
from nvmf_transport.nvme import SubmissionEntry
from nvmf_transport.status import DATA_SGL_LENGTH_INVALID
from tests.tcp.pair import established_controller, feed, pdu

IN_CAPSULE_BYTES = 8192
#: More than a command may have on this queue, and less than a PDU may have on any.
TOO_LONG = 16384
PARAMS = ControllerQueueParams(in_capsule_bytes=65536, max_transfer_bytes=65536)


def pattern(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def sqe(opcode: int, sgl_id: int, length: int, address: int = 0, flags: int = 0x40) -> bytes:
    entry = bytearray(SubmissionEntry(opc=opcode, flags=flags, cid=7).pack())
    SGL.pack_into(entry, SGL_OFFSET, address, length, sgl_id << 24)
    return bytes(entry)


def taken(entry: bytes, data: bytes, *, flags: int = 0, spoil: bool = False):
    controller = established_controller(params=PARAMS, data_digest=bool(flags & DDGSTF))
    whole = bytearray(pdu(PduType.CAPSULE_CMD, entry, data, flags=flags))
    if spoil:
        whole[-1] ^= 1
    (command,) = feed(controller, bytes(whole))
    return controller, command


def test_heads_of_capsules_are_where_the_structures_have_them():
    entry = sqe(0x81, 0x5A, 0x11223344, 0x5566778899AABBCC, 0x41)
    capsule = bytes(CommonHeader.SIZE) + entry

    assert CAPSULE_CMD_SQE.unpack(capsule) == (entry,)
    head = CAPSULE_CMD_HEAD.unpack_from(capsule)
    assert head == (0x81, 0x41, 7, 0x5566778899AABBCC, 0x11223344, 0x5A << 24)


@pytest.mark.parametrize("seed", range(4))
def test_commands_told_at_a_glance_are_what_the_rules_say(seed):
    rng = random.Random(seed)
    faults = set()
    for _ in range(400):
        payload = rng.choice((0, 0, 512, 4096, IN_CAPSULE_BYTES, TOO_LONG))
        entry = sqe(
            rng.choice((1, 1, 2, 2, 0, 5, 0x7F, 0xC1)),
            rng.choice((0x5A, 0x5A, 0x01, 0x01, 0x00)),
            rng.choice((payload, payload, 0, 512, 65536, 65537)),
            rng.choice((0, 0, 0, 512, 1 << 40)),
            rng.choice((0x40, 0x40, 0x40, 0x00, 0x80)),
        )
        digest = rng.random() < 0.3 and payload > 0
        spoil = digest and rng.random() < 0.5
        data = pattern(payload)
        _, command = taken(entry, data, flags=DDGSTF if digest else 0, spoil=spoil)
        expected = judged_command(
            entry,
            None if payload in {0, TOO_LONG} else bytearray(data),
            payload,
            # What is dropped as it comes has no digest to compare.
            digest_ok=not spoil or payload == TOO_LONG,
            in_capsule_bytes=IN_CAPSULE_BYTES,
            max_transfer_bytes=PARAMS.max_transfer_bytes,
        )

        assert attrs.asdict(command) == attrs.asdict(expected)
        faults.add(command.fault)
    assert None in faults
    assert len(faults) > 3


def test_capsule_with_more_than_its_queue_takes_gets_no_memory():
    entry = sqe(1, 0x01, 4096)
    controller = established_controller(params=PARAMS)
    capsule = pdu(PduType.CAPSULE_CMD, entry, bytes(TOO_LONG))
    assert feed(controller, capsule[: 72 + 1000]) == []
    assert controller._capsule_data is None
    (command,) = feed(controller, capsule[72 + 1000 :])
    assert command.fault == DATA_SGL_LENGTH_INVALID.with_dnr()
    assert command.in_capsule_data is None


def test_what_is_kept_of_a_capsule_is_what_its_length_says():
    data = pattern(IN_CAPSULE_BYTES)
    _, command = taken(sqe(1, 0x01, 512, 1024), data)
    assert command.in_capsule_data == data[1024:1536]
    assert not isinstance(command.in_capsule_data, memoryview)
    _, command = taken(sqe(1, 0x01, 0), data)
    assert command.in_capsule_data == b""


def test_pdu_beyond_every_queue_ends_the_connection():
    controller = established_controller(params=PARAMS)
    head = struct.pack("<BBBBI", PduType.CAPSULE_CMD, 0, 72, 72, 72 + 65537)
    with pytest.raises(RemoteProtocolError, match="more data than the receiver takes"):
        feed(controller, head + sqe(1, 0x01, 65537))
