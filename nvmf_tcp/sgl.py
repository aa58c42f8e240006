"""SGL descriptors as NVMe/TCP allows them (Base 2.1, section 4.3.2; TCP Transport 1.1, 3.3.2.1)."""

from typing import Final

from nvmf_transport.capsule import ReceivedCommand
from nvmf_transport.fabrics import FabricsCommand
from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES
from nvmf_transport.nvme import AdminOpcode, SglId
from nvmf_transport.status import (
    DATA_SGL_LENGTH_INVALID,
    INVALID_FIELD,
    SGL_OFFSET_INVALID,
    SGL_TYPE_INVALID,
    TRANSIENT_TRANSPORT_ERROR,
    Status,
)

from .pdu import SGL, SGL_OFFSET, SQE_CID, SQE_CID_OFFSET

FLAGS_PSDT: Final = 0xC0
PSDT_SGL: Final = 0x40
_FCTYPE_OFFSET: Final = FabricsCommand.offset_of("fctype")


def uses_sgl(sqe: bytes) -> bool:
    """PSDT is 01b, the only value that is legal over fabrics."""
    return sqe[1] & FLAGS_PSDT == PSDT_SGL


def writes(sqe: bytes) -> bool:
    """A command moves data to the controller: bit 0 of its opcode, or of its Fabrics type."""
    opcode = sqe[0]
    if opcode == AdminOpcode.FABRICS:
        opcode = sqe[_FCTYPE_OFFSET]
    return bool(opcode & 1)


def sgl_fault(sqe: bytes, data_bytes: int, in_capsule_bytes: int) -> Status | None:
    """What is wrong with the SGL of a command that came with so much data in its capsule.

    A length that is merely too long for the controller is the one fault of a transport SGL
    without data in the capsule; `INVALID_FIELD` is what MDTS asks for then.
    """
    address, length, word = SGL.unpack_from(sqe, SGL_OFFSET)
    if not uses_sgl(sqe):
        return INVALID_FIELD.with_dnr()
    match word >> 24:
        case SglId.TRANSPORT_DATA_BLOCK:
            return (SGL_TYPE_INVALID if data_bytes else INVALID_FIELD).with_dnr()
        case SglId.DATA_BLOCK_OFFSET:
            if length and not writes(sqe):
                return SGL_TYPE_INVALID.with_dnr()
            if length > in_capsule_bytes and (
                sqe[0] != AdminOpcode.FABRICS or length > ADMIN_IN_CAPSULE_BYTES
            ):
                return DATA_SGL_LENGTH_INVALID.with_dnr()
            if address > data_bytes:
                return SGL_OFFSET_INVALID.with_dnr()
            if address + length > data_bytes:
                return DATA_SGL_LENGTH_INVALID.with_dnr()
            return None
        case _:
            return SGL_TYPE_INVALID.with_dnr()


def judged_command(
    sqe: bytes,
    data: bytearray | None,
    payload_bytes: int,
    *,
    digest_ok: bool,
    in_capsule_bytes: int,
    max_transfer_bytes: int,
) -> ReceivedCommand:
    """The command of a capsule with so much data, which is None where there is none or too much."""
    (cid,) = SQE_CID.unpack_from(sqe, SQE_CID_OFFSET)
    address, length, word = SGL.unpack_from(sqe, SGL_OFFSET)
    if (
        not payload_bytes
        and word >> 24 == SglId.TRANSPORT_DATA_BLOCK
        and uses_sgl(sqe)
        and length <= max_transfer_bytes
        and not address
    ):
        return ReceivedCommand(sqe, cid, length)
    fault = sgl_fault(sqe, payload_bytes, in_capsule_bytes)
    if fault is None and not digest_ok:
        fault = TRANSIENT_TRANSPORT_ERROR
    if fault is None and payload_bytes and data is None:
        fault = DATA_SGL_LENGTH_INVALID.with_dnr()
    if fault is not None:
        return ReceivedCommand(sqe, cid, fault=fault)
    if data is None:
        return ReceivedCommand(sqe, cid)
    # A copy, so that what is kept of a capsule is what its length says.
    wanted = data if length == payload_bytes else data[address : address + length]
    return ReceivedCommand(sqe, cid, length, wanted)
