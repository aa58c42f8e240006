"""Memory that a program keeps, and buffers that are not zeroed."""

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
