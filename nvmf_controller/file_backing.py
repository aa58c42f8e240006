"""Files and block devices as backing stores.

Every system call that can wait for the medium runs in a thread, because it cannot be interrupted:
a cancelled operation ends when its thread does, and one that had not started is never begun.  What
the page cache has is read without one.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

import trio

from nvmf_transport.errors import ConfigError
from nvmf_transport.wire import Buffer

from . import libc
from .backing import InlineStore

#: Threads of one store: enough to keep a disk busy, few enough to keep two cores responsive.
_THREADS: Final = 16
_ZEROES: Final = bytes(1 << 20)
#: How long to wait for a predecessor on the same file that is just being killed.
_LOCK_WAIT_S: Final = 5.0
_NOT_SUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})

_P = ParamSpec("_P")
_T = TypeVar("_T")


class FileStore:
    """A regular file or a block device, through the page cache.

    The page cache is a volatile cache: an acknowledged write survives the end of this process but
    not of the machine, so `volatile_cache` is true, and `flush` and `fua` go down to the medium.
    """

    def __init__(self, fd: int, path: str, *, size_bytes: int, read_only: bool) -> None:
        self.fd = fd
        self.path = path
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.volatile_cache = not read_only
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._running = 0
        self._closing = False
        self._dsync_flag = os.RWF_DSYNC
        #: The file system takes RWF_NOWAIT (tmpfs does not).
        self._tells_cached = True
        self._flush_error: OSError | None = None

    @classmethod
    async def open(cls, path: str, *, read_only: bool = False) -> Self:
        """Opens and locks `path`; one that cannot be written becomes read-only by itself.

        Raises `ConfigError` where it is neither file nor block device, or in use by another.
        """
        fd, read_only = _open(path, read_only=read_only)
        try:
            size_bytes = await _claim(fd, path, shared=read_only)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path, size_bytes=size_bytes, read_only=read_only)

    @property
    def inline(self) -> InlineStore | None:
        """Reads of what the page cache has; None where the file system cannot say what that is."""
        return self if self._tells_cached else None

    def read_now(self, offset: int, length: int) -> Buffer | None:
        """Returns a range that is in the page cache, None where a thread is to read it.

        A thread costs five times as much as such a read.
        """
        if self._closing:
            return None
        data = bytearray(length)
        try:
            count = os.preadv(self.fd, (data,), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            # Other errors are for the thread to meet again, and to report.
            self._tells_cached = error.errno not in _NOT_SUPPORTED
            return None
        return data if count == length else None

    def write_now(self, offset: int, data: Buffer) -> bool:
        """False: writing waits where too much is dirty, and no file system here says when."""
        del offset, data
        return False

    def device_lba_bytes(self) -> int | None:
        """The logical block size of a block device, None for a file."""
        if not stat.S_ISBLK(os.fstat(self.fd).st_mode):
            return None
        word = fcntl.ioctl(self.fd, libc.BLKSSZGET, bytes(4))
        return int(struct.unpack("=i", word)[0])

    async def read(self, offset: int, length: int) -> Buffer:
        """Returns a range; a file that has become shorter is an input error."""
        return await self._run(self._read, offset, length)

    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        """Replaces a range; with `fua` it is on the medium before this returns."""
        await self._run(self._write, offset, data, fua)

    async def write_zeroes(self, offset: int, length: int, *, deallocate: bool, fua: bool) -> None:
        """Zeroes a range, with a hole where `deallocate` asks for it and the system can."""
        await self._run(self._write_zeroes, offset, length, deallocate, fua)

    async def deallocate(self, offset: int, length: int) -> None:
        """Punches a hole; does nothing where the system cannot."""
        await self._run(self._deallocate, offset, length)

    async def flush(self) -> None:
        """Brings all that was written to the medium."""
        await self._run(self._sync)

    def close(self) -> None:
        """Closes the file, once operations under way have ended."""
        self._closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        # A descriptor closed under a running thread could be another file by the time it is used.
        if self._closing and not self._running and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    async def _run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self._closing:
            raise OSError(errno.EBADF, "closed")
        self._running += 1
        try:
            return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)
        finally:
            self._running -= 1
            self._close_if_idle()

    def _read(self, offset: int, length: int) -> Buffer:
        data = bytearray(length)
        view = memoryview(data)
        done = 0
        while done < length:
            count = os.preadv(self.fd, [view[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, f"{self.path} ends at {offset + done}")
            done += count
        return data

    def _write(self, offset: int, data: Buffer, fua: bool) -> None:
        try:
            self._write_all(offset, data, self._dsync_flag if fua else 0)
        except OSError as error:
            if not fua or not self._dsync_flag or error.errno not in _NOT_SUPPORTED:
                raise
            self._dsync_flag = 0
            self._write_all(offset, data, 0)
        if fua and not self._dsync_flag:
            self._sync()

    def _write_all(self, offset: int, data: Buffer, flags: int) -> None:
        view = memoryview(data)
        end = offset + len(view)
        if end > self.size_bytes:
            raise OSError(errno.ENOSPC, f"{self.path} would grow")
        while view:
            count = os.pwritev(self.fd, [view], offset, flags)
            view = view[count:]
            offset += count

    def _write_zeroes(self, offset: int, length: int, deallocate: bool, fua: bool) -> None:
        modes = [libc.FALLOC_FL_ZERO_RANGE]
        if deallocate:
            modes.insert(0, libc.FALLOC_FL_PUNCH_HOLE)
        if not any(self._fallocate(mode, offset, length) for mode in modes):
            zeroes = memoryview(_ZEROES)
            for at in range(offset, offset + length, len(zeroes)):
                self._write_all(at, zeroes[: offset + length - at], 0)
        if fua:
            self._sync()

    def _deallocate(self, offset: int, length: int) -> None:
        # For a block device, too, this mode promises zeroes, unlike its discard.
        self._fallocate(libc.FALLOC_FL_PUNCH_HOLE, offset, length)

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        try:
            libc.fallocate(self.fd, mode | libc.FALLOC_FL_KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            return False
        return True

    def _sync(self) -> None:
        # After a failed fdatasync the kernel takes the lost pages for clean, and the next call
        # succeeds: whoever asks later must still hear of it.
        if self._flush_error is not None:
            raise OSError(self._flush_error.errno, f"{self.path}: an earlier flush failed")
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            self._flush_error = error
            raise


def _open(path: str, *, read_only: bool) -> tuple[int, bool]:
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        if stat.S_ISBLK(Path(path).stat().st_mode) and not read_only:
            # Refused by the kernel while the device is mounted or otherwise claimed.
            flags |= os.O_EXCL
        return os.open(path, flags), read_only
    except OSError as error:
        if not read_only and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            return _open(path, read_only=True)
        remedy = {
            errno.ENOENT: "give an existing file, a block device or ramdisk:SIZE",
            errno.EBUSY: "unmount it, or serve it with --read-only",
        }.get(error.errno or 0, "give a file or block device that can be opened")
        raise ConfigError(f"{error.strerror}; {remedy}", field="device", value=path) from None


async def _claim(fd: int, path: str, *, shared: bool) -> int:
    """Sees that nobody else serves it; returns its size in bytes."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        await _lock(fd, path, shared=shared)
        return os.fstat(fd).st_size
    if stat.S_ISBLK(mode):
        return _device_bytes(fd)
    raise ConfigError(
        "neither a file nor a block device; give one of these, or ramdisk:SIZE",
        field="device",
        value=path,
    )


async def _lock(fd: int, path: str, *, shared: bool) -> None:
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = trio.current_time() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, mode)
        except BlockingIOError:
            if trio.current_time() >= deadline:
                raise ConfigError(
                    "another process serves this file; end it first", field="device", value=path
                ) from None
        except OSError:
            return  # No locks on this file system.
        else:
            return
        await trio.sleep(0.05)


def _device_bytes(fd: int) -> int:
    return int(struct.unpack("=Q", fcntl.ioctl(fd, libc.BLKGETSIZE64, bytes(8)))[0])
