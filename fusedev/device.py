"""/dev/fuse of a mount, taken from under pyfuse3, which goes on seeing the rest.

pyfuse3 has a task wait for each request, copies what is written once more, and holds the
interpreter's lock while the kernel copies.  That was two fifths of a request's time, so for reads,
writes and fsyncs, and for what is asked most beside them, the daemon talks to the kernel itself
(see `data_path`).  Whatever else the kernel asks is passed on, as it is, through a socket that lies
under the number of pyfuse3's descriptor, and what is answered there is passed back.

Without it (NVMF_PLAIN_FUSE is set) pyfuse3 serves everything, with the same answers; the tests run
both ways.
"""

import contextlib
import errno
import io
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import trio

from nvmf_transport.wire import Buffer

_log = logging.getLogger(__name__)

SWITCH: Final = "NVMF_PLAIN_FUSE"

#: struct fuse_in_header begins with length, opcode, unique.
_IN_HEADER: Final = struct.Struct("=4xIQ")
_INIT: Final = 26
#: max_write of struct fuse_init_out.
_MAX_WRITE: Final = struct.Struct("=36xI")
#: struct fuse_out_header: length, error, unique.
_OUT_HEADER: Final = struct.Struct("=IiQ")
#: It, and struct fuse_write_out: size and padding.
_WRITTEN: Final = struct.Struct("=IiQII")
#: pyfuse3 has so many requests at a time: their answers have to fit into the socket, because it
#: does not ask whether they do.  None of them waits for anything.
_MOST_PASSED_ON: Final = 4
#: Longer than any answer: the longest are 64 KiB of an extended attribute.
_ANSWER_BYTES: Final = 256 << 10
#: As much of it as the kernel allows: pyfuse3 would wait for room, and nobody would make any.
_SOCKET_BYTES: Final = 1 << 20
#: Nobody waits for the answer any more, or the mount is gone.
_NOT_WANTED: Final = frozenset(
    {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EPERM, errno.EBADF}
)


def open_devices() -> set[int]:
    """The descriptors of /dev/fuse that this process has."""
    found = set()
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            if os.readlink(entry) == "/dev/fuse":  # noqa: PTH115
                found.add(int(entry.name))
    return found


@attrs.define(eq=False)
class Device:
    """The device, and the socket in its place."""

    #: The descriptor, which does not block.
    number: int
    #: pyfuse3 has the other end.
    _socket: socket.socket = attrs.field(alias="socket")
    #: Fills a buffer with one request and returns its length, None where there is none (read(2)).
    read_into: Callable[[memoryview], int | None] = attrs.field(init=False)
    #: What libfuse has agreed upon with the kernel.
    longest_write_bytes: int = attrs.field(init=False, default=1 << 20)
    _init: int = attrs.field(init=False, default=-1)
    #: What pyfuse3 has not answered, by `unique`.
    _passed_on: set[int] = attrs.field(init=False, factory=set)
    #: What it is yet to see.
    _backlog: deque[bytes] = attrs.field(init=False, factory=deque)

    @read_into.default
    def _readinto_of_number(self) -> Callable[[memoryview], int | None]:
        return io.FileIO(self.number, "r+", closefd=False).readinto

    @classmethod
    @contextlib.contextmanager
    def instead_of(cls, theirs: int) -> Iterator["Device"]:
        """Takes the device of pyfuse3's descriptor, and gives it back: unmounting looks at it."""
        number = os.dup(theirs)
        os.set_blocking(number, False)
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        for end in (ours, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        with other:
            os.dup2(other.fileno(), theirs, inheritable=False)
        device = cls(number, ours)
        try:
            yield device
        finally:
            # What still ends is answered to nobody, and to no other file.
            device.number = -1
            os.dup2(number, theirs, inheritable=False)
            os.close(number)
            ours.close()

    # Answers.

    def written(self, unique: int, length: int) -> None:
        """Answers a write."""
        self._answer(_WRITTEN.pack(_WRITTEN.size, 0, unique, length, 0))

    def has_read(self, unique: int, data: Buffer) -> None:
        """Answers a read."""
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(data), 0, unique)
        try:
            os.writev(self.number, (header, data))
        except OSError as error:
            _not_answered(unique, error)

    def told(self, unique: int, answer: bytes) -> None:
        """Answers what is not about data."""
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), 0, unique)
        self._answer(header + answer)

    def done(self, unique: int, number: int = 0) -> None:
        """Answers any request; `number` is an errno, 0 for a success with nothing to tell."""
        self._answer(_OUT_HEADER.pack(_OUT_HEADER.size, -number, unique))

    def _answer(self, message: bytes) -> None:
        try:
            os.write(self.number, message)
        except OSError as error:
            _not_answered(_OUT_HEADER.unpack_from(message)[2], error)

    # What is not data.

    def pass_on(self, request: bytes) -> None:
        """Lets pyfuse3 have a request that is to be answered, when it has answered others."""
        self._backlog.append(request)
        self._pass_on_more()

    def _pass_on_more(self) -> None:
        while self._backlog and len(self._passed_on) < _MOST_PASSED_ON:
            request = self._backlog.popleft()
            opcode, unique = _IN_HEADER.unpack_from(request)
            if opcode == _INIT:
                self._init = unique
            try:
                self._socket.send(request)
            except BlockingIOError:
                # There is room when what is there has been read, and that is before it is answered.
                assert self._passed_on
                self._backlog.appendleft(request)
                return
            except OSError as error:
                _log.error("request %d was not passed on: %s", unique, error)
                self.done(unique, errno.EIO)
            else:
                self._passed_on.add(unique)

    async def pass_back(self) -> None:
        """A task: lets the kernel have what pyfuse3 answers."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            answer = self._socket.recv(_ANSWER_BYTES)
            if not answer:
                return
            _, error, unique = _OUT_HEADER.unpack_from(answer)
            if unique == self._init and not error:
                # Known before the kernel knows it: no request may be longer than its buffer.
                [self.longest_write_bytes] = _MAX_WRITE.unpack_from(answer)
            self._answer(answer)
            self._passed_on.discard(unique)
            self._pass_on_more()

    @property
    def has_passed_on(self) -> bool:
        """True where there are requests that pyfuse3 has not answered."""
        return bool(self._passed_on or self._backlog)


def _not_answered(unique: int, error: OSError) -> None:
    if error.errno not in _NOT_WANTED:
        _log.error("request %d was not answered: %s", unique, error)
