"""What the specific header of each PDU must fulfil; see `validate` for how the tables work."""

from typing import Final

import attrs

from nvmf_transport.errors import RemoteProtocolError

from .pdu import (
    DDGST_ENABLE,
    HDGST_ENABLE,
    MAX_PDA,
    MAX_TERM_DATA_BYTES,
    MIN_MAXH2CDATA_BYTES,
    PFV,
    CapsuleRespHeader,
    CommonHeader,
    DataHeader,
    FatalError,
    IcReq,
    IcResp,
    R2THeader,
    TermReq,
)
from .validate import Check

_INVALID = FatalError.INVALID_HEADER_FIELD


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
    """A completion for a command that is not outstanding, or has not left yet."""
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
