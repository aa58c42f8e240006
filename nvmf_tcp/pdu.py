"""PDU headers (NVMe/TCP Transport 1.1, section 3.6.2), declared once, and their compiled forms.

The structures are the declaration; the `struct.Struct`s below are the same bytes for the hot paths,
and a test holds the two equal.
"""

import enum
import struct
from typing import ClassVar, Final

import attrs

from nvmf_transport.wire import WireStruct, u8, u16, u32


class PduType(enum.IntEnum):
    """PDU-Type, byte 0 of every PDU; odd-numbered ones come from the controller, as R2T does."""

    IC_REQ = 0x00
    IC_RESP = 0x01
    H2C_TERM_REQ = 0x02
    C2H_TERM_REQ = 0x03
    CAPSULE_CMD = 0x04
    CAPSULE_RESP = 0x05
    H2C_DATA = 0x06
    C2H_DATA = 0x07
    R2T = 0x09

    @property
    def label(self) -> str:
        """The name as the specification writes it."""
        return _LABELS[self]


_LABELS: Final = {
    PduType.IC_REQ: "ICReq",
    PduType.IC_RESP: "ICResp",
    PduType.H2C_TERM_REQ: "H2CTermReq",
    PduType.C2H_TERM_REQ: "C2HTermReq",
    PduType.CAPSULE_CMD: "CapsuleCmd",
    PduType.CAPSULE_RESP: "CapsuleResp",
    PduType.H2C_DATA: "H2CData",
    PduType.C2H_DATA: "C2HData",
    PduType.R2T: "R2T",
}

#: Bits of FLAGS.
HDGSTF: Final = 0x01
DDGSTF: Final = 0x02
LAST_PDU: Final = 0x04
SUCCESS: Final = 0x08

#: Bits of DGST in ICReq and ICResp.
HDGST_ENABLE: Final = 0x01
DDGST_ENABLE: Final = 0x02

#: The only PDU Format Version there is.
PFV: Final = 0
DIGEST_BYTES: Final = 4
#: HPDA and CPDA are 0's based counts of dwords, at most 31: 128 bytes.
MAX_PDA: Final = 31
MIN_MAXH2CDATA_BYTES: Final = 4096
#: How much of an offending PDU a TermReq may carry.
MAX_TERM_DATA_BYTES: Final = 128


class FatalError(enum.IntEnum):
    """FES of a TermReq (section 3.6.2.3)."""

    INVALID_HEADER_FIELD = 0x01
    PDU_SEQUENCE = 0x02
    HEADER_DIGEST = 0x03
    DATA_OUT_OF_RANGE = 0x04
    LIMIT_EXCEEDED = 0x05
    UNSUPPORTED_PARAMETER = 0x06


@attrs.frozen
class CommonHeader(WireStruct):
    """CH: the first 8 bytes of every PDU."""

    SIZE: ClassVar[int] = 8

    pdu_type: int = u8(0)
    flags: int = u8(1)
    hlen: int = u8(2)
    pdo: int = u8(3)
    plen: int = u32(4)


@attrs.frozen
class IcReq(CommonHeader):
    """ICReq, host to controller: 128 bytes."""

    SIZE: ClassVar[int] = 128

    pfv: int = u16(8)
    hpda: int = u8(10)
    dgst: int = u8(11)
    #: 0's based.
    maxr2t: int = u32(12)


@attrs.frozen
class IcResp(CommonHeader):
    """ICResp, controller to host: 128 bytes."""

    SIZE: ClassVar[int] = 128

    pfv: int = u16(8)
    cpda: int = u8(10)
    dgst: int = u8(11)
    maxh2cdata: int = u32(12)


@attrs.frozen
class TermReq(CommonHeader):
    """H2CTermReq and C2HTermReq: 24 bytes, then up to 128 of the offending PDU."""

    SIZE: ClassVar[int] = 24

    fes: int = u16(8)
    fei: int = u32(10)


@attrs.frozen
class DataHeader(CommonHeader):
    """H2CData and C2HData (TTAG reserved there): 24 bytes."""

    SIZE: ClassVar[int] = 24

    cccid: int = u16(8)
    ttag: int = u16(10)
    datao: int = u32(12)
    datal: int = u32(16)


@attrs.frozen
class R2THeader(CommonHeader):
    """R2T: 24 bytes."""

    SIZE: ClassVar[int] = 24

    cccid: int = u16(8)
    ttag: int = u16(10)
    r2to: int = u32(12)
    r2tl: int = u32(16)


@attrs.frozen
class CapsuleRespHeader(CommonHeader):
    """CapsuleResp: the CQE, 24 bytes in all."""

    SIZE: ClassVar[int] = 24

    result: int = u32(8)
    result_high: int = u32(12)
    sqhd: int = u16(16)
    sqid: int = u16(18)
    cid: int = u16(20)
    status_field: int = u16(22)


SQE_BYTES: Final = 64
CAPSULE_CMD_BYTES: Final = CommonHeader.SIZE + SQE_BYTES

HLEN: Final = {
    PduType.IC_REQ: IcReq.SIZE,
    PduType.IC_RESP: IcResp.SIZE,
    PduType.H2C_TERM_REQ: TermReq.SIZE,
    PduType.C2H_TERM_REQ: TermReq.SIZE,
    PduType.CAPSULE_CMD: CAPSULE_CMD_BYTES,
    PduType.CAPSULE_RESP: CapsuleRespHeader.SIZE,
    PduType.H2C_DATA: DataHeader.SIZE,
    PduType.C2H_DATA: DataHeader.SIZE,
    PduType.R2T: R2THeader.SIZE,
}

#: CH as two words: type, FLAGS, HLEN, PDO from the lowest byte up (`first_word`); PLEN.
COMMON: Final = struct.Struct("<II")
#: H2CData, C2HData and R2T whole: first word, PLEN, CCCID, TTAG, DATAO or R2TO, DATAL or R2TL.
DATA: Final = struct.Struct("<IIHHII4x")
#: The same without CH.
DATA_SPECIFIC: Final = struct.Struct("<HHII")
#: CapsuleResp whole: first word, PLEN, result, SQHD, SQID, CID, status field.
CAPSULE_RESP: Final = struct.Struct("<IIQHHHH")
#: The CQE alone: result, SQHD, SQID, CID, status field.
COMPLETION: Final = struct.Struct("<QHHHH")
#: CID, opcode and SGL descriptor of an SQE, by offset.
SQE_CID: Final = struct.Struct("<H")
SQE_CID_OFFSET: Final = 2
#: CapsuleCmd from its start: opcode, flags, CID, and the SGL descriptor as `SGL` has it.
CAPSULE_CMD_HEAD: Final = struct.Struct("<8xBBH20xQII")
CAPSULE_CMD_SQE: Final = struct.Struct("<8x64s")
#: Address, length, and a word with the SGL identifier in its highest byte.
SGL: Final = struct.Struct("<QII")
SGL_OFFSET: Final = 24
DIGEST: Final = struct.Struct("<I")


def first_word(pdu_type: int, flags: int, hlen: int, pdo: int) -> int:
    """The first four bytes of a PDU, as `COMMON` has them."""
    return pdu_type | flags << 8 | hlen << 16 | pdo << 24


def align_up(offset: int, alignment: int) -> int:
    """The lowest multiple of `alignment` that is not below `offset`."""
    return -(-offset // alignment) * alignment


def fatal_error_text(fes: int, fei: int) -> str:
    """FES and FEI in words."""
    match fes:
        case FatalError.INVALID_HEADER_FIELD:
            return f"Invalid PDU Header Field, at byte {fei}"
        case FatalError.PDU_SEQUENCE:
            return "PDU Sequence Error"
        case FatalError.HEADER_DIGEST:
            return f"Header Digest Error, received digest {fei:08x}h"
        case FatalError.DATA_OUT_OF_RANGE:
            return "Data Transfer Out of Range"
        case FatalError.LIMIT_EXCEEDED:
            return "Data Transfer or R2T Limit Exceeded"
        case FatalError.UNSUPPORTED_PARAMETER:
            return f"Unsupported Parameter, at byte {fei}"
        case _:
            return f"Fatal Error Status {fes:02x}h, information {fei:08x}h"
