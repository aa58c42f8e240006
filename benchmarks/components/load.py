"""Load for a controller, from as little of a host as will do: many queues, any depth.

Every command of a load is of one kind, so every answer has the same length; a CID is read where it
must be, and the command that had it is sent again as it was.
"""

import selectors
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs

from nvmf_tcp.host import HostConnection
from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.fabrics import (
    ADMIN_QUEUE_ENTRIES,
    CNTLID_DYNAMIC,
    ConnectCommand,
    ConnectData,
    PropertySetCommand,
)
from nvmf_transport.interfaces import HostQueueParams
from nvmf_transport.nvme import (
    AdminOpcode,
    Cc,
    FeatureId,
    NvmOpcode,
    Property,
    SubmissionEntry,
)

from .wire import Ends, take

_HOSTNQN: Final = "nqn.2024-01.org.example:load"
_ENTRIES: Final = 129
_LBA_BYTES: Final = 512
_IN_CAPSULE_BYTES: Final = 16384
_RECEIVE_BYTES: Final = 256 * 1024
#: Where a completion holds its CID: CCCID of C2HData, CID of CapsuleResp.
_C2H_CID, _RESPONSE_CID = struct.Struct("<8xH"), struct.Struct("<20xH")
_C2H_HEAD_BYTES: Final = 24
_RESPONSE_BYTES: Final = 24


@attrs.define(eq=False)
class _Queue:
    """A connected queue, used command by command until the load begins."""

    sock: socket.socket
    connection: HostConnection

    @classmethod
    def open(cls, address: tuple[str, int]) -> "_Queue":
        """Connects, up to ICResp."""
        sock = socket.create_connection(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        params = HostQueueParams(entries=_ENTRIES, in_capsule_bytes=_IN_CAPSULE_BYTES)
        queue = cls(sock, HostConnection(params))
        queue._send()
        while not queue.connection.established:
            queue._receive()
        return queue

    def execute(self, sqe: bytes, data: bytes | None = None) -> ResponseCapsule:
        """Runs one command to its end."""
        self.connection.send_command(CommandCapsule(bytearray(sqe), 0, data))
        self._send()
        while not (answers := self._receive()):
            pass
        assert not answers[0].status, hex(answers[0].status)
        return answers[0]

    def _send(self) -> None:
        while self.connection.wants_to_send:
            for buffer in self.connection.data_to_send():
                self.sock.sendall(buffer)
                self.connection.bytes_sent(len(buffer))

    def _receive(self) -> list[ResponseCapsule]:
        count = self.sock.recv_into(self.connection.get_buffer())
        assert count, "the controller closed the connection"
        return self.connection.buffer_updated(count)


@attrs.define(eq=False)
class _Stream:
    """What is left of a queue under load: bytes out, answers of one length in."""

    sock: socket.socket
    capsules: Sequence[bytes]
    answer_bytes: int
    cid: struct.Struct
    _buffer: bytearray = attrs.field(factory=lambda: bytearray(_RECEIVE_BYTES))
    _filled: int = 0

    def fill(self) -> None:
        """Sends every command once."""
        self.sock.sendall(b"".join(self.capsules))

    def turn(self, most: int) -> int:
        """Takes what has come, and sends as many commands again, `most` of them."""
        count = self.sock.recv_into(memoryview(self._buffer)[self._filled :])
        assert count, "the controller closed the connection"
        self._filled += count
        answers, rest = divmod(self._filled, self.answer_bytes)
        # CIDs before the buffer is used again.
        cids = [
            self.cid.unpack_from(self._buffer, number * self.answer_bytes)[0]
            for number in range(min(answers, most))
        ]
        if rest and answers:
            # What there is of a head is wanted; what there is of data is only counted.
            start = answers * self.answer_bytes
            head = self._buffer[start : start + min(rest, _C2H_HEAD_BYTES)]
            self._buffer[: len(head)] = head
        self._filled = rest
        if cids:
            self.sock.sendall(b"".join([self.capsules[cid] for cid in cids]))
        return answers


@attrs.define(eq=False)
class Load:
    """Queues of one association, ready to be loaded."""

    _queues: list[_Queue]
    _selector: selectors.BaseSelector

    def run(self, depth: int, commands: int, *, data_bytes: int, write: bool = False) -> None:
        """Has so many commands executed, `depth` of them at a time on every queue."""
        streams = [_stream(queue, depth, data_bytes, write=write) for queue in self._queues]
        for stream in streams:
            self._selector.register(stream.sock, selectors.EVENT_READ, stream)
            stream.fill()
        sent, done = depth * len(streams), 0
        while done < sent:
            for key, _ in self._selector.select():
                more = commands - sent
                ended = key.data.turn(max(0, more))
                done += ended
                sent += min(ended, max(0, more))
        for stream in streams:
            self._selector.unregister(stream.sock)


def _stream(queue: _Queue, depth: int, data_bytes: int, *, write: bool) -> _Stream:
    """Commands with CIDs from 0 on, each at LBAs of its own."""
    # One that has agreed on the same, whose answers never come.
    connection = Ends.make(digests=False).host
    blocks = data_bytes // _LBA_BYTES
    data, target = bytes(data_bytes), memoryview(bytearray(data_bytes))
    capsules = []
    for cid in range(depth):
        sqe = SubmissionEntry(
            opc=NvmOpcode.WRITE if write else NvmOpcode.READ,
            cid=cid,
            nsid=1,
            cdw10=cid * blocks,
            cdw12=blocks - 1,
        ).pack()
        connection.send_command(
            CommandCapsule(bytearray(sqe), cid, data if write else None, None if write else target)
        )
        capsules.append(take(connection))
    if write:
        return _Stream(queue.sock, capsules, _RESPONSE_BYTES, _RESPONSE_CID)
    return _Stream(queue.sock, capsules, _C2H_HEAD_BYTES + data_bytes, _C2H_CID)


@contextmanager
def connected(address: tuple[str, int], subnqn: str, queues: int) -> Iterator[Load]:
    """An association with so many I/O queues, without SQ flow control and Keep Alive."""
    identity = ConnectData(
        hostid=bytes(range(16)), cntlid=CNTLID_DYNAMIC, subnqn=subnqn, hostnqn=_HOSTNQN
    )
    with ExitStack() as stack:

        def connect(qid: int, data: ConnectData, entries: int) -> tuple[_Queue, int]:
            command = ConnectCommand(
                qid=qid, sqsize=entries - 1, cattr=ConnectCommand.CATTR_DISABLE_SQFLOW
            )
            queue = _Queue.open(address)
            stack.callback(queue.sock.close)
            return queue, queue.execute(command.pack(), data.pack()).result & 0xFFFF

        admin, cntlid = connect(0, identity, ADMIN_QUEUE_ENTRIES)
        enabled = Cc.of(en=1, iosqes=6, iocqes=4)
        admin.execute(PropertySetCommand(ofst=Property.CC, value=enabled.value).pack())
        admin.execute(
            SubmissionEntry(
                opc=AdminOpcode.SET_FEATURES,
                cdw10=FeatureId.NUMBER_OF_QUEUES,
                cdw11=(queues - 1) * 0x10001,
            ).pack()
        )
        own = attrs.evolve(identity, cntlid=cntlid)
        selector = stack.enter_context(selectors.DefaultSelector())
        yield Load([connect(qid, own, _ENTRIES)[0] for qid in range(1, queues + 1)], selector)
