"""A volatile write cache in front of a store: what a power failure would take, and `kill -9` takes.

For whoever tests a host: acknowledged writes stay in this process until a Flush, FUA or the bound
brings them to the store.  `lose` drops them, as a power failure does, and tells nobody.
"""

import errno
import itertools
import logging
from bisect import bisect_left, bisect_right
from typing import Final

import attrs
import trio

from nvmf_transport.wire import Buffer

from .backing import BackingStore, InlineStore

_log = logging.getLogger(__name__)

#: The most acknowledged data that one cache keeps from its store.
CACHE_BYTES: Final = 64 << 20
#: What one piece is taken to cost beside its data, so that many small ones are bounded as well.
_PIECE_COST_BYTES: Final = 256


@attrs.frozen(eq=False)
class _Piece:
    """Cached bytes; what is left of a piece that was written over in part keeps its stamp."""

    stamp: int
    data: bytes


class VolatileCache:
    """A `BackingStore` that keeps writes in memory.

    The cache is a list of pieces that do not overlap, by offset.  Everything that changes the store
    (Flush, the bound, FUA, zeroes) runs one at a time, under a lock, and a piece leaves the cache
    only once the store has it, so that a read in between sees it in one of the two.  Stamps tell
    what was there before such a change began from what was written beside it, which stays.
    """

    def __init__(self, store: BackingStore, *, limit_bytes: int = CACHE_BYTES) -> None:
        self.store = store
        self.limit_bytes = limit_bytes
        #: Acknowledged bytes that only this process has.
        self.cached_bytes = 0
        #: How often `lose` was called, and how much it has dropped.
        self.losses = 0
        self.lost_bytes = 0
        self._offsets: list[int] = []
        self._pieces: dict[int, _Piece] = {}
        self._stamps = itertools.count(1)
        self._changing = trio.Lock()

    @property
    def size_bytes(self) -> int:
        """The store's."""
        return self.store.size_bytes

    @property
    def read_only(self) -> bool:
        """The store's."""
        return self.store.read_only

    @property
    def volatile_cache(self) -> bool:
        """True, unless nothing can be written."""
        return not self.store.read_only

    @property
    def inline(self) -> InlineStore | None:
        """None: a write may have to wait for room."""
        return None

    def lose(self) -> int:
        """Drops what is cached, as a power failure does; returns how many bytes that were."""
        lost = self.cached_bytes
        self._offsets.clear()
        self._pieces.clear()
        self.cached_bytes = 0
        self.lost_bytes += lost
        self.losses += 1
        return lost

    async def read(self, offset: int, length: int) -> Buffer:
        """Returns a range: the store's bytes, with those of the cache over them."""
        # The cache first: a piece that is written back meanwhile is then in what was taken here.
        end = offset + length
        cached = [(at, self._pieces[at].data) for at in self._within(offset, end)]
        if len(cached) == 1 and cached[0][0] <= offset and cached[0][0] + len(cached[0][1]) >= end:
            at, data = cached[0]
            await trio.lowlevel.checkpoint()
            return data[offset - at : end - at]
        stored = await self.store.read(offset, length)
        if not cached:
            return stored
        merged = bytearray(stored)
        for at, data in cached:
            low, high = max(at, offset), min(at + len(data), end)
            merged[low - offset : high - offset] = data[low - at : high - at]
        return merged

    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        """Keeps the data; with `fua` it goes on to the medium at once."""
        kept, stamp = bytes(data), next(self._stamps)
        self._drop(offset, len(kept), stamp)
        self._insert(offset, _Piece(stamp, kept))
        if fua:
            async with self._changing:
                await self.store.write(offset, kept, fua=True)
                self._drop(offset, len(kept), stamp)
        elif self._cost > self.limit_bytes:
            async with self._changing:
                await self._write_back(0, self.size_bytes, keep_cost=self.limit_bytes // 2)
        else:
            await trio.lowlevel.checkpoint()

    async def write_zeroes(self, offset: int, length: int, *, deallocate: bool, fua: bool) -> None:
        """Zeroes the store at once: a cache may keep less than it could."""
        stamp = next(self._stamps)
        async with self._changing:
            await self.store.write_zeroes(offset, length, deallocate=deallocate, fua=fua)
            self._drop(offset, length, stamp)

    async def deallocate(self, offset: int, length: int) -> None:
        """Frees the range; what is cached there goes to the store first.

        A store may leave a freed range as it is, and then the newest data has to be there.
        """
        async with self._changing:
            await self._write_back(offset, offset + length)
            await self.store.deallocate(offset, length)

    async def flush(self) -> None:
        """Brings all that was acknowledged before this call to the medium."""
        losses = self.losses
        async with self._changing:
            await self._write_back(0, self.size_bytes)
            await self.store.flush()
        if self.losses != losses:
            raise OSError(errno.EIO, "the volatile cache was lost during a flush")

    def close(self) -> None:
        """Closes the store.  What was not flushed is lost."""
        if self.cached_bytes:
            _log.warning("%d bytes were not flushed and are lost", self.cached_bytes)
        self.store.close()

    @property
    def _cost(self) -> int:
        return self.cached_bytes + _PIECE_COST_BYTES * len(self._pieces)

    def _within(self, start: int, end: int) -> list[int]:
        """Offsets of the pieces that overlap a range."""
        first = bisect_right(self._offsets, start)
        if first:
            before = self._offsets[first - 1]
            if before + len(self._pieces[before].data) > start:
                first -= 1
        return self._offsets[first : bisect_left(self._offsets, end)]

    def _insert(self, offset: int, piece: _Piece) -> None:
        if piece.data:
            self._offsets.insert(bisect_left(self._offsets, offset), offset)
            self._pieces[offset] = piece
            self.cached_bytes += len(piece.data)

    def _remove(self, offset: int) -> _Piece:
        del self._offsets[bisect_left(self._offsets, offset)]
        piece = self._pieces.pop(offset)
        self.cached_bytes -= len(piece.data)
        return piece

    def _drop(self, offset: int, length: int, stamp: int) -> None:
        """Forgets what a range has up to a stamp; a piece that reaches out of it keeps the rest."""
        end = offset + length
        for at in self._within(offset, end):
            if self._pieces[at].stamp > stamp:
                continue
            piece = self._remove(at)
            self._insert(at, _Piece(piece.stamp, piece.data[: max(0, offset - at)]))
            self._insert(end, _Piece(piece.stamp, piece.data[max(0, end - at) :]))

    async def _write_back(self, start: int, end: int, *, keep_cost: int = 0) -> None:
        """Writes pieces to the store, the oldest first, until no more than `keep_cost` is left.

        Only what was there at the call: those who write meanwhile cannot hold it up for ever.
        """
        last = next(self._stamps)
        while due := sorted(
            (piece.stamp, at)
            for at in self._within(start, end)
            if (piece := self._pieces[at]).stamp < last
        ):
            # Whoever writes over a part meanwhile leaves the rest for the next round.
            for _, at in due:
                if keep_cost and self._cost <= keep_cost:
                    return
                old = self._pieces.get(at)
                if old is not None and old.stamp < last:
                    await self.store.write(at, old.data, fua=False)
                    self._drop(at, len(old.data), old.stamp)
