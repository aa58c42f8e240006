"""A bound on memory: what waits for room gets it in the order of asking."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class MemoryBudget:
    """Bytes of data that one association may have in hand, or asked its host for, at a time.

    An R2T is a promise of memory; without a bound, one host with deep queues takes it all.  Data in
    capsules has a budget of its own: whoever waits there holds up the queue, and with it the data
    that those in the other budget may be waiting for.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @asynccontextmanager
    async def reserve(self, length_bytes: int) -> AsyncIterator[None]:
        """Holds `length_bytes` (or the whole budget, if that is less) inside the block."""
        share = await self.acquire(length_bytes)
        try:
            yield
        finally:
            self.release(share)

    async def acquire(self, length_bytes: int) -> int:
        """Waits for room; returns the share that `release` gives back.  Yields only to wait."""
        share = min(length_bytes, self.limit_bytes)
        if self._waiting or self.used_bytes + share > self.limit_bytes:
            await self._wait(share)
        else:
            self.used_bytes += share
        return share

    def release(self, share: int) -> None:
        """Gives a share back."""
        self.used_bytes -= share
        self._admit()

    async def _wait(self, share: int) -> None:
        granted = trio.Event()
        place = (share, granted)
        self._waiting.append(place)
        try:
            await granted.wait()
        except trio.Cancelled:
            # Whoever left the queue may have been what the others waited behind.
            if granted.is_set():
                self.used_bytes -= share
            else:
                self._waiting.remove(place)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.used_bytes + self._waiting[0][0] <= self.limit_bytes:
            share, granted = self._waiting.popleft()
            self.used_bytes += share
            granted.set()
