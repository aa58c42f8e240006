"""PDUs as a hostile peer makes them: mostly right, digests included, and wrong in one place."""

import struct
from typing import Any, Final

import attrs

from nvmf_tcp.connection import TcpConnection
from nvmf_tcp.digest import crc32c
from nvmf_tcp.pdu import DDGSTF, HDGSTF, HLEN, CommonHeader, PduType
from nvmf_transport.errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    HandshakeError,
    RemoteProtocolError,
    TransportError,
)
from tests.tcp.pair import pdu

from .source import Source

#: What the bytes of a peer may lead to.
DOCUMENTED: Final = (
    ConnectionLostError,
    ConnectionTerminatedError,
    HandshakeError,
    RemoteProtocolError,
)
#: Offset and size of the fields of the common header.
_HEADER_FIELDS: Final = ((0, 1), (1, 1), (2, 1), (3, 1), (4, 4))
_ALL_BYTES: Final = bytes(range(256))
#: A large piece of a stream is cut into no more than so many.
_MAX_CUTS: Final = 200


def pattern(cid: int, offset: int, length: int) -> bytes:
    """The data of a command at an offset: what lands in the wrong place is seen."""
    start = (cid * 7 + offset) & 0xFF
    return (_ALL_BYTES * (length // 256 + 2))[start : start + length]


class Wire:
    """One connection, and a twin that gets the same bytes in other pieces.

    `pure` is lost as soon as bytes were sent that are no PDU of the grammar: then nothing can be
    said about the data that arrives.
    """

    def __init__(
        self, subject: TcpConnection[Any], twin: TcpConnection[Any], source: Source, flags: int
    ) -> None:
        self.subject = subject
        self.twin = twin
        self.source = source
        #: The digest flags that were agreed.
        self.flags = flags
        self.alignment = 4
        self.pending = bytearray()
        self.pure = True
        self._cut = (1, 2, 3, 5, 7, 11, 24, 64, 100, 1000)[source.below(10)]

    @property
    def dead(self) -> bool:
        """The connection is over."""
        return self.subject.error is not None

    def pdu(
        self, kind: PduType, specific: bytes = b"", data: bytes = b"", *, flags: int | None = None
    ) -> None:
        """Sends a PDU, now and then with a wrong header field, digest or byte."""
        source = self.source
        if flags is None:
            flags = self.flags & (HDGSTF | (DDGSTF if data else 0))
        whole = bytearray(pdu(kind, specific, data, flags=flags, alignment=self.alignment))
        odd = source.below(64)
        if odd > 58:
            self.pure = False
        if odd in (59, 60):
            at, size = source.pick(_HEADER_FIELDS)
            old = int.from_bytes(whole[at : at + size], "little")
            whole[at : at + size] = source.number(8 * size, old).to_bytes(size, "little")
            if flags & HDGSTF:
                struct.pack_into("<I", whole, HLEN[kind], crc32c(whole[: HLEN[kind]]))
        elif odd in (61, 62):
            whole[source.below(len(whole))] ^= 1 + source.below(255)
        elif odd == 63:
            whole = bytearray(source.mutated(bytes(whole), 1))
        self.pending += whole

    def garbage(self) -> None:
        """Sends any bytes."""
        self.pure = False
        self.pending += self.source.take(1 + self.source.below(64))

    def flush(self) -> list[Any]:
        """Delivers what is pending to both; returns the events, after comparing them."""
        data = bytes(self.pending)
        self.pending.clear()
        events, error = _deliver(self.subject, data, len(data))
        cut = max(self._cut, len(data) // _MAX_CUTS)
        twins, twin_error = _deliver(self.twin, data, cut)
        assert error is None or isinstance(error, DOCUMENTED), repr(error)
        assert described(error) == described(twin_error), (error, twin_error)
        assert len(events) == len(twins)
        self._same_state()
        return list(zip(events, twins, strict=True))

    def _same_state(self) -> None:
        assert described(self.subject.error) == described(self.twin.error)
        first, second = self.subject.counters, self.twin.counters
        if self.dead:
            # The rest of what one of them got at once was not offered to the other.
            second = attrs.evolve(
                second, bytes_received=first.bytes_received, bytes_sent=first.bytes_sent
            )
        assert first == second

    def drain(self) -> bytes:
        """What the subject has to send; its twin has the same."""
        out, twin = _sent(self.subject), _sent(self.twin)
        if self.dead:
            # A TermReq, whose data is as much of the offending PDU as had come by then.
            assert out[:4] == twin[:4]
            assert out[8:14] == twin[8:14]
        else:
            assert out == twin
        self._same_state()
        return out

    def eof(self) -> None:
        """The peer closes."""
        for connection in (self.subject, self.twin):
            try:
                connection.eof_received()
            except DOCUMENTED as error:
                first = error
            else:
                raise AssertionError("the end of the stream without an error")
            try:
                connection.get_buffer()
            except TransportError as error:
                assert error is first, "not the same error ever after"
            else:
                raise AssertionError("a dead connection that takes bytes")
        self._same_state()


def described(error: TransportError | None) -> tuple[object, ...]:
    """What can be seen of an error, but for how much had come of what is no NVMe/TCP."""
    text = str(error).split(" it sent ")[0]
    return (type(error), text, getattr(error, "fes", None), getattr(error, "fei", None))


def _deliver(
    connection: TcpConnection[Any], data: bytes, cut: int
) -> tuple[list[Any], TransportError | None]:
    """Gives bytes to a connection in pieces of `cut`; returns events and the error that ended it.

    Where there is one, `buffer_updated` has returned the events before it.
    """
    events: list[Any] = []
    at = 0
    try:
        while at < len(data) and connection.error is None:
            buffer = connection.get_buffer()
            piece = data[at : at + min(cut, len(buffer))]
            assert piece, "no room for what comes"
            buffer[: len(piece)] = piece
            at += len(piece)
            events += connection.buffer_updated(len(piece))
    except TransportError as error:
        assert error is connection.error
    return events, connection.error


def _sent(connection: TcpConnection[Any]) -> bytes:
    out = bytearray()
    while connection.wants_to_send:
        for buffer in connection.data_to_send():
            out += buffer
    connection.bytes_sent(len(out))
    assert connection.unsent_bytes == 0
    return bytes(out)


def split(stream: bytes, flags: int) -> list[tuple[CommonHeader, bytes, bytes]]:
    """Takes apart what our side sent: header, specific header and data of each PDU, all checked."""
    found = []
    at = 0
    while at < len(stream):
        head = CommonHeader.unpack(stream, at)
        kind = PduType(head.pdu_type)
        end = at + head.plen
        assert end <= len(stream), "less than the PDU it announces"
        assert head.hlen == HLEN[kind]
        whole = stream[at:end]
        if kind not in {PduType.IC_REQ, PduType.IC_RESP} and "TERM" not in kind.name:
            assert (head.flags & HDGSTF) == (flags & HDGSTF)
            if head.flags & HDGSTF:
                stated = struct.unpack_from("<I", whole, head.hlen)[0]
                assert stated == crc32c(whole[: head.hlen])
        data = b""
        if head.pdo:
            stop = len(whole) - (4 if head.flags & DDGSTF else 0)
            data = whole[head.pdo : stop]
            if head.flags & DDGSTF:
                assert struct.unpack_from("<I", whole, stop)[0] == crc32c(data)
        found.append((head, whole[CommonHeader.SIZE : head.hlen], data))
        at = end
    return found
