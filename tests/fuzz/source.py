"""Decisions read from bytes: what turns a fuzzer's mutations into structure.

A harness asks one question after the other, and every answer takes as few bytes as it needs, so
that a mutation of one byte changes one decision.  When the bytes are used up every answer is the
first, 0 or False: the run ends by itself.
"""

from collections.abc import Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")

#: Numbers that code tends to get wrong.
_EDGES = (0, 1, 2, 3, 4, 8, 127, 128, 255, 256, 4095, 4096, 0x7FFF, 0xFFFF, 0x10000)
_WIDE_EDGES = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Source:
    """The bytes of one input, read from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next bytes, fewer where there are no more."""
        piece = self._data[self._at : self._at + count]
        self._at += len(piece)
        return piece

    def integer(self, size: int) -> int:
        """An integer of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def below(self, limit: int) -> int:
        """0 to `limit` - 1."""
        if limit <= 1:
            return 0
        return self.integer(1 if limit <= 256 else 2 if limit <= 65536 else 4) % limit

    def flag(self) -> bool:
        """True or False."""
        return bool(self.below(2))

    def one_in(self, odds: int) -> bool:
        """True once in so many times; False when the bytes are used up."""
        return self.below(odds) == odds - 1

    def pick(self, items: Sequence[ItemT]) -> ItemT:
        """One of several."""
        return items[self.below(len(items))]

    def number(self, bits: int, *near: int) -> int:
        """A number of so many bits: mostly one of `near`, or an edge, or any."""
        mask = (1 << bits) - 1
        kind = self.below(8)
        if near and kind < 5:
            return (self.pick(near) + (0, 0, 0, 1, -1, 2, -2, 4)[self.below(8)]) & mask
        if kind < 7:
            return self.pick(_EDGES + _WIDE_EDGES) & mask
        return self.integer(bits // 8)

    def mutated(self, data: bytes, odds: int = 4) -> bytes:
        """The same bytes, or now and then some of them changed, cut or added."""
        if not data or not self.one_in(odds):
            return data
        out = bytearray(data)
        for _ in range(1 + self.below(3)):
            at = self.below(len(out)) if out else 0
            match self.below(4):
                case 0 if out:
                    out[at] = self.integer(1)
                case 1 if out:
                    out[at] ^= 1 << self.below(8)
                case 2:
                    del out[at : at + 1 + self.below(16)]
                case _:
                    out[at:at] = self.take(1 + self.below(8))
        return bytes(out)
