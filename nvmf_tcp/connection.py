"""One NVMe/TCP connection without I/O: no socket, no clock, no log, no task.

`TcpConnection` takes the byte stream apart and puts PDUs together; what they mean is the business
of its two roles, `HostConnection` and `ControllerConnection`.  Whoever drives it repeats:

    count = socket.recv_into(connection.get_buffer())
    events = connection.buffer_updated(count)
    socket.sendmsg(connection.data_to_send())

Speed decides the shape (a profile is dominated by calls, not by bytes):

- `get_buffer` hands out the place where a large payload belongs, so that it is received in place.
  Headers and small payloads go through one buffer, many PDUs to a `recv`.
- A PDU's first four bytes (type, FLAGS, HLEN, PDO) are one integer; those that were found legal
  once are remembered with all that follows from them (`_Layout`).  One lookup and one comparison of
  PLEN replace the table of checks, which judges the first PDU of a kind and every one that does not
  pass.
- What is to be sent is a list of buffers; payload is never joined or copied.

Events that precede an error in the same bytes are returned before the error is raised, so what a
peer sees happen does not depend on how its bytes were cut.
"""

import abc
import re
from typing import Final, Generic, TypeVar

import attrs

from nvmf_transport.errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.wire import Buffer

from .digest import crc32c
from .layout import Counters, Layout, TcpOptions, layout_of
from .pdu import (
    COMMON,
    DIGEST,
    DIGEST_BYTES,
    MAX_TERM_DATA_BYTES,
    CommonHeader,
    FatalError,
    PduType,
    TermReq,
    fatal_error_text,
)
from .validate import (
    HEADER_CHECKS,
    IC_TYPES,
    TERM_TYPES,
    Expectation,
    ReceivedHeader,
    first_breach,
)
from .validate_specific import header_digest_breach, term_req_breach

EventT = TypeVar("EventT")

#: Through this buffer go headers and small payloads; one `recv` fills it at most.
RECEIVE_BUFFER_BYTES: Final = 64 * 1024
#: A payload of which this much is missing is received in place.
IN_PLACE_BYTES: Final = 16 * 1024
#: What is handed out after a payload received in place: the next one's head, little of its data.
HEAD_WINDOW_BYTES: Final = 1024
#: A TLS alert or handshake record.
_TLS: Final = re.compile(rb"[\x15\x16]\x03[\x00-\x04]", re.DOTALL)


class TcpConnection(abc.ABC, Generic[EventT]):
    """The byte stream of one connection, seen from one end.

    All methods that take input raise `RemoteProtocolError`, `ConnectionTerminatedError`,
    `ConnectionLostError` or `HandshakeError`, and the same error again ever after.
    """

    #: The TermReq that this end sends.
    _term_type: PduType

    def __init__(self, options: TcpOptions, expected: Expectation) -> None:
        self._options = options
        self._expected = expected
        self._layouts: dict[int, Layout] = {}
        self._rx = bytearray(RECEIVE_BUFFER_BYTES)
        self._rx_view = memoryview(self._rx)
        self._start = self._end = 0
        # The payload being received: None between PDUs.
        self._layout: Layout | None = None
        self._target: memoryview | None = None
        self._payload_bytes = self._filled = self._crc = 0
        self._in_place = False
        self._after_in_place = False
        self._out: list[Buffer] = []
        self._error: TransportError | None = None
        #: Initialisation is over: ICReq and ICResp have crossed.
        self.established = False
        self.header_digest = False
        self.data_digest = False
        #: The peer's alignment of data in PDUs that we send.
        self._tx_alignment = 4
        #: Bytes handed to `data_to_send` or waiting for it, less those reported by `bytes_sent`.
        self.unsent_bytes = 0
        self._pdus_received = self._pdus_sent = 0
        self._bytes_received = self._bytes_sent = 0
        self._header_digest_errors = self._data_digest_errors = 0

    # What the driver calls.

    @property
    def error(self) -> TransportError | None:
        """Why the connection is over, None while it lives."""
        return self._error

    @property
    def counters(self) -> Counters:
        """A snapshot for display."""
        return Counters(
            self._pdus_received,
            self._pdus_sent,
            self._bytes_received,
            self._bytes_sent,
            self._header_digest_errors,
            self._data_digest_errors,
        )

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer belong; never empty."""
        if self._error is not None:
            raise self._error
        if self._in_place:
            assert self._target is not None
            return self._target[self._filled :]
        start, end = self._start, self._end
        if end == RECEIVE_BUFFER_BYTES or (start and end > RECEIVE_BUFFER_BYTES - IN_PLACE_BYTES):
            # What is left is part of a head, or of a payload smaller than IN_PLACE_BYTES.
            self._rx[: end - start] = self._rx_view[start:end].tobytes()
            self._start, self._end = 0, end - start
            end = self._end
        if self._after_in_place:
            return self._rx_view[end : end + HEAD_WINDOW_BYTES]
        return self._rx_view[end:]

    def buffer_updated(self, count: int) -> list[EventT]:
        """Takes note of `count` bytes received into `get_buffer()`; returns what they bring."""
        if self._error is not None:
            raise self._error
        self._bytes_received += count
        events: list[EventT] = []
        try:
            self._advance(count, events)
        except TransportError as error:
            self._fail(error)
            if not events:
                raise
        return events

    def eof_received(self) -> None:
        """The peer has closed its direction: raises the error that this means."""
        if self._error is None:
            self.connection_lost(self._eof_error())
        assert self._error is not None
        raise self._error

    def _eof_error(self) -> TransportError:
        inside = self._layout is not None or self._end > self._start
        if not self.established:
            if inside and self._rx[self._start] not in self._expected.types:
                return self._not_nvme_tcp()
            return ConnectionLostError(
                "the peer closed the connection during initialisation; is that an NVMe/TCP port?"
            )
        where = "inside a PDU" if inside else "between PDUs"
        return ConnectionLostError(f"the peer closed the connection {where}")

    def _not_nvme_tcp(self) -> RemoteProtocolError:
        """The first bytes are no PDU of the initialisation: somebody else answers here."""
        first = bytes(self._rx_view[self._start : min(self._end, self._start + 16)])
        what = "speaks TLS, which is not supported here" if _TLS.match(first) else f"sent {first!r}"
        return RemoteProtocolError(
            f"the peer does not speak NVMe/TCP: it {what}; check address and port",
            fes=FatalError.INVALID_HEADER_FIELD,
            fei=CommonHeader.offset_of("pdu_type"),
        )

    def connection_lost(self, error: TransportError) -> None:
        """The connection is dead for a reason that only the driver knows; nothing is sent."""
        if self._error is None:
            self._error = error
            self._discard_output()

    @property
    def wants_to_send(self) -> bool:
        """True where `data_to_send` has something."""
        return bool(self._out)

    def data_to_send(self) -> list[Buffer]:
        """Hands out whole PDUs; each buffer must be sent, in order."""
        out = self._out
        self._out = []
        return out

    def bytes_sent(self, count: int) -> None:
        """Takes note of how much of what was handed out has left."""
        self.unsent_bytes -= count
        self._bytes_sent += count

    # What the roles fill in.

    @abc.abstractmethod
    def _handle(self, layout: Layout, start: int, events: list[EventT]) -> None:
        """A PDU without payload, whole in `_rx` at `start`."""

    @abc.abstractmethod
    def _open(self, layout: Layout, start: int, payload_bytes: int) -> memoryview | None:
        """A PDU with payload, its head in `_rx` at `start`: where does it go?  None: nowhere."""

    @abc.abstractmethod
    def _finish(self, layout: Layout, digest_ok: bool, events: list[EventT]) -> None:
        """The payload of the PDU last opened is in."""

    def _takes_whole(self, layout: Layout) -> bool:
        """True where PDUs of this kind are tried with `_take`."""
        del layout
        return False

    def _take(self, layout: Layout, start: int, plen: int, events: list[EventT]) -> bool:
        """A PDU with room for a payload, whole in `_rx` at `start`, in one go.

        False: it has to go the general way, which says of it the same or what is wrong with it,
        its data digest too.
        """
        del layout, start, plen, events
        return False

    # Receiving.

    def _advance(self, count: int, events: list[EventT]) -> None:
        rx, rx_view = self._rx, self._rx_view
        if self._in_place:
            assert self._target is not None
            assert self._layout is not None
            filled = self._filled + count
            if self._layout.data_digest:
                self._crc = crc32c(self._target[self._filled : filled], self._crc)
            self._filled = filled
            if filled < self._payload_bytes:
                return
            self._in_place = False
        else:
            # Inside a PDU it was the digest of what was received in place, and the next one's head
            # is still to come.
            self._after_in_place = self._after_in_place and self._layout is not None
            self._end += count
        start, end = self._start, self._end
        while True:
            layout = self._layout
            if layout is None:
                if end - start < 8:
                    break
                word, plen = COMMON.unpack_from(rx, start)
                layout = self._layouts.get(word)
                if layout is None or not layout.min_plen <= plen <= layout.max_plen:
                    self._start = start
                    layout = self._learn(word, plen)
                if end - start < (layout.head_bytes or plen):
                    break
                self._start = start
                if layout.header_digest:
                    self._check_header_digest(layout, start)
                self._pdus_received += 1
                if not layout.head_bytes:
                    self._handle(layout, start, events)
                    start += plen
                    continue
                if (
                    layout.taken_whole
                    and end - start >= plen
                    and self._take(layout, start, plen, events)
                ):
                    start += plen
                    continue
                self._payload_bytes = plen - layout.overhead_bytes
                self._target = self._open(layout, start, self._payload_bytes)
                self._layout = layout
                self._filled = self._crc = 0
                start += layout.head_bytes
            missing = self._payload_bytes - self._filled
            if missing:
                take = min(missing, end - start)
                if take:
                    self._store(rx_view[start : start + take], layout)
                    start += take
                if take < missing:
                    if missing - take >= IN_PLACE_BYTES and self._target is not None:
                        self._in_place = self._after_in_place = True
                    break
            digest_ok = True
            if layout.data_digest:
                if end - start < DIGEST_BYTES:
                    break
                digest_ok = self._target is None or DIGEST.unpack_from(rx, start)[0] == self._crc
                self._data_digest_errors += not digest_ok
                start += DIGEST_BYTES
            self._layout = None
            self._finish(layout, digest_ok, events)
            self._target = None
        if start == end:
            start = end = 0
        self._start, self._end = start, end

    def _store(self, piece: memoryview, layout: Layout) -> None:
        filled = self._filled + len(piece)
        if self._target is not None:
            self._target[self._filled : filled] = piece
            if layout.data_digest:
                self._crc = crc32c(piece, self._crc)
        self._filled = filled

    def _fails_digest(self, data: Buffer, end: int) -> bool:
        """True where the digest that stands at `end`, behind `data`, is not its."""
        return DIGEST.unpack_from(self._rx, end) != (crc32c(data),)

    def _check_header_digest(self, layout: Layout, start: int) -> None:
        (received,) = DIGEST.unpack_from(self._rx, start + layout.hlen)
        computed = crc32c(self._rx_view[start : start + layout.hlen])
        if received != computed:
            self._header_digest_errors += 1
            raise header_digest_breach(layout.type.label, received, computed)

    def _learn(self, word: int, plen: int) -> Layout:
        """Judges a common header by the table and remembers its layout."""
        pdu = ReceivedHeader(
            word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFF, word >> 24, plen, self._expected
        )
        known = pdu.type in self._expected.types
        if not known and not self.established:
            raise self._not_nvme_tcp()
        name = PduType(pdu.type).label if known else f"PDU of type {pdu.type:02x}h"
        breach = first_breach(name, HEADER_CHECKS, pdu)
        if known and pdu.type in TERM_TYPES and breach is not None:
            # A TermReq is never answered by another.
            raise term_req_breach(plen) from breach
        if breach is not None:
            raise breach
        layout = layout_of(pdu)
        if self._takes_whole(layout):
            layout = attrs.evolve(layout, taken_whole=True)
        self._layouts[word] = layout
        return layout

    def _terminated(self, start: int) -> ConnectionTerminatedError:
        pdu = TermReq.unpack(self._rx, start)
        return ConnectionTerminatedError(
            f"the peer ended the connection: {fatal_error_text(pdu.fes, pdu.fei)}",
            fes=pdu.fes,
            fei=pdu.fei,
        )

    def _expect(self, expected: Expectation) -> None:
        self._expected = expected
        self._layouts.clear()

    # Sending.

    def _send(self, *buffers: Buffer) -> None:
        """Queues one PDU."""
        self._out += buffers
        for buffer in buffers:
            self.unsent_bytes += len(buffer)
        self._pdus_sent += 1

    def _discard_output(self) -> None:
        self.unsent_bytes -= sum(map(len, self._out))
        self._out.clear()

    def _fail(self, error: TransportError) -> None:
        """Ends the connection, with a TermReq where the peer is to be told why."""
        self._error = error
        self._in_place = False
        self._discard_output()
        if not isinstance(error, RemoteProtocolError) or error.fes is None:
            return
        available = self._end - self._start
        hlen = self._rx[self._start + 2] if available > 2 else 0
        shown = min(available, max(hlen, CommonHeader.SIZE), MAX_TERM_DATA_BYTES)
        header = TermReq(
            pdu_type=self._term_type,
            hlen=TermReq.SIZE,
            plen=TermReq.SIZE + shown,
            fes=error.fes,
            fei=error.fei,
        ).pack()
        self._send(header + self._rx_view[self._start : self._start + shown])

    def _ic_expectation(self, ic_type: PduType, term_type: PduType) -> Expectation:
        assert ic_type in IC_TYPES
        return Expectation(types=frozenset({ic_type, term_type}))
