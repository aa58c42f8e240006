"""Where the blocks are: the interface of backing stores, and the RAM disk.

A store knows bytes, not blocks; offsets and lengths were checked before it is called.  Errors of
the system come out as `OSError` and become NVMe statuses in `io_commands`.
"""

import mmap
from typing import Final, Protocol

import trio

from nvmf_transport.wire import Buffer

#: Work on memory is done in pieces of this size, so that other tasks get their turn.
_PIECE_BYTES: Final = 16 << 20
#: mmap(2); a large, mostly empty disk shall not need that much memory.  Not in Python's mmap.
_MAP_NORESERVE: Final = 0x4000


class BackingStore(Protocol):
    """What a namespace keeps its blocks in.

    Cancelling an operation does not return before it can no longer touch the medium: it was never
    begun, or it is finished.
    """

    @property
    def size_bytes(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def volatile_cache(self) -> bool:
        """True where an acknowledged write can be lost before the next `flush`."""

    @property
    def inline(self) -> "InlineStore | None":
        """The same store's operations that never wait, where it has some."""

    async def read(self, offset: int, length: int) -> Buffer: ...
    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None: ...
    async def write_zeroes(
        self, offset: int, length: int, *, deallocate: bool, fua: bool
    ) -> None: ...
    async def deallocate(self, offset: int, length: int) -> None:
        """Frees a range, which then reads as zeroes, or leaves it as it is."""

    async def flush(self) -> None: ...
    def close(self) -> None:
        """Lets go of the medium, once operations under way have ended."""


class InlineStore(Protocol):
    """Operations that are done at once or not at all: no task, no thread, no wait per command.

    Where they are not done, those of `BackingStore` are to be called.
    """

    def read_now(self, offset: int, length: int) -> Buffer | None:
        """Returns a copy, which must not change while it is sent; None where it would wait."""

    def write_now(self, offset: int, data: Buffer) -> bool:
        """Replaces a range, with FUA; False where it would wait."""


class RamDisk:
    """Zero-filled memory, taken from the system only where something was written."""

    def __init__(self, size_bytes: int) -> None:
        self._memory = mmap.mmap(
            -1,
            size_bytes,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
        )
        self.size_bytes = size_bytes
        self.read_only = False
        # Write-through by nature: what is acknowledged is where it will ever be.  It dies with the
        # process, but a Flush could not change that.
        self.volatile_cache = False

    @property
    def inline(self) -> InlineStore:
        """Memory never waits."""
        return self

    def read_now(self, offset: int, length: int) -> bytes:
        """Returns a copy of a range."""
        return self._memory[offset : offset + length]

    def write_now(self, offset: int, data: Buffer) -> bool:
        """Replaces a range."""
        self._memory[offset : offset + len(data)] = data
        return True

    async def read(self, offset: int, length: int) -> Buffer:
        """Returns a copy of a range."""
        return self.read_now(offset, length)

    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        """Replaces a range."""
        del fua
        self.write_now(offset, data)

    async def write_zeroes(self, offset: int, length: int, *, deallocate: bool, fua: bool) -> None:
        """Zeroes a range; whole pages go back to the system."""
        del deallocate, fua
        end = offset + length
        while offset < end:
            piece = min(_PIECE_BYTES, end - offset)
            self._zero(offset, piece)
            offset += piece
            await trio.lowlevel.checkpoint()

    def _zero(self, offset: int, length: int) -> None:
        end = offset + length
        first_page = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last_page = end // mmap.PAGESIZE * mmap.PAGESIZE
        if first_page >= last_page:
            self._memory[offset:end] = bytes(length)
            return
        # Private anonymous memory reads as zeroes after this (madvise(2)).
        self._memory.madvise(mmap.MADV_DONTNEED, first_page, last_page - first_page)
        self._memory[offset:first_page] = bytes(first_page - offset)
        self._memory[last_page:end] = bytes(end - last_page)

    async def deallocate(self, offset: int, length: int) -> None:
        """Zeroes a range."""
        await self.write_zeroes(offset, length, deallocate=True, fua=False)

    async def flush(self) -> None:
        """Does nothing: there is no cache."""

    def close(self) -> None:
        """Frees the memory."""
        self._memory.close()
