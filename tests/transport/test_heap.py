"""Memory that a program keeps, buffers that are not zeroed, and those that begin with a page."""

import ctypes

import pytest

from nvmf_transport import heap


@pytest.mark.parametrize("length", [0, 1, 4096, (32 << 10) - 1, 32 << 10, (1 << 20) + 3])
def test_a_fresh_buffer_has_its_length_and_is_like_any_other(length):
    buffer = heap.fresh(length)
    assert type(buffer) is bytearray
    assert len(buffer) == length
    pattern = bytes(at % 251 for at in range(length))
    memoryview(buffer)[:] = pattern
    assert buffer == pattern
    buffer += b"more"
    assert buffer[length:] == b"more"


def test_a_fresh_buffer_that_cannot_be_had_is_a_memory_error():
    with pytest.raises(MemoryError):
        heap.fresh(1 << 62)


@pytest.mark.parametrize("head_bytes", [0, 80, 4095, 4096, 5000])
def test_what_follows_a_head_begins_with_a_page(head_bytes):
    for _ in range(20):
        buffer = heap.fresh(head_bytes + 100 + heap.PAGE_BYTES)
        start = heap.before_a_page(buffer, head_bytes)
        assert 0 <= start < heap.PAGE_BYTES
        assert (address_of(buffer) + start + head_bytes) % heap.PAGE_BYTES == 0


@pytest.mark.parametrize("length", [0, 1, 4096, (32 << 10) - 1, 32 << 10, (1 << 20) + 3])
def test_a_long_buffer_begins_with_a_page(length):
    buffer = heap.fresh_page(length)
    assert memoryview(buffer).nbytes == length
    assert not memoryview(buffer).readonly
    if length >= 32 << 10:
        assert address_of(buffer) % heap.PAGE_BYTES == 0


def address_of(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
