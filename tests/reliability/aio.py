"""Linux's asynchronous I/O, as fio's libaio uses it: any number of requests from one thread."""

import ctypes
import mmap
import os
import platform
import struct
from pathlib import Path
from typing import Final

import attrs

_CALLS: Final = {
    "x86_64": {"setup": 206, "destroy": 207, "getevents": 208, "submit": 209},
    "aarch64": {"setup": 0, "destroy": 1, "submit": 2, "getevents": 4},
}[platform.machine()]
_PREAD, _PWRITE = 0, 1
#: struct iocb: data, key, rw_flags, opcode, reqprio, fd, buf, nbytes, offset, and no eventfd.
_IOCB: Final = struct.Struct("<QIiHhIQQqQII")
_EVENT: Final = struct.Struct("<QQqq")
_libc: Final = ctypes.CDLL(None, use_errno=True)
BLOCK_BYTES: Final = 4096


def _call(name: str, *arguments: object) -> int:
    result = int(_libc.syscall(_CALLS[name], *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


@attrs.define(eq=False)
class Aio:
    """Requests of 4 KiB on one node, O_DIRECT."""

    node: Path
    most: int = 1024
    outstanding: int = 0
    _fd: int = attrs.field(init=False)
    _context: ctypes.c_ulong = attrs.field(init=False, factory=lambda: ctypes.c_ulong(0))
    _memory: mmap.mmap = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._fd = os.open(self.node, os.O_RDWR | os.O_DIRECT)
        self._memory = mmap.mmap(-1, self.most * BLOCK_BYTES)
        _call("setup", self.most, ctypes.byref(self._context))

    def submit(self, count: int, *, write: bool = False, first: int = 0) -> None:
        """So many requests, of the blocks from `first` on."""
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        blocks = [
            _IOCB.pack(
                *(number, 0, 0, _PWRITE if write else _PREAD, 0, self._fd),
                *(base + number * BLOCK_BYTES, BLOCK_BYTES, (first + number) * BLOCK_BYTES),
                *(0, 0, 0),
            )
            for number in range(count)
        ]
        memory = ctypes.create_string_buffer(b"".join(blocks))
        start = ctypes.addressof(memory)
        pointers = (ctypes.c_void_p * count)(*range(start, start + _IOCB.size * count, _IOCB.size))
        done = 0
        while done < count:
            at = ctypes.byref(pointers, done * ctypes.sizeof(ctypes.c_void_p))
            done += _call("submit", self._context, ctypes.c_long(count - done), at)
        self.outstanding += count

    def wait(self, at_least: int | None = None) -> list[int]:
        """Waits for so many to end, or all; returns what each gave: bytes, or a negative errno."""
        count = self.outstanding if at_least is None else at_least
        memory = ctypes.create_string_buffer(_EVENT.size * self.most)
        results: list[int] = []
        while len(results) < count:
            least = ctypes.c_long(count - len(results))
            got = _call("getevents", self._context, least, ctypes.c_long(self.most), memory, None)
            raw = memory.raw[: got * _EVENT.size]
            results += [event[2] for event in _EVENT.iter_unpack(raw)]
        self.outstanding -= len(results)
        return results

    def close(self) -> None:
        _call("destroy", self._context)
        os.close(self._fd)
