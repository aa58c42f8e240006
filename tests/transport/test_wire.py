"""The declarations of wire structures: what is checked when, and what comes back."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmf_transport.errors import MalformedStructureError
from nvmf_transport.wire import (
    Bits,
    Register,
    WireStruct,
    array_text,
    array_u32,
    raw,
    text,
    u8,
    u16,
    u32,
    u128,
    utf8,
    uuid_text,
)
from tests.transport.strategies import all_structures, instances


@attrs.frozen
class Sample(WireStruct):
    SIZE = 64

    first: int = u8(0, 7)
    word: int = u32(4)
    name: str = text(8, 8)
    nqn: str = utf8(16, 8)
    opaque: bytes = raw(24, 4)
    big: int = u128(32)
    words: tuple[int, ...] = array_u32(48, 2)
    names: tuple[str, ...] = array_text(56, 2, 3)


def test_every_structure_is_found():
    assert len(all_structures()) >= 17


@pytest.mark.parametrize("struct", all_structures(), ids=lambda s: s.__name__)
def test_packs_to_its_size(struct):
    assert len(struct().pack()) == struct.SIZE


@pytest.mark.parametrize("struct", all_structures(), ids=lambda s: s.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_packed_comes_back(struct, data):
    instance = data.draw(instances(struct))

    assert struct.unpack(instance.pack()) == instance


@pytest.mark.parametrize("struct", all_structures(), ids=lambda s: s.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_any_bytes_decode_and_short_ones_are_malformed(struct, data):
    # Long runs of random bytes are slow to draw; a repeated piece finds the same faults.
    piece = data.draw(st.binary(min_size=1, max_size=64))
    length = data.draw(st.integers(0, struct.SIZE + 8))
    buffer = (piece * (length // len(piece) + 1))[:length]
    if length < struct.SIZE:
        with pytest.raises(MalformedStructureError, match=struct.__name__):
            struct.unpack(buffer)
    else:
        struct.unpack(buffer)
        struct.unpack(memoryview(bytearray(buffer)))


def test_offset_counts_from_the_buffers_start():
    packed = Sample(word=0x01020304).pack()

    assert Sample.unpack(b"xxx" + packed, 3).word == 0x01020304
    with pytest.raises(MalformedStructureError, match="63 bytes"):
        Sample.unpack(b"xx" + packed, 3)


def test_bytes_stand_where_the_declaration_says():
    packed = Sample(
        word=0x01020304,
        name="ab",
        nqn="ü",
        opaque=b"WXYZ",
        big=1 << 120,
        words=(1, 2),
        names=("a", "bcd"),
    ).pack()

    assert packed[:8] == b"\x07\0\0\0\x04\x03\x02\x01"
    assert packed[8:16] == b"ab      "
    assert packed[16:24] == b"\xc3\xbc\0\0\0\0\0\0"
    assert packed[24:32] == b"WXYZ\0\0\0\0"
    assert packed[32:48] == bytes(15) + b"\1"
    assert packed[48:56] == b"\1\0\0\0\2\0\0\0"
    assert packed[56:] == b"a  bcd\0\0"


def test_overlap_is_found_when_the_class_is_made():
    with pytest.raises(TypeError, match=r"Overlapping\.second overlaps"):

        @attrs.frozen
        class Overlapping(WireStruct):
            SIZE = 8
            first: int = u32(0)
            second: int = u16(3)


def test_fields_past_size_are_found_when_the_class_is_made():
    with pytest.raises(TypeError, match="TooSmall has 8 bytes of fields, SIZE is 7"):

        @attrs.frozen
        class TooSmall(WireStruct):
            SIZE = 7
            word: int = u32(4)


def test_offsets_sizes_and_reserved_ranges():
    assert Sample.offset_of("nqn") == 16
    assert Sample.size_of("words") == 8
    assert Sample.reserved_ranges() == [(1, 4), (28, 32), (62, 64)]


@pytest.mark.parametrize(
    "values",
    [
        {"name": "123456789"},
        {"nqn": "12345678"},
        {"opaque": b"123"},
        {"names": ("abcd", "")},
        {"names": ("a",)},
    ],
)
def test_values_that_do_not_fit_are_refused(values):
    with pytest.raises(ValueError, match=r"bytes|strings"):
        Sample(**values).pack()


def test_text_from_the_network_cannot_reach_the_terminal():
    packed = bytearray(Sample().pack())
    packed[8:16] = b" \x1b[2J\xffz\0"

    assert Sample.unpack(packed).name == "?[2J\N{REPLACEMENT CHARACTER}z"


def test_a_string_without_nul_is_seen_whole():
    packed = bytearray(Sample().pack())
    packed[16:24] = b"abcdefg\xff"

    assert Sample.unpack(packed).nqn == "abcdefg\udcff"


class Flags(Register):
    low = Bits("value", 3, 0)
    bit = Bits("value", 4)
    high = Bits("value", 63, 32)


def test_registers_read_and_replace_bits():
    register = Flags.of(low=5, high=0xFFFFFFFF)

    assert register.value == 0xFFFFFFFF_00000005
    assert (register.low, register.bit, register.high) == (5, 0, 0xFFFFFFFF)
    assert register.replace(low=0, bit=1).value == 0xFFFFFFFF_00000010
    assert register.low == 5


@pytest.mark.parametrize("values", [{"low": 16}, {"bit": 2}, {"bit": -1}])
def test_registers_refuse_what_does_not_fit(values):
    with pytest.raises(ValueError, match="does not fit"):
        Flags.of(**values)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 15))
def test_replacing_bits_leaves_the_others(word, value):
    changed = Flags(word).replace(low=value)

    assert changed.low == value
    assert changed.value & ~0xF == word & ~0xF


def test_uuid_bytes_are_in_the_order_of_the_text():
    assert uuid_text(bytes(range(16))) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
