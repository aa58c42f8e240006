"""Sizes for people."""

from typing import Final

_UNITS: Final = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


def human_bytes(count: int) -> str:
    """A size in the largest unit (powers of 1024) that leaves at least 1, with one digit at most
    after the point."""
    step = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count / (1 << 10 * step):.1f}".removesuffix(".0") + _UNITS[step]
