"""What the common header of a received PDU must fulfil, in the order in which it is looked at.

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
    DDGSTF,
    DIGEST_BYTES,
    HDGSTF,
    HLEN,
    LAST_PDU,
    MAX_TERM_DATA_BYTES,
    SUCCESS,
    CommonHeader,
    FatalError,
    PduType,
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
    if pdu.known not in MAY_CARRY_DATA:
        return True
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
