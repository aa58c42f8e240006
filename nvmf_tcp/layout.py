"""What is known of a kind of PDU before its bytes are looked at, and the values that decide it."""

from typing import Final

import attrs
from attrs.validators import ge, le, optional

from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES, ControllerQueueParams

from .digest import digest_bytes
from .pdu import (
    DDGSTF,
    DIGEST_BYTES,
    HDGSTF,
    LAST_PDU,
    MAX_PDA,
    MAX_TERM_DATA_BYTES,
    SUCCESS,
    CapsuleRespHeader,
    DataHeader,
    PduType,
    R2THeader,
    align_up,
    first_word,
)
from .validate import DATA_TYPES, MAY_CARRY_DATA, TERM_TYPES, Expectation, ReceivedHeader

_FROM_HOST: Final = frozenset({PduType.H2C_TERM_REQ, PduType.CAPSULE_CMD, PduType.H2C_DATA})


@attrs.frozen
class TcpOptions:
    """What a side asks of the other beyond the parameters that all transports share."""

    #: HPDA or CPDA: alignment of data in PDUs sent to us, 0's based dwords.
    pda: int = attrs.field(default=0, validator=[ge(0), le(MAX_PDA)])
    #: Host: R2Ts that a command may have outstanding, 0's based; controller: that it makes use of.
    maxr2t: int = attrs.field(default=3, validator=ge(0))
    #: Controller: the most that one R2T asks for; None for a command's whole data.
    r2t_bytes: int | None = attrs.field(default=None, validator=optional(ge(1)))
    #: The most data that we put into one H2CData or C2HData, as long as the host's longest command.
    #: Linux's target (6.1, 6.12) compares the data digest of each H2CData with that of the whole
    #: data of the command, so there a write that is split over several fails.
    data_pdu_bytes: int = attrs.field(default=4 << 20, validator=ge(1))


@attrs.frozen
class Counters:
    """PDUs and digest errors seen so far."""

    pdus_received: int = 0
    pdus_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    header_digest_errors: int = 0
    data_digest_errors: int = 0


@attrs.frozen
class Layout:
    """All that the first four bytes of a legal PDU say, computed once."""

    type: PduType
    flags: int
    #: Bytes before the payload; for PDUs without payload 0: their length is PLEN.
    head_bytes: int
    hlen: int
    min_plen: int
    max_plen: int
    header_digest: bool
    data_digest: bool
    #: PLEN less this is the length of the payload.
    overhead_bytes: int
    #: PDUs of this kind go to `TcpConnection._take` where they are whole in the buffer.
    taken_whole: bool = False


def layout_of(pdu: ReceivedHeader) -> Layout:
    """The layout of a header that the table found legal."""
    header_digest = bool(pdu.flags & HDGSTF)
    data_digest = bool(pdu.flags & DDGSTF)
    head_bytes = low = high = pdu.data_start
    overhead_bytes = head_bytes + (DIGEST_BYTES if data_digest else 0)
    if pdu.known in MAY_CARRY_DATA:
        must = pdu.known in DATA_TYPES or data_digest
        low = overhead_bytes + (1 if must else 0)
        may = must or (pdu.pdo and not pdu.expected.data_digest)
        high = overhead_bytes + (pdu.expected.max_data_bytes[pdu.known] if may else 0)
    else:
        if pdu.known in TERM_TYPES:
            high += MAX_TERM_DATA_BYTES
        head_bytes = 0
    return Layout(
        pdu.known,
        pdu.flags,
        head_bytes,
        pdu.hlen,
        low,
        high,
        header_digest,
        data_digest,
        overhead_bytes,
    )


@attrs.frozen
class ControllerHeads:
    """What does not change in the PDUs that a controller sends, computed once."""

    resp_word: int
    r2t_word: int
    #: PLEN of PDUs without data.
    bare_plen: int
    #: C2HData: one with more to come, the last of a command, the last that also completes it.
    c2h_word: int
    last_word: int
    success_word: int
    c2h_pdo: int
    #: PLEN of C2HData is this and the length of the data.
    c2h_overhead_bytes: int


def controller_heads(
    *, header_digest: bool, data_digest: bool, alignment_bytes: int
) -> ControllerHeads:
    """The heads of a connection with these digests, whose host wants data aligned like this."""
    flags = HDGSTF if header_digest else 0
    digest_bytes = DIGEST_BYTES if header_digest else 0
    pdo = align_up(DataHeader.SIZE + digest_bytes, alignment_bytes)
    data_flags = flags | (DDGSTF if data_digest else 0)
    return ControllerHeads(
        first_word(PduType.CAPSULE_RESP, flags, CapsuleRespHeader.SIZE, 0),
        first_word(PduType.R2T, flags, R2THeader.SIZE, 0),
        R2THeader.SIZE + digest_bytes,
        first_word(PduType.C2H_DATA, data_flags, DataHeader.SIZE, pdo),
        first_word(PduType.C2H_DATA, data_flags | LAST_PDU, DataHeader.SIZE, pdo),
        first_word(PduType.C2H_DATA, data_flags | LAST_PDU | SUCCESS, DataHeader.SIZE, pdo),
        pdo,
        pdo + (DIGEST_BYTES if data_digest else 0),
    )


def controller_expectation(
    params: ControllerQueueParams, options: TcpOptions, *, header_digest: bool, data_digest: bool
) -> Expectation:
    """What a controller takes once ICReq and ICResp have crossed."""
    return Expectation(
        types=_FROM_HOST,
        header_digest=header_digest,
        data_digest=data_digest,
        alignment_bytes=(options.pda + 1) * 4,
        max_data_bytes={
            PduType.CAPSULE_CMD: max(params.in_capsule_bytes, ADMIN_IN_CAPSULE_BYTES),
            # DATAL, not PLEN, is what the limit is about: it has its own check.
            PduType.H2C_DATA: 1 << 31,
        },
    )


def with_digest(header: bytes, enabled: bool, alignment_bytes: int = 1) -> bytes:
    """A header, its digest where there is one, and the padding before aligned data."""
    if enabled:
        header += digest_bytes(header)
    return header + bytes(-len(header) % alignment_bytes)
