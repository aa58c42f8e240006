"""What a received PDU must fulfil, in the order in which it is looked at.

Each table is a sequence of `Check`s; the first that does not hold ends the connection, with the
FES and FEI that stand beside it (NVMe/TCP Transport 1.1, section 3.6.2.3).  The functions are pure:
they see numbers only.  The connection decides the common case by a single comparison, and comes
here for the first PDU of a kind and whenever that comparison failed.
"""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import attrs

from nvmf_transport.errors import RemoteProtocolError

from .pdu import (
    DDGST_ENABLE,
    DDGSTF,
    DIGEST_BYTES,
    HDGST_ENABLE,
    HDGSTF,
    HLEN,
    LAST_PDU,
    MAX_PDA,
    MAX_TERM_DATA_BYTES,
    MIN_MAXH2CDATA_BYTES,
    PFV,
    SUCCESS,
    CapsuleRespHeader,
    CommonHeader,
    DataHeader,
    FatalError,
    IcReq,
    IcResp,
    PduType,
    R2THeader,
    TermReq,
)

SubjectT = TypeVar("SubjectT")

TERM_TYPES: Final = frozenset({PduType.H2C_TERM_REQ, PduType.C2H_TERM_REQ})
IC_TYPES: Final = frozenset({PduType.IC_REQ, PduType.IC_RESP})
#: PDUs that must carry data, and those that may.
DATA_TYPES: Final = frozenset({PduType.H2C_DATA, PduType.C2H_DATA})
MAY_CARRY_DATA: Final = DATA_TYPES | {PduType.CAPSULE_CMD}

_LEGAL_FLAGS: Final = {
    PduType.IC_REQ: 0,
    PduType.IC_RESP: 0,
    PduType.H2C_TERM_REQ: 0,
    PduType.C2H_TERM_REQ: 0,
    PduType.CAPSULE_CMD: HDGSTF | DDGSTF,
    PduType.CAPSULE_RESP: HDGSTF,
    PduType.H2C_DATA: HDGSTF | DDGSTF | LAST_PDU,
    PduType.C2H_DATA: HDGSTF | DDGSTF | LAST_PDU | SUCCESS,
    PduType.R2T: HDGSTF,
}

_TYPE = CommonHeader.offset_of("pdu_type")
_FLAGS = CommonHeader.offset_of("flags")
_HLEN = CommonHeader.offset_of("hlen")
_PDO = CommonHeader.offset_of("pdo")
_PLEN = CommonHeader.offset_of("plen")
_INVALID = FatalError.INVALID_HEADER_FIELD


@attrs.frozen
class Check(Generic[SubjectT]):
    """One requirement: what it is about, what a breach means on the wire, and its test."""

    #: The field that the message names, and the attribute of the subject that it quotes.
    field: str
    requirement: str
    fes: int
    fei: int
    holds: Callable[[SubjectT], bool]


def first_breach(
    name: str, checks: Sequence[Check[SubjectT]], subject: SubjectT
) -> RemoteProtocolError | None:
    """The error for the first of `checks` that does not hold for `subject`, None if all do."""
    for check in checks:
        if not check.holds(subject):
            value = getattr(subject, check.field)
            return RemoteProtocolError(
                f"{name}: {check.field.upper()} {value}: {check.requirement}",
                fes=check.fes,
                fei=check.fei,
            )
    return None


@attrs.frozen(kw_only=True)
class Expectation:
    """Which PDUs are legal for a receiver: its role, its phase, and what was agreed."""

    types: frozenset[PduType]
    header_digest: bool = False
    data_digest: bool = False
    #: What the receiver asked for: PDO of PDUs with data is a multiple of it.
    alignment_bytes: int = 4
    #: The most data in one PDU, by type.
    max_data_bytes: dict[PduType, int] = attrs.field(factory=dict)


@attrs.frozen
class ReceivedHeader:
    """A common header and what it is held against."""

    type: int
    flags: int
    hlen: int
    pdo: int
    plen: int
    expected: Expectation

    @property
    def known(self) -> PduType:
        """The type, once the first check has found it legal."""
        return PduType(self.type)

    @property
    def head_bytes(self) -> int:
        """Length of the header and its digest."""
        return self.hlen + (DIGEST_BYTES if self.flags & HDGSTF else 0)

    @property
    def data_start(self) -> int:
        """Where the data begins, or would."""
        return self.pdo or self.head_bytes

    @property
    def carries_data(self) -> bool:
        """Something follows the header."""
        return self.plen > self.data_start


def _header_digest_as_agreed(pdu: ReceivedHeader) -> bool:
    if HDGSTF & ~_LEGAL_FLAGS[pdu.known]:
        return True
    return bool(pdu.flags & HDGSTF) == pdu.expected.header_digest


def _data_digest_as_agreed(pdu: ReceivedHeader) -> bool:
    if pdu.known not in MAY_CARRY_DATA:
        return True
    if pdu.known is PduType.CAPSULE_CMD and not pdu.carries_data:
        return not pdu.flags & DDGSTF
    return bool(pdu.flags & DDGSTF) == pdu.expected.data_digest


def _pdo_holds(pdu: ReceivedHeader) -> bool:
    if pdu.pdo == 0:
        return not pdu.carries_data
    return pdu.head_bytes <= pdu.pdo <= pdu.plen and pdu.pdo % pdu.expected.alignment_bytes == 0


def _has_no_excess(pdu: ReceivedHeader) -> bool:
    if pdu.known in MAY_CARRY_DATA:
        return True
    if pdu.known in TERM_TYPES:
        return pdu.plen <= pdu.hlen + MAX_TERM_DATA_BYTES
    return pdu.plen == pdu.head_bytes


def _data_follows(pdu: ReceivedHeader) -> bool:
    if pdu.known not in DATA_TYPES and not pdu.flags & DDGSTF:
        return True
    return pdu.plen > pdu.data_start + (DIGEST_BYTES if pdu.flags & DDGSTF else 0)


def _data_is_bounded(pdu: ReceivedHeader) -> bool:
    if pdu.known not in MAY_CARRY_DATA:
        return True
    digest_bytes = DIGEST_BYTES if pdu.flags & DDGSTF else 0
    limit = pdu.expected.max_data_bytes[pdu.known]
    return pdu.plen - pdu.data_start - digest_bytes <= limit


HEADER_CHECKS: Final[tuple[Check[ReceivedHeader], ...]] = (
    Check(
        "type",
        "no PDU that may come here",
        _INVALID,
        _TYPE,
        lambda pdu: pdu.type in pdu.expected.types,
    ),
    Check(
        "flags",
        "a bit that is reserved for this PDU",
        _INVALID,
        _FLAGS,
        lambda pdu: not pdu.flags & ~_LEGAL_FLAGS[pdu.known],
    ),
    Check("flags", "HDGSTF is not as agreed", _INVALID, _FLAGS, _header_digest_as_agreed),
    Check("flags", "DDGSTF is not as agreed", _INVALID, _FLAGS, _data_digest_as_agreed),
    Check(
        "flags",
        "SUCCESS without LAST_PDU",
        _INVALID,
        _FLAGS,
        lambda pdu: not pdu.flags & SUCCESS or bool(pdu.flags & LAST_PDU),
    ),
    Check(
        "hlen",
        "not the length of this PDU's header",
        _INVALID,
        _HLEN,
        lambda pdu: pdu.hlen == HLEN[pdu.known],
    ),
    Check(
        "pdo",
        "reserved for this PDU",
        _INVALID,
        _PDO,
        lambda pdu: pdu.known in MAY_CARRY_DATA or pdu.pdo == 0,
    ),
    Check("pdo", "not where data may start", _INVALID, _PDO, _pdo_holds),
    Check(
        "plen",
        "shorter than the header",
        _INVALID,
        _PLEN,
        lambda pdu: pdu.plen >= pdu.head_bytes,
    ),
    Check("plen", "longer than this PDU can be", _INVALID, _PLEN, _has_no_excess),
    Check("plen", "no data follows the header", _INVALID, _PLEN, _data_follows),
    Check("plen", "more data than the receiver takes", _INVALID, _PLEN, _data_is_bounded),
)


@attrs.frozen
class ReceivedIc:
    """ICReq or ICResp, as its receiver judges it."""

    pfv: int
    pda: int
    dgst: int
    #: MAXH2CDATA of ICResp; a legal value for ICReq, which has none.
    maxh2cdata: int = MIN_MAXH2CDATA_BYTES
    #: The digests that the receiver asked for; all of them where it is the controller.
    offered_dgst: int = HDGST_ENABLE | DDGST_ENABLE


IC_CHECKS: Final[tuple[Check[ReceivedIc], ...]] = (
    Check(
        "pfv",
        "no known PDU Format Version",
        FatalError.UNSUPPORTED_PARAMETER,
        IcReq.offset_of("pfv"),
        lambda ic: ic.pfv == PFV,
    ),
    Check(
        "pda",
        f"more than {MAX_PDA}",
        _INVALID,
        IcReq.offset_of("hpda"),
        lambda ic: ic.pda <= MAX_PDA,
    ),
    Check(
        "dgst",
        "a reserved bit is set",
        _INVALID,
        IcReq.offset_of("dgst"),
        lambda ic: not ic.dgst & ~(HDGST_ENABLE | DDGST_ENABLE),
    ),
    Check(
        "dgst",
        "a digest is enabled that the host did not ask for",
        FatalError.UNSUPPORTED_PARAMETER,
        IcResp.offset_of("dgst"),
        lambda ic: not ic.dgst & ~ic.offered_dgst,
    ),
    Check(
        "maxh2cdata",
        f"below {MIN_MAXH2CDATA_BYTES} or no multiple of 4",
        _INVALID,
        IcResp.offset_of("maxh2cdata"),
        lambda ic: ic.maxh2cdata >= MIN_MAXH2CDATA_BYTES and ic.maxh2cdata % 4 == 0,
    ),
)


@attrs.frozen
class ReceivedData:
    """The specific header of C2HData or H2CData, and what may come next for its command."""

    cccid: int
    ttag: int
    datao: int
    datal: int
    last: bool
    #: Length of the data that the PDU really carries.
    payload_bytes: int
    #: A command with this CCCID, or an R2T with this TTAG, waits for data.
    known: bool
    #: H2CData: the CCCID is that of the command the R2T was sent for.
    cccid_fits: bool = True
    #: What comes next, and where the data ends that was asked for.
    expected_datao: int = 0
    end: int = 0
    max_datal: int = 0xFFFFFFFF


_DATA_ORDER: Final[tuple[Check[ReceivedData], ...]] = (
    Check(
        "datal",
        "not the length of the data in the PDU",
        _INVALID,
        DataHeader.offset_of("datal"),
        lambda data: data.datal == data.payload_bytes,
    ),
    Check(
        "datal",
        "reaches past the end of the data that was asked for",
        FatalError.DATA_OUT_OF_RANGE,
        0,
        lambda data: data.datao + data.datal <= data.end,
    ),
    Check(
        "datao",
        "not where the data before it ended",
        FatalError.PDU_SEQUENCE,
        0,
        lambda data: data.datao == data.expected_datao,
    ),
    Check(
        "last",
        "LAST_PDU must be set on the PDU that completes the data, and on no other",
        FatalError.PDU_SEQUENCE,
        0,
        lambda data: data.last == (data.datao + data.datal == data.end),
    ),
)

C2H_DATA_CHECKS: Final[tuple[Check[ReceivedData], ...]] = (
    Check(
        "cccid",
        "no outstanding command with this CID reads data",
        _INVALID,
        DataHeader.offset_of("cccid"),
        lambda data: data.known,
    ),
    *_DATA_ORDER,
)

H2C_DATA_CHECKS: Final[tuple[Check[ReceivedData], ...]] = (
    Check(
        "datal",
        "more than MAXH2CDATA",
        FatalError.LIMIT_EXCEEDED,
        0,
        lambda data: data.datal <= data.max_datal,
    ),
    Check(
        "ttag",
        "no outstanding R2T has this tag",
        _INVALID,
        DataHeader.offset_of("ttag"),
        lambda data: data.known,
    ),
    Check(
        "cccid",
        "not the command that the R2T was sent for",
        _INVALID,
        DataHeader.offset_of("cccid"),
        lambda data: data.cccid_fits,
    ),
    *_DATA_ORDER,
)


@attrs.frozen
class ReceivedR2T:
    """An R2T, and what its command still has to send."""

    cccid: int
    r2to: int
    r2tl: int
    #: A command with this CCCID has data to send that is not in its capsule.
    known: bool
    expected_r2to: int = 0
    data_bytes: int = 0
    outstanding_r2ts: int = 0
    max_r2ts: int = 1


R2T_CHECKS: Final[tuple[Check[ReceivedR2T], ...]] = (
    Check(
        "cccid",
        "no outstanding command with this CID has data to send",
        _INVALID,
        R2THeader.offset_of("cccid"),
        lambda r2t: r2t.known,
    ),
    Check(
        "r2tl",
        "asks for nothing",
        _INVALID,
        R2THeader.offset_of("r2tl"),
        lambda r2t: r2t.r2tl > 0,
    ),
    Check(
        "r2to",
        "not where the R2T before it ended",
        FatalError.PDU_SEQUENCE,
        0,
        lambda r2t: r2t.r2to == r2t.expected_r2to,
    ),
    Check(
        "r2tl",
        "reaches past the end of the command's data",
        FatalError.DATA_OUT_OF_RANGE,
        0,
        lambda r2t: r2t.r2to + r2t.r2tl <= r2t.data_bytes,
    ),
    Check(
        "outstanding_r2ts",
        "the host allowed no more R2Ts at a time",
        FatalError.LIMIT_EXCEEDED,
        0,
        lambda r2t: r2t.outstanding_r2ts < r2t.max_r2ts,
    ),
)


def response_breach(cid: int) -> RemoteProtocolError:
    """A CapsuleResp for a command that is not outstanding."""
    return RemoteProtocolError(
        f"CapsuleResp: CID {cid}: no outstanding command has this CID",
        fes=_INVALID,
        fei=CapsuleRespHeader.offset_of("cid"),
    )


def command_breach(cid: int) -> RemoteProtocolError:
    """A CapsuleCmd whose CID is that of a command still outstanding.

    The base specification's answer, Command ID Conflict, would leave the host unable to tell whose
    response it is, and the data of the two could not be told apart.
    """
    return RemoteProtocolError(
        f"CapsuleCmd: CID {cid}: a command with this CID is still outstanding",
        fes=_INVALID,
        fei=CommonHeader.SIZE + 2,
    )


def queue_full_breach(entries: int) -> RemoteProtocolError:
    """More commands at a time than the submission queue has entries."""
    return RemoteProtocolError(
        f"CapsuleCmd: more commands outstanding than the {entries} entries of the queue",
        fes=FatalError.LIMIT_EXCEEDED,
    )


def header_digest_breach(name: str, received: int, computed: int) -> RemoteProtocolError:
    """A header digest that does not match; FEI is the digest as received."""
    return RemoteProtocolError(
        f"{name}: header digest {received:08x}h does not match {computed:08x}h",
        fes=FatalError.HEADER_DIGEST,
        fei=received,
    )


def term_req_breach(plen: int) -> RemoteProtocolError:
    """A TermReq of impossible length: it is not answered, as no TermReq is."""
    low, high = TermReq.SIZE, TermReq.SIZE + MAX_TERM_DATA_BYTES
    return RemoteProtocolError(
        f"TermReq: PLEN {plen}: not between {low} and {high}; the peer ended the connection"
    )
