"""The few calls to the C library that Python has no function for."""

import ctypes
import errno
import os
from typing import Final

MNT_DETACH: Final = 2
_PR_SET_IO_FLUSHER: Final = 57
_CLONE_FILES: Final = 0x400

_libc = ctypes.CDLL(None, use_errno=True)


def detach_mount(directory: str) -> None:
    """umount2(2) with MNT_DETACH.  Raises OSError."""
    _check(_libc.umount2(os.fsencode(directory), MNT_DETACH), directory)


def mount_filesystem(kind: str, directory: str) -> None:
    """mount(2) of a file system that has no source, such as fusectl.  Raises OSError."""
    name = kind.encode()
    _check(_libc.mount(name, os.fsencode(directory), name, ctypes.c_ulong(0), None), directory)


def unshare_descriptors() -> None:
    """Gives the calling thread a copy of the process's descriptors.  Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(_CLONE_FILES)), "unshare")


def set_io_flusher() -> bool:
    """Tells the kernel that this process stands under others' I/O.  False where not allowed.

    Its own allocations then never wait for I/O that may have to come back to it
    (PR_SET_IO_FLUSHER, which needs CAP_SYS_RESOURCE).
    """
    zero = ctypes.c_ulong(0)
    return bool(_libc.prctl(_PR_SET_IO_FLUSHER, ctypes.c_ulong(1), zero, zero, zero) == 0)


def _check(result: int, directory: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), directory)
