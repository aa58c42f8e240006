"""What is known of a kind of PDU before its bytes are looked at, and the values that decide it."""

import attrs
from attrs.validators import ge, le, optional

from .digest import digest_bytes
from .pdu import DDGSTF, DIGEST_BYTES, HDGSTF, MAX_PDA, MAX_TERM_DATA_BYTES, PduType
from .validate import DATA_TYPES, MAY_CARRY_DATA, TERM_TYPES, ReceivedHeader


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


def with_digest(header: bytes, enabled: bool, alignment_bytes: int = 1) -> bytes:
    """A header, its digest where there is one, and the padding before aligned data."""
    if enabled:
        header += digest_bytes(header)
    return header + bytes(-len(header) % alignment_bytes)
