"""Identify data, lists and logs: what they mean, and what hostile ones are answered with."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmf_transport.errors import MalformedStructureError, RemoteProtocolError
from nvmf_transport.identify import (
    DescriptorType,
    IdentifyController,
    IdentifyNamespace,
    LbaFormat,
    pack_namespace_descriptors,
    pack_namespace_list,
    unpack_namespace_descriptors,
    unpack_namespace_list,
)
from nvmf_transport.logs import (
    AnaGroup,
    AnaGroupHeader,
    AnaLogHeader,
    AnaState,
    pack_ana_log,
    unpack_ana_log,
)
from nvmf_transport.nvme import NvmOpcode, SubmissionEntry

UUID = bytes(range(1, 17))
NGUID = bytes(range(17, 33))
EUI64 = bytes(range(33, 41))


def descriptor(nidt: int, nid: bytes, nidl: int | None = None) -> bytes:
    return bytes((nidt, len(nid) if nidl is None else nidl, 0, 0)) + nid


def test_namespace_descriptors_come_back():
    pairs = {
        DescriptorType.EUI64: EUI64,
        DescriptorType.NGUID: NGUID,
        DescriptorType.UUID: UUID,
        DescriptorType.CSI: b"\0",
    }
    packed = pack_namespace_descriptors(pairs.items())

    assert len(packed) == 4096
    assert unpack_namespace_descriptors(packed) == pairs


def test_an_identifier_of_zeroes_is_none():
    body = descriptor(DescriptorType.UUID, bytes(16)) + descriptor(DescriptorType.EUI64, EUI64)

    assert unpack_namespace_descriptors(body) == {DescriptorType.EUI64: EUI64}


def test_unknown_descriptor_types_are_kept():
    body = descriptor(0x77, b"abc") + descriptor(DescriptorType.UUID, UUID)

    assert unpack_namespace_descriptors(body) == {0x77: b"abc", DescriptorType.UUID: UUID}


@pytest.mark.parametrize("body", [b"", b"\0" * 4096, b"\1", b"\1\x08\0"])
def test_no_descriptors(body):
    assert unpack_namespace_descriptors(body) == {}


@pytest.mark.parametrize(
    "body",
    [
        descriptor(DescriptorType.UUID, UUID[:8]),
        descriptor(DescriptorType.EUI64, NGUID),
        descriptor(DescriptorType.CSI, b"\0\0"),
        descriptor(DescriptorType.UUID, b""),
        descriptor(DescriptorType.UUID, UUID[:12], nidl=16),
        descriptor(0x77, b"abc", nidl=255),
        descriptor(DescriptorType.UUID, UUID) + descriptor(DescriptorType.NGUID, NGUID[:3]),
    ],
)
def test_descriptors_with_a_wrong_length_break_the_protocol(body):
    with pytest.raises(RemoteProtocolError, match="namespace identification descriptor at"):
        unpack_namespace_descriptors(body)


@given(st.binary(max_size=200))
def test_any_descriptor_list_decodes_or_breaks_the_protocol(body):
    try:
        found = unpack_namespace_descriptors(body)
    except RemoteProtocolError:
        return

    assert sum(len(value) for value in found.values()) <= len(body)


@given(st.lists(st.integers(1, 0xFFFFFFFE), max_size=1024))
def test_namespace_lists_come_back(nsids):
    packed = pack_namespace_list(nsids)

    assert len(packed) == 4096
    assert unpack_namespace_list(packed) == nsids


def test_a_namespace_list_ends_at_its_first_zero_or_its_last_whole_entry():
    assert unpack_namespace_list(struct.pack("<4I", 5, 6, 0, 7)) == [5, 6]
    assert unpack_namespace_list(struct.pack("<2I", 5, 6) + b"\1\1\1") == [5, 6]
    assert unpack_namespace_list(b"") == []


def test_a_namespace_list_has_room_for_1024():
    with pytest.raises(ValueError, match="1025"):
        pack_namespace_list(range(1, 1026))


def test_lba_formats():
    fourk = LbaFormat(metadata_bytes=8, lbads=12, relative_performance=2)
    namespace = IdentifyNamespace(
        nlbaf=1, flbas=1, lbaf=(LbaFormat(0, 9).to_word(), fourk.to_word(), *[0] * 62)
    )

    assert IdentifyNamespace.unpack(namespace.pack()).lba_format == fourk
    assert fourk.lba_bytes == 4096
    assert LbaFormat.from_word(0).lba_bytes == 0


def test_an_unbelievable_lba_size_is_not_in_use():
    """LBADS of 255 would make integers of 256 bits out of every size."""
    assert LbaFormat(0, 255).lba_bytes == 0


@pytest.mark.parametrize(
    ("nlbaf", "nulbaf", "flbas", "index"),
    [(15, 0, 0x2F, 15), (16, 0, 0x20, 16), (8, 8, 0x21, 17), (63, 0, 0x6F, 63)],
)
def test_high_bits_of_the_format_count_only_beyond_sixteen_formats(nlbaf, nulbaf, flbas, index):
    assert IdentifyNamespace(nlbaf=nlbaf, nulbaf=nulbaf, flbas=flbas).format_index == index


def test_bits_of_identify_controller():
    controller = IdentifyController(vwc=0b111, ctratt=IdentifyController.CTRATT_TBKAS)

    assert (controller.vwc_present, controller.vwc_flush_all, controller.tbkas) == (1, 3, 1)


def test_starting_lba_spans_two_dwords():
    entry = SubmissionEntry(opc=NvmOpcode.READ, cdw10=1, cdw11=2)

    assert entry.slba == 0x2_0000_0001
    assert entry.psdt == 1


def test_ana_logs_come_back():
    groups = [
        AnaGroup(1, AnaState.OPTIMIZED, (1, 2, 3), 7),
        AnaGroup(2, AnaState.CHANGE, (), 8),
    ]

    assert unpack_ana_log(pack_ana_log(9, groups)) == (9, groups)


def test_ana_state_is_the_low_nibble():
    body = AnaLogHeader(groups=1).pack() + AnaGroupHeader(group_id=1, state=0xF1).pack()

    assert unpack_ana_log(body)[1][0].state == AnaState.OPTIMIZED


def test_ana_groups_past_the_log_break_the_protocol():
    body = AnaLogHeader(groups=1).pack() + AnaGroupHeader(group_id=4, nsid_count=2**32 - 1).pack()

    with pytest.raises(RemoteProtocolError, match="ANA group 4 names 4294967295 NSIDs"):
        unpack_ana_log(body + bytes(64))
    with pytest.raises(MalformedStructureError, match="AnaGroupHeader"):
        unpack_ana_log(AnaLogHeader(groups=2).pack() + AnaGroupHeader().pack())


@given(st.binary(max_size=300))
def test_any_ana_log_decodes_or_breaks_the_protocol(body):
    try:
        _, groups = unpack_ana_log(body)
    except RemoteProtocolError:
        return

    assert 16 + 32 * len(groups) + 4 * sum(len(group.nsids) for group in groups) <= len(body)
