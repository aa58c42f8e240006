"""What malloc does with memory that a program of this project has freed.

By default it maps large pieces one by one and unmaps them when they are freed, or gives the end of
its heap back at once: every transfer of 1 MiB then begins with 256 page faults, which cost more
than all else that is done for it, several times over in a virtual machine.  So freed memory is
kept, up to a bound, and what a burst has left is given back when there is nothing to do.
"""

import ctypes
import mmap
from typing import Final

#: mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Pieces are mapped one by one from here on: glibc's own upper limit, far above any transfer.
_MMAP_BYTES: Final = 32 << 20
#: As much stays with the process at the end of its heap.
KEPT_BYTES: Final = 64 << 20

PAGE_BYTES: Final = mmap.PAGESIZE
#: From here on it pays not to zero a buffer: below, the call that avoids it costs as much.
_FRESH_BYTES: Final = 32 << 10

_libc = ctypes.CDLL(None, use_errno=True)

#: Python's own `bytearray(n)` zeroes, its C interface does not; an error there raises here.
_resize: Final = ctypes.pythonapi.PyByteArray_Resize
_resize.argtypes = [ctypes.py_object, ctypes.c_ssize_t]


def keep_freed() -> None:
    """Sets the bounds above.  Does nothing where the C library has no mallopt."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def fresh(length_bytes: int) -> bytearray:
    """A buffer with anything in it, even what was freed: for whoever fills all of it, or drops it.

    Zeroing a MiB costs a quarter of receiving it.
    """
    buffer = bytearray(0 if length_bytes >= _FRESH_BYTES else length_bytes)
    if not buffer and length_bytes:
        _resize(buffer, length_bytes)
    return buffer


def before_a_page(buffer: bytearray, head_bytes: int) -> int:
    """Where a head of so many bytes begins in a buffer, so that what follows it begins a page.

    The buffer has to be `PAGE_BYTES` longer than the two of them.  The kernel takes user memory a
    page at a time: what lies across pages on both sides is pinned and copied in twice the pieces.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return -(address + head_bytes) % PAGE_BYTES


def fresh_page(length_bytes: int) -> memoryview | bytearray:
    """A buffer like `fresh`, which begins with a page where that pays."""
    if length_bytes < _FRESH_BYTES:
        return bytearray(length_bytes)
    buffer = fresh(length_bytes + PAGE_BYTES)
    start = before_a_page(buffer, 0)
    return memoryview(buffer)[start : start + length_bytes]


def give_back() -> None:
    """Returns free memory to the kernel, wherever in the heap it is; may take some milliseconds."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
