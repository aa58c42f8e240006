"""The few system calls that Python's os module leaves out."""

import ctypes
import os
import struct
from typing import Final

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10

#: _IO(0x12, 104) and _IOR(0x12, 114, size_t), linux/fs.h.
BLKSSZGET: Final = 0x1268
BLKGETSIZE64: Final = 0x80081272

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
#: struct statx: stx_mask at 0, stx_btime (seconds, nanoseconds) at 80.
_STATX_MASK = struct.Struct("=I")
_STATX_BTIME_FIELDS = struct.Struct("=qI")

# Loaded without PyDLL, so that the interpreter's lock is free while these wait.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); raises `OSError`."""
    if _libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def birth_time_ns(fd: int) -> int | None:
    """When the file was made, None where the file system does not say."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    result = _libc.statx(
        ctypes.c_int(fd), b"", ctypes.c_int(_AT_EMPTY_PATH), ctypes.c_uint(_STATX_BTIME), buffer
    )
    if result != 0 or not _STATX_MASK.unpack_from(buffer, 0)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _STATX_BTIME_FIELDS.unpack_from(buffer, 80)
    return int(seconds * 10**9 + nanoseconds)
