"""The compiled structs of the hot paths are the declared structures, byte for byte."""

import pytest

from nvmf_tcp import pdu
from nvmf_tcp.digest import crc32c, crc32c_of, digest_bytes
from nvmf_tcp.pdu import PduType
from nvmf_tcp.transfer import slices
from nvmf_transport.nvme import CompletionEntry, SubmissionEntry

WORD = pdu.first_word(0x07, 0x0C, 24, 28)


def test_data_header_equals_its_declaration():
    declared = pdu.DataHeader(
        pdu_type=7, flags=0xC, hlen=24, pdo=28, plen=99, cccid=1, ttag=2, datao=3, datal=4
    ).pack()

    assert declared == pdu.DATA.pack(WORD, 99, 1, 2, 3, 4)
    assert pdu.DATA_SPECIFIC.unpack_from(declared, 8) == (1, 2, 3, 4)
    assert pdu.COMMON.unpack_from(declared) == (WORD, 99)


def test_r2t_header_equals_its_declaration():
    declared = pdu.R2THeader(
        pdu_type=9, hlen=24, plen=24, cccid=0xFFFF, ttag=0xFFFE, r2to=1 << 31, r2tl=7
    ).pack()

    assert declared == pdu.DATA.pack(pdu.first_word(9, 0, 24, 0), 24, 0xFFFF, 0xFFFE, 1 << 31, 7)


def test_response_capsule_equals_its_declaration_and_the_completion_entry():
    declared = pdu.CapsuleRespHeader(
        pdu_type=5, hlen=24, plen=24, result=1, result_high=2, sqhd=3, sqid=4, cid=5, status_field=6
    ).pack()
    entry = CompletionEntry(result=1 | 2 << 32, sqhd=3, sqid=4, cid=5, status_field=6).pack()

    assert declared == pdu.CAPSULE_RESP.pack(
        pdu.first_word(5, 0, 24, 0), 24, 1 | 2 << 32, 3, 4, 5, 6
    )
    assert declared[8:] == entry
    assert pdu.COMPLETION.unpack(entry) == (1 | 2 << 32, 3, 4, 5, 6)


def test_sgl_and_cid_stand_where_the_submission_entry_has_them():
    entry = bytearray(64)
    pdu.SGL.pack_into(entry, pdu.SGL_OFFSET, 1 << 40, 4096, 0x5A << 24)
    pdu.SQE_CID.pack_into(entry, pdu.SQE_CID_OFFSET, 0x1234)
    decoded = SubmissionEntry.unpack(entry)

    assert (decoded.sgl_address, decoded.sgl_length, decoded.sgl_id) == (1 << 40, 4096, 0x5A)
    assert decoded.cid == 0x1234


@pytest.mark.parametrize(
    ("structure", "size"),
    [
        (pdu.CommonHeader, 8),
        (pdu.IcReq, 128),
        (pdu.IcResp, 128),
        (pdu.TermReq, 24),
        (pdu.DataHeader, 24),
        (pdu.R2THeader, 24),
        (pdu.CapsuleRespHeader, 24),
    ],
)
def test_sizes_are_the_specifications(structure, size):
    assert len(structure().pack()) == size


def test_every_type_has_a_length_and_a_label():
    assert set(pdu.HLEN) == set(PduType)
    assert PduType.H2C_TERM_REQ.label == "H2CTermReq"


@pytest.mark.parametrize(
    ("fes", "text"),
    [
        (1, "Invalid PDU Header Field, at byte 8"),
        (2, "PDU Sequence Error"),
        (3, "Header Digest Error, received digest 00000008h"),
        (4, "Data Transfer Out of Range"),
        (5, "Data Transfer or R2T Limit Exceeded"),
        (6, "Unsupported Parameter, at byte 8"),
        (0x77, "Fatal Error Status 77h, information 00000008h"),
    ],
)
def test_a_fatal_error_is_named_in_words(fes, text):
    assert pdu.fatal_error_text(fes, 8) == text


def test_crc32c_has_the_check_value_of_rfc_3720_and_goes_on_over_buffers():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c_of([b"1234", memoryview(b"567"), bytearray(b"89")]) == 0xE3069283
    assert digest_bytes(bytes(32)) == bytes.fromhex("aa36918a")


@pytest.mark.parametrize("piece", [1, 3, 4, 7, 10, 11])
def test_slices_cut_the_concatenation(piece):
    pieces = list(slices([b"abc", b"", b"defg", b"hij"], piece))

    assert b"".join(b"".join(buffers) for _, buffers in pieces) == b"abcdefghij"
    assert [length for length, _ in pieces[:-1]] == [piece] * (len(pieces) - 1)
    assert all(length == sum(map(len, buffers)) for length, buffers in pieces)
