"""Both roles against each other without I/O, and a scripted peer for one role."""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from nvmf_tcp.connection import TcpConnection
from nvmf_tcp.controller import ControllerConnection, ControllerEvent
from nvmf_tcp.digest import crc32c
from nvmf_tcp.host import HostConnection
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import (
    DDGSTF,
    HDGSTF,
    HLEN,
    CommonHeader,
    IcReq,
    IcResp,
    PduType,
    TermReq,
    align_up,
)
from nvmf_tcp.transfer import InboundTransfer
from nvmf_transport.capsule import CommandCapsule, ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import TransportError
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams
from nvmf_transport.nvme import SubmissionEntry

READ, WRITE = 0x02, 0x01
ENTRIES = 128


def feed(connection: TcpConnection[Any], data: bytes, cuts: Iterable[int] = ()) -> list[Any]:
    """Gives bytes to a connection, in pieces of the sizes in `cuts`, then the rest."""
    events: list[Any] = []
    sizes = iter(cuts)
    rest = memoryview(data)
    while rest:
        size = next(sizes, len(rest))
        piece, rest = rest[:size], rest[size:]
        while piece:
            buffer = connection.get_buffer()
            count = min(len(buffer), len(piece))
            buffer[:count] = piece[:count]
            piece = piece[count:]
            events += connection.buffer_updated(count)
    return events


def drain(connection: TcpConnection[Any]) -> bytes:
    """All that a connection has to send."""
    out = bytearray()
    while connection.wants_to_send:
        for buffer in connection.data_to_send():
            out += buffer
    connection.bytes_sent(len(out))
    return bytes(out)


def forever(size: int) -> Iterator[int]:
    while True:
        yield size


def read_command(cid: int, data_in: memoryview | None) -> CommandCapsule:
    return CommandCapsule(
        bytearray(SubmissionEntry(opc=READ, cid=cid).pack()), cid, data_in=data_in
    )


def write_command(cid: int, data: bytes) -> CommandCapsule:
    return CommandCapsule(bytearray(SubmissionEntry(opc=WRITE, cid=cid).pack()), cid, data_out=data)


@attrs.define(eq=False)
class Pair:
    """A host and a controller with a wire between them that can be tampered with."""

    host: HostConnection
    controller: ControllerConnection
    cuts: Callable[[], Iterable[int]] = lambda: ()
    responses: list[ResponseCapsule] = attrs.field(factory=list)
    commands: list[ReceivedCommand] = attrs.field(factory=list)
    transfers: list[InboundTransfer] = attrs.field(factory=list)

    @classmethod
    def make(
        cls,
        *,
        header_digest: bool = False,
        data_digest: bool = False,
        host_options: TcpOptions | None = None,
        controller_options: TcpOptions | None = None,
        maxh2cdata_bytes: int = 65536,
        in_capsule_bytes: int = 8192,
        sq_flow_control: bool = True,
        cuts: Callable[[], Iterable[int]] = lambda: (),
    ) -> "Pair":
        pair = cls(
            HostConnection(
                HostQueueParams(
                    header_digest=header_digest,
                    data_digest=data_digest,
                    in_capsule_bytes=in_capsule_bytes,
                ),
                host_options,
            ),
            ControllerConnection(
                ControllerQueueParams(maxh2cdata_bytes=maxh2cdata_bytes), controller_options
            ),
            cuts,
        )
        pair.run()
        pair.controller.configure(
            entries=ENTRIES, sq_flow_control=sq_flow_control, in_capsule_bytes=in_capsule_bytes
        )
        assert pair.host.established
        assert pair.controller.established
        return pair

    def to_controller(self, data: bytes) -> None:
        events: list[ControllerEvent] = feed(self.controller, data, self.cuts())
        for event in events:
            if isinstance(event, ReceivedCommand):
                self.commands.append(event)
            else:
                self.transfers.append(event)

    def to_host(self, data: bytes) -> None:
        self.responses += feed(self.host, data, self.cuts())

    def run(self) -> None:
        """Carries bytes both ways until neither side has any."""
        while self.host.wants_to_send or self.controller.wants_to_send:
            self.to_controller(drain(self.host))
            self.to_host(drain(self.controller))

    def command(self, capsule: CommandCapsule) -> ReceivedCommand:
        """Sends a command; returns it as the controller sees it."""
        self.host.send_command(capsule)
        self.run()
        return self.commands.pop()

    def respond(self, cid: int, status: int = 0) -> ResponseCapsule:
        """Sends a response; returns it as the host sees it."""
        self.controller.send_response(ResponseCapsule(cid, status, sqhd=0))
        self.run()
        return self.responses.pop()


def pdu(
    kind: PduType,
    specific: bytes = b"",
    data: bytes = b"",
    *,
    flags: int = 0,
    alignment: int = 4,
    **header: int,
) -> bytes:
    """A PDU, its digests by `flags`; any field of the common header can be given another value."""
    hlen = HLEN[kind]
    head_bytes = hlen + (4 if flags & HDGSTF else 0)
    pdo = align_up(head_bytes, alignment) if data else 0
    plen = (pdo or head_bytes) + len(data) + (4 if flags & DDGSTF else 0)
    fields = {"pdu_type": kind, "flags": flags, "hlen": hlen, "pdo": pdo, "plen": plen}
    head = CommonHeader(**fields | header).pack() + specific.ljust(hlen - 8, b"\0")
    if flags & HDGSTF:
        head += struct.pack("<I", crc32c(head))
    tail = struct.pack("<I", crc32c(data)) if flags & DDGSTF else b""
    return head.ljust(pdo, b"\0") + data + tail


def data_specific(cid: int, ttag: int, offset: int, length: int) -> bytes:
    """What H2CData, C2HData and R2T have after the common header."""
    return struct.pack("<HHII", cid, ttag, offset, length)


def ic_req(**fields: int) -> bytes:
    return IcReq(**{"pdu_type": PduType.IC_REQ, "hlen": 128, "plen": 128} | fields).pack()


def ic_resp(**fields: int) -> bytes:
    defaults = {"pdu_type": PduType.IC_RESP, "hlen": 128, "plen": 128, "maxh2cdata": 8192}
    return IcResp(**defaults | fields).pack()


def established_host(
    *, header_digest: bool = False, data_digest: bool = False, options: TcpOptions | None = None
) -> HostConnection:
    """A host that has seen ICResp from a scripted controller."""
    host = HostConnection(
        HostQueueParams(header_digest=header_digest, data_digest=data_digest), options
    )
    drain(host)
    feed(host, ic_resp(dgst=header_digest | data_digest << 1))
    return host


def established_controller(
    *,
    header_digest: bool = False,
    data_digest: bool = False,
    maxr2t: int = 0,
    params: ControllerQueueParams | None = None,
    options: TcpOptions | None = None,
) -> ControllerConnection:
    """A controller that has seen ICReq from a scripted host."""
    controller = ControllerConnection(params or ControllerQueueParams(), options)
    feed(controller, ic_req(dgst=header_digest | data_digest << 1, maxr2t=maxr2t))
    drain(controller)
    controller.configure(entries=ENTRIES, sq_flow_control=True, in_capsule_bytes=8192)
    return controller


def sent_term_req(connection: TcpConnection[Any]) -> TermReq:
    """The TermReq that a connection has to send, the last of its PDUs."""
    return TermReq.unpack(drain(connection))


def outcome(
    connection: TcpConnection[Any], data: bytes, cuts: Iterable[int] = ()
) -> tuple[list[Any], TransportError | None]:
    """Events and error that bytes lead to."""
    events: list[Any] = []
    sizes = iter(cuts)
    rest = data
    try:
        while rest:
            size = next(sizes, len(rest))
            events += feed(connection, rest[:size])
            rest = rest[size:]
    except TransportError as error:
        return events, error
    return events, connection.error
