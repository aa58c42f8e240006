"""Looks before anything is timed whether a contender serves what it was given."""

import errno
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .contenders import Contender
from .kernel import drop_caches
from .loads import Memory
from .processes import BenchmarkError
from .results import Check
from .rows import MIB

_CHUNK_BYTES: Final = MIB


def fill_source(memory: Memory) -> str:
    """Makes the random data that is written everywhere; returns its checksum."""
    digest = hashlib.sha256()
    with memory.source.open("wb") as file:
        for offset in range(0, memory.size_bytes, _CHUNK_BYTES):
            chunk = os.urandom(min(_CHUNK_BYTES, memory.size_bytes - offset))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def check(contender: Contender, memory: Memory, checksum: str) -> Check:
    """Fills it and reads it back, with O_DIRECT where it can, and through the cache.

    Every contender then holds data everywhere: what was never written costs some of them nothing.
    Raises `BenchmarkError` for one that does not give back what it was given.
    """
    size_bytes = contender.file.stat().st_size
    if size_bytes < memory.size_bytes:
        raise BenchmarkError(f"{contender.name}: {size_bytes} bytes, not {memory.size_bytes}")
    direct = _can_direct(contender.file)
    flags = os.O_DIRECT if direct else 0
    _write(contender.file, memory, flags)
    for how, read_flags in (("", flags), (" through the cache", 0)):
        drop_caches(contender.file)
        if _checksum(contender.file, memory.size_bytes, read_flags) != checksum:
            raise BenchmarkError(f"{contender.name}: does not read back{how} what was written")
    verified = f"SHA-256 of {memory.size_bytes // MIB} MiB written and read back"
    return Check(
        contender=contender.name,
        size_bytes=size_bytes,
        direct=direct,
        page_cache=_has_page_cache(contender.file),
        verified=verified,
    )


def check_pattern(contender: Contender, pattern: bytes) -> Check:
    """For a responder: every read gives the beginning of its one buffer."""
    file = contender.file
    for size_bytes in (4096, len(pattern)):
        with _opened(file, os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, size_bytes) as buffer:
            if os.preadv(fd, [buffer], 8192) != size_bytes or buffer[:] != pattern[:size_bytes]:
                raise BenchmarkError(f"{contender.name}: does not give what the responder holds")
    return Check(
        contender=contender.name,
        size_bytes=file.stat().st_size,
        direct=True,
        page_cache=_has_page_cache(file),
        verified="reads of 4 KiB and 1 MiB give the responder's buffer; it keeps no writes",
    )


@contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    fd = os.open(file, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _can_direct(file: Path) -> bool:
    try:
        with _opened(file, os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, 4096) as buffer:
            return os.preadv(fd, [buffer], 0) == 4096
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
            return False
        raise


def _has_page_cache(file: Path) -> bool:
    """A file that its server opens with FOPEN_DIRECT_IO cannot be mapped shared."""
    with _opened(file, os.O_RDWR) as fd:
        try:
            mmap.mmap(fd, 4096).close()
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True


def _write(file: Path, memory: Memory, flags: int) -> None:
    with (
        _opened(memory.source, os.O_RDONLY) as source,
        _opened(file, os.O_WRONLY | flags) as fd,
        # O_DIRECT needs memory that begins with a page.
        mmap.mmap(-1, _CHUNK_BYTES) as buffer,
        memoryview(buffer) as view,
    ):
        for offset in range(0, memory.size_bytes, _CHUNK_BYTES):
            got = os.preadv(source, [buffer], offset)
            if os.pwritev(fd, [view[:got]], offset) != got:
                raise BenchmarkError(f"{file}: a write ended early")
        os.fsync(fd)


def _checksum(file: Path, size_bytes: int, flags: int) -> str:
    digest = hashlib.sha256()
    with (
        _opened(file, os.O_RDONLY | flags) as fd,
        mmap.mmap(-1, _CHUNK_BYTES) as buffer,
        memoryview(buffer) as view,
    ):
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            wanted = min(_CHUNK_BYTES, size_bytes - offset)
            if os.preadv(fd, [view[:wanted]], offset) != wanted:
                raise BenchmarkError(f"{file}: a read ended early")
            digest.update(view[:wanted])
    return digest.hexdigest()
