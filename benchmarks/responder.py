"""A target with as little in it as can be: it shows what the host costs when nothing else does.

    python -m benchmarks.responder ADDRESS:PORT

Everything up to the CONNECT of a queue, and all that is said on admin queues, is passed on to the
nvmfd at ADDRESS:PORT.  On I/O queues reads are answered from one buffer, by PDUs that are made
once, and writes are taken and forgotten.  Each connection is a process of its own, which waits in
`recv` and knows nothing of the others.  Digests are not served.
"""

import os
import random
import select
import signal
import socket
import struct
import sys
from typing import Final

from nvmf_tcp.pdu import (
    LAST_PDU,
    SUCCESS,
    CapsuleRespHeader,
    CommonHeader,
    DataHeader,
    IcReq,
    PduType,
    R2THeader,
)
from nvmf_transport.fabrics import ConnectCommand
from nvmf_transport.nvme import NvmOpcode, SubmissionEntry

#: The beginning of what every read gives.
PATTERN: Final = random.Random(4420).randbytes(1 << 20)
_RECEIVE_BYTES: Final = 1 << 20
#: Replies that are kept whole, for each CID and length.
_WHOLE_BYTES: Final = 16 << 10
#: The most buffers in one sendmsg (IOV_MAX is 1024).
_MOST_BUFFERS: Final = 512
_PLEN: Final = struct.Struct("<I")
_PLEN_AT: Final = CommonHeader.offset_of("plen")
_SQE_AT: Final = CommonHeader.SIZE
_CID_AT: Final = _SQE_AT + SubmissionEntry.offset_of("cid")
_LENGTH_AT: Final = _SQE_AT + SubmissionEntry.offset_of("sgl_length")
_SQE_END: Final = _SQE_AT + SubmissionEntry.SIZE
_CCCID_AT: Final = DataHeader.offset_of("cccid")


class IoQueue:
    """Answers commands as they come."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._replies: list[bytes | memoryview] = []
        self._reads: dict[tuple[int, int], tuple[bytes | memoryview, ...]] = {}
        self._responses: dict[int, bytes] = {}
        #: Of a PDU with data what is still to come, and what is answered at its end.
        self._skip_bytes = 0
        self._skipped: bytes | None = None

    def run(self) -> None:
        """Until the host closes the connection."""
        view = memoryview(self._buffer)
        end = 0
        while got := self._connection.recv_into(view[end:]):
            end += got
            begin = self._answer(end)
            self._send()
            # What is left is less than a PDU's beginning, or than a command.
            self._buffer[: end - begin] = self._buffer[begin:end]
            end -= begin

    def _answer(self, end: int) -> int:
        """Answers what is there up to `end`; returns where the first incomplete PDU begins."""
        buffer, at = self._buffer, 0
        while True:
            if self._skip_bytes:
                step = min(self._skip_bytes, end - at)
                at += step
                self._skip_bytes -= step
                if self._skip_bytes:
                    return at
                if self._skipped is not None:
                    self._replies.append(self._skipped)
            if end - at < _PLEN_AT + _PLEN.size:
                return at
            (plen,) = _PLEN.unpack_from(buffer, _PLEN_AT + at)
            if buffer[at] == PduType.CAPSULE_CMD:
                if end - at < _SQE_END:
                    return at
                if plen > _SQE_END:
                    # Its data is in the capsule, which may be longer than the buffer.
                    cid = buffer[at + _CID_AT] | buffer[at + _CID_AT + 1] << 8
                    self._skip_bytes = plen
                    self._skipped = self._response(cid)
                else:
                    self._command(at)
                    at += plen
            elif buffer[at] == PduType.H2C_DATA:
                if end - at < DataHeader.SIZE:
                    return at
                cid = int.from_bytes(buffer[at + _CCCID_AT : at + _CCCID_AT + 2], "little")
                last = buffer[at + 1] & LAST_PDU
                self._skip_bytes = plen
                self._skipped = self._response(cid) if last else None
            else:
                raise ValueError(f"PDU type {buffer[at]:#x} on an I/O queue")

    def _command(self, at: int) -> None:
        buffer = self._buffer
        opcode = buffer[at + _SQE_AT]
        cid = buffer[at + _CID_AT] | buffer[at + _CID_AT + 1] << 8
        (length,) = _PLEN.unpack_from(buffer, at + _LENGTH_AT)
        if opcode == NvmOpcode.READ:
            self._replies += self._reads.get((cid, length)) or self._read(cid, length)
        elif opcode == NvmOpcode.WRITE:
            header = R2THeader(
                pdu_type=PduType.R2T, hlen=24, plen=24, cccid=cid, ttag=cid, r2tl=length
            )
            self._replies.append(header.pack())
        else:
            self._replies.append(self._response(cid))

    def _read(self, cid: int, length: int) -> tuple[bytes | memoryview, ...]:
        header = DataHeader(
            pdu_type=PduType.C2H_DATA,
            flags=LAST_PDU | SUCCESS,
            hlen=DataHeader.SIZE,
            pdo=DataHeader.SIZE,
            plen=DataHeader.SIZE + length,
            cccid=cid,
            datal=length,
        ).pack()
        data = memoryview(PATTERN)[:length]
        made = (header + data,) if length <= _WHOLE_BYTES else (header, data)
        self._reads[cid, length] = made
        return made

    def _response(self, cid: int) -> bytes:
        if cid not in self._responses:
            header = CapsuleRespHeader(pdu_type=PduType.CAPSULE_RESP, hlen=24, plen=24, cid=cid)
            self._responses[cid] = header.pack()
        return self._responses[cid]

    def _send(self) -> None:
        replies, self._replies = self._replies, []
        for first in range(0, len(replies), _MOST_BUFFERS):
            batch = replies[first : first + _MOST_BUFFERS]
            sent = self._connection.sendmsg(batch)
            if sent < sum(map(len, batch)):
                self._connection.sendall(b"".join(batch)[sent:])


def _whole(connection: socket.socket, length: int) -> bytes:
    data = connection.recv(length, socket.MSG_WAITALL)
    if len(data) < length:
        raise EOFError("closed in the handshake")
    return data


def _pdu(connection: socket.socket) -> bytes:
    header = _whole(connection, CommonHeader.SIZE)
    return header + _whole(connection, CommonHeader.unpack(header).plen - len(header))


def serve(host: socket.socket, target: socket.socket) -> None:
    """One connection, from its first byte to its last."""
    for each in (host, target):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    target.sendall(_whole(host, IcReq.SIZE))
    host.sendall(_pdu(target))
    command = _pdu(host)
    target.sendall(command)
    host.sendall(_pdu(target))
    if ConnectCommand.unpack(command[_SQE_AT:_SQE_END]).qid:
        IoQueue(host).run()
        return
    while True:
        for readable in select.select([host, target], [], [])[0]:
            data = readable.recv(1 << 16)
            if not data:
                return
            (target if readable is host else host).sendall(data)


def main() -> None:
    """Accepts connections until it is ended."""
    # Nobody waits for those that end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    address, _, port = sys.argv[1].rpartition(":")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(f"ready io=127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            host, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                with host, socket.create_connection((address, int(port))) as target:
                    serve(host, target)
                os._exit(0)
            host.close()


if __name__ == "__main__":
    main()
