"""Both ends of a connection without I/O, and the bytes that go between them."""

import struct
from typing import Any, Final

import attrs

from nvmf_tcp.connection import TcpConnection
from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.host import HostConnection
from nvmf_transport.capsule import CommandCapsule, ReceivedCommand, ResponseCapsule
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams
from nvmf_transport.nvme import NvmOpcode, SubmissionEntry

_ENTRIES: Final = 128
_IN_CAPSULE_BYTES: Final = 16384
_CID: Final = struct.Struct("<H")


def take(connection: TcpConnection[Any]) -> bytes:
    """All that a connection has to send, taken as sent."""
    taken = bytearray()
    while connection.wants_to_send:
        for buffer in connection.data_to_send():
            taken += buffer
    connection.bytes_sent(len(taken))
    return bytes(taken)


def drop(connection: TcpConnection[Any]) -> None:
    """The same without a copy: what a socket would do with it costs us nothing."""
    while connection.wants_to_send:
        connection.bytes_sent(sum(map(len, connection.data_to_send())))


def feed(connection: TcpConnection[Any], data: bytes) -> list[Any]:
    """Gives bytes to a connection as a socket would: into the buffers that it asks for."""
    events: list[Any] = []
    view, start = memoryview(data), 0
    while start < len(data):
        buffer = connection.get_buffer()
        count = min(len(buffer), len(data) - start)
        buffer[:count] = view[start : start + count]
        events += connection.buffer_updated(count)
        start += count
    return events


def command(
    cid: int, *, data_out: bytes | None = None, data_in: memoryview | None = None
) -> CommandCapsule:
    """A Read or a Write."""
    opcode = NvmOpcode.WRITE if data_in is None else NvmOpcode.READ
    sqe = bytearray(SubmissionEntry(opc=opcode, cid=cid, nsid=1).pack())
    return CommandCapsule(sqe, cid, data_out, data_in)


@attrs.frozen
class Ends:
    """A host and a controller that have agreed on digests."""

    host: HostConnection
    controller: ControllerConnection

    @classmethod
    def make(cls, *, digests: bool) -> "Ends":
        """Exchanges ICReq and ICResp, as on an I/O queue without SQ flow control."""
        ends = cls(
            HostConnection(
                HostQueueParams(
                    header_digest=digests,
                    data_digest=digests,
                    in_capsule_bytes=_IN_CAPSULE_BYTES,
                    entries=_ENTRIES,
                )
            ),
            ControllerConnection(ControllerQueueParams(in_capsule_bytes=_IN_CAPSULE_BYTES)),
        )
        feed(ends.controller, take(ends.host))
        feed(ends.host, take(ends.controller))
        ends.controller.configure(
            entries=_ENTRIES, sq_flow_control=False, in_capsule_bytes=_IN_CAPSULE_BYTES
        )
        assert ends.host.established
        assert ends.host.data_digest == digests
        return ends

    def reads(self, count: int, data_bytes: int) -> list[ReceivedCommand]:
        """Sends so many Reads; returns them as the controller has them."""
        target = memoryview(bytearray(data_bytes))
        for cid in range(count):
            self.host.send_command(command(cid, data_in=target))
        return feed(self.controller, take(self.host))

    def writes(self, count: int, data_bytes: int) -> list[ReceivedCommand]:
        """Sends so many Writes, whose data goes inside the capsule where it fits."""
        data = bytes(data_bytes)
        for cid in range(count):
            self.host.send_command(command(cid, data_out=data))
        return feed(self.controller, take(self.host))

    def requested_writes(self, count: int, data_bytes: int) -> None:
        """Sends so many Writes and R2Ts for all their data: H2CData is the host's to make."""
        for received in self.writes(count, data_bytes):
            self.controller.request_data(received)
        feed(self.host, take(self.controller))

    def answer(self, commands: list[ReceivedCommand]) -> bytes:
        """The responses to commands, as the controller sends them."""
        for each in commands:
            self.controller.send_response(ResponseCapsule(each.cid, sqhd=0))
        return take(self.controller)
