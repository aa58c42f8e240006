"""The kernel's side of /dev/fuse, played over a socket that keeps messages apart.

The structures are those of linux/fuse.h, field by field: nothing here is the daemon's own.
"""

import contextlib
import ctypes
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import attrs

from fusedev.device import Device

LOOKUP, FORGET, GETATTR, READ, WRITE, FSYNC, INIT = 1, 2, 3, 15, 16, 20, 26
INTERRUPT, BATCH_FORGET = 36, 42
_BYTES: Final = 1 << 20


class InHeader(ctypes.Structure):
    """struct fuse_in_header."""

    _fields_: ClassVar[Any] = (
        ("len", ctypes.c_uint32),
        ("opcode", ctypes.c_uint32),
        ("unique", ctypes.c_uint64),
        ("nodeid", ctypes.c_uint64),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("total_extlen", ctypes.c_uint16),
        ("padding", ctypes.c_uint16),
    )


class ReadIn(ctypes.Structure):
    """struct fuse_read_in."""

    _fields_: ClassVar[Any] = (
        ("fh", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("read_flags", ctypes.c_uint32),
        ("lock_owner", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class WriteIn(ctypes.Structure):
    """struct fuse_write_in."""

    _fields_: ClassVar[Any] = (
        ("fh", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("write_flags", ctypes.c_uint32),
        ("lock_owner", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class FsyncIn(ctypes.Structure):
    """struct fuse_fsync_in."""

    _fields_: ClassVar[Any] = (
        ("fh", ctypes.c_uint64),
        ("fsync_flags", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class ForgetIn(ctypes.Structure):
    """struct fuse_forget_in."""

    _fields_: ClassVar[Any] = (("nlookup", ctypes.c_uint64),)


class BatchForgetIn(ctypes.Structure):
    """struct fuse_batch_forget_in."""

    _fields_: ClassVar[Any] = (("count", ctypes.c_uint32), ("dummy", ctypes.c_uint32))


class ForgetOne(ctypes.Structure):
    """struct fuse_forget_one."""

    _fields_: ClassVar[Any] = (("nodeid", ctypes.c_uint64), ("nlookup", ctypes.c_uint64))


class OutHeader(ctypes.Structure):
    """struct fuse_out_header."""

    _fields_: ClassVar[Any] = (
        ("len", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("unique", ctypes.c_uint64),
    )


class WriteOut(ctypes.Structure):
    """struct fuse_write_out."""

    _fields_: ClassVar[Any] = (("size", ctypes.c_uint32), ("padding", ctypes.c_uint32))


class InitOut(ctypes.Structure):
    """struct fuse_init_out, up to what is of interest here."""

    _fields_: ClassVar[Any] = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("max_readahead", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("max_background", ctypes.c_uint16),
        ("congestion_threshold", ctypes.c_uint16),
        ("max_write", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 10),
    )


def answer(unique: int, data: bytes = b"", error: int = 0) -> bytes:
    """What the kernel is to get for a request; `error` is an errno."""
    length = ctypes.sizeof(OutHeader) + len(data)
    return bytes(OutHeader(len=length, error=-error, unique=unique)) + data


def written(unique: int, size: int) -> bytes:
    """The answer to a write."""
    return answer(unique, bytes(WriteOut(size=size)))


@attrs.define(eq=False)
class Kernel:
    """Makes requests, and sees their answers; `theirs` is the end that pyfuse3 would have."""

    device: Device
    theirs: socket.socket
    _socket: socket.socket = attrs.field(alias="socket")
    _numbers: Iterator[int] = attrs.field(init=False, factory=lambda: itertools.count(2, 2))

    def request(self, opcode: int, *body: bytes | ctypes.Structure, node: int = 7) -> int:
        """Makes one; returns its number."""
        unique = next(self._numbers)
        rest = b"".join(map(bytes, body))
        header = InHeader(
            len=ctypes.sizeof(InHeader) + len(rest),
            opcode=opcode,
            unique=unique,
            nodeid=node,
            uid=1,
            gid=2,
            pid=3,
        )
        self._socket.send(bytes(header) + rest)
        return unique

    def read(self, handle: int, offset: int, size: int) -> int:
        # The owner of locks and all flags are there to be mistaken for something else.
        return self.request(
            READ,
            ReadIn(
                fh=handle,
                offset=offset,
                size=size,
                read_flags=2,
                lock_owner=2**64 - 1,
                flags=2**16 - 1,
            ),
        )

    def write(self, handle: int, offset: int, data: bytes, flags: int = os.O_RDWR) -> int:
        return self.request(
            WRITE,
            WriteIn(
                fh=handle,
                offset=offset,
                size=len(data),
                write_flags=2**32 - 1,
                lock_owner=2**64 - 1,
                flags=flags,
            ),
            data,
        )

    def fsync(self, handle: int) -> int:
        return self.request(FSYNC, FsyncIn(fh=handle))

    def waiting(self) -> list[bytes]:
        """The answers that are there."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(_BYTES))
        return found

    def passed_on(self) -> list[bytes]:
        """What pyfuse3 has got."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.theirs.recv(_BYTES))
        return found


@contextlib.contextmanager
def playing() -> Iterator[Kernel]:
    """A device, with both of its other ends."""
    sockets = [
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ]
    for each in sockets:
        each.setblocking(False)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BYTES)
    near, far, ours, theirs = sockets
    try:
        yield Kernel(Device(near.fileno(), ours), theirs, far)
    finally:
        for each in sockets:
            each.close()
