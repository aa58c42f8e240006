"""Offsets and sizes of every field, against a table written from the specifications.

The table stands apart from the declarations on purpose: it was not made from them.  Sizes and
offsets are bytes, in decimal, as the figures of NVMe Base 2.1 (2.3 for CIU, CIRN, CQT, CCRL and
Cross-Controller Reset), NVM Command Set 1.1 and NVMe over Fabrics give them.
"""

import pytest

from nvmf_transport.nvme import Cap, Cc, Csts, Vs
from nvmf_transport.wire import Bits, WireStruct
from tests.transport.strategies import all_structures

# A structure's size, then "field offset size" for each field.
SQE_HEAD = "opc 0 1, flags 1 1, cid 2 2"
SGL = "sgl_address 24 8, sgl_length 32 4, sgl_id 39 1"
TABLE = {
    "SubmissionEntry": (
        64,
        f"{SQE_HEAD}, nsid 4 4, cdw2 8 4, cdw3 12 4, mptr 16 8, {SGL}, cdw10 40 4, cdw11 44 4,"
        " cdw12 48 4, cdw13 52 4, cdw14 56 4, cdw15 60 4",
    ),
    "CompletionEntry": (16, "result 0 8, sqhd 8 2, sqid 10 2, cid 12 2, status_field 14 2"),
    "CrossControllerResetCommand": (64, f"{SQE_HEAD}, icid 40 2, ciu 42 1, cirn 48 8"),
    "DsmRange": (16, "attributes 0 4, length_lbas 4 4, slba 8 8"),
    "FabricsCommand": (64, f"{SQE_HEAD}, fctype 4 1"),
    "ConnectCommand": (
        64,
        f"{SQE_HEAD}, fctype 4 1, {SGL}, recfmt 40 2, qid 42 2, sqsize 44 2, cattr 46 1, kato 48 4",
    ),
    "ConnectData": (1024, "hostid 0 16, cntlid 16 2, subnqn 256 256, hostnqn 512 256"),
    "PropertyGetCommand": (64, f"{SQE_HEAD}, fctype 4 1, attrib 40 1, ofst 44 4"),
    "PropertySetCommand": (64, f"{SQE_HEAD}, fctype 4 1, attrib 40 1, ofst 44 4, value 48 8"),
    "DiscoveryLogHeader": (1024, "genctr 0 8, numrec 8 8, recfmt 16 2"),
    "DiscoveryLogEntry": (
        1024,
        "trtype 0 1, adrfam 1 1, subtype 2 1, treq 3 1, portid 4 2, cntlid 6 2, asqsz 8 2,"
        " eflags 10 2, trsvcid 32 32, subnqn 256 256, traddr 512 256, sectype 768 1",
    ),
    "IdentifyController": (
        4096,
        "vid 0 2, ssvid 2 2, sn 4 20, mn 24 40, fr 64 8, rab 72 1, ieee 73 3, cmic 76 1, mdts 77 1,"
        " cntlid 78 2, ver 80 4, rtd3r 84 4, rtd3e 88 4, oaes 92 4, ctratt 96 4, rrls 100 2,"
        " cntrltype 111 1, fguid 112 16, crdt1 128 2, crdt2 130 2, crdt3 132 2, ciu 135 1,"
        " cirn 136 8, oacs 256 2, acl 258 1, aerl 259 1, frmw 260 1, lpa 261 1, elpe 262 1,"
        " npss 263 1, avscc 264 1, apsta 265 1, wctemp 266 2, cctemp 268 2, mtfa 270 2,"
        " hmpre 272 4, hmmin 276 4, tnvmcap 280 16, unvmcap 296 16, rpmbs 312 4, edstt 316 2,"
        " dsto 318 1, fwug 319 1, kas 320 2, hctma 322 2, mntmt 324 2, mxtmt 326 2, sanicap 328 4,"
        " hmminds 332 4, hmmaxd 336 2, nsetidmax 338 2, endgidmax 340 2, anatt 342 1, anacap 343 1,"
        " anagrpmax 344 4, nanagrpid 348 4, pels 352 4, cqt 386 2, sqes 512 1, cqes 513 1,"
        " maxcmd 514 2, nn 516 4, oncs 520 2, fuses 522 2, fna 524 1, vwc 525 1, awun 526 2,"
        " awupf 528 2, icsvscc 530 1, nwpc 531 1, acwu 532 2, ocfs 534 2, sgls 536 4, mnan 540 4,"
        " subnqn 768 256, ioccsz 1792 4, iorcsz 1796 4, icdoff 1800 2, fcatt 1802 1, msdbd 1803 1,"
        " ofcs 1804 2, dctype 1806 1, ccrl 1807 1",
    ),
    "IdentifyNamespace": (
        4096,
        "nsze 0 8, ncap 8 8, nuse 16 8, nsfeat 24 1, nlbaf 25 1, flbas 26 1, mc 27 1, dpc 28 1,"
        " dps 29 1, nmic 30 1, rescap 31 1, fpi 32 1, dlfeat 33 1, nawun 34 2, nawupf 36 2,"
        " nacwu 38 2, nabsn 40 2, nabo 42 2, nabspf 44 2, noiob 46 2, nvmcap 48 16, npwg 64 2,"
        " npwa 66 2, npdg 68 2, npda 70 2, nows 72 2, mssrl 74 2, mcl 76 4, msrc 80 1, nulbaf 82 1,"
        " anagrpid 92 4, nsattr 99 1, nvmsetid 100 2, endgid 102 2, nguid 104 16, eui64 120 8,"
        " lbaf 128 256",
    ),
    "ErrorEntry": (
        64,
        "error_count 0 8, sqid 8 2, cid 10 2, status_field 12 2, error_location 14 2, lba 16 8,"
        " nsid 24 4, vendor_info 28 1, trtype 29 1, csi 30 1, opc 31 1, command_info 32 8,"
        " trtype_info 40 2",
    ),
    "HealthLog": (
        512,
        "critical_warning 0 1, temperature_k 1 2, available_spare 3 1,"
        " available_spare_threshold 4 1, percentage_used 5 1, endurance_group_warning 6 1,"
        " data_units_read 32 16, data_units_written 48 16, host_reads 64 16, host_writes 80 16,"
        " controller_busy_minutes 96 16, power_cycles 112 16, power_on_hours 128 16,"
        " unsafe_shutdowns 144 16, media_errors 160 16, error_log_entries 176 16,"
        " warning_temperature_minutes 192 4, critical_temperature_minutes 196 4,"
        " temperature_sensors_k 200 16, tmt1_transitions 216 4, tmt2_transitions 220 4,"
        " tmt1_seconds 224 4, tmt2_seconds 228 4",
    ),
    "FirmwareSlotLog": (512, "afi 0 1, revisions 8 56"),
    "CommandEffectsLog": (4096, "admin 0 1024, io 1024 1024"),
    "CrossControllerResetHeader": (8, "entries 0 2"),
    "CrossControllerResetEntry": (8, "icid 0 2, ciu 2 1, acid 4 2, status 6 1, flags 7 1"),
    "AnaLogHeader": (16, "change_count 0 8, groups 8 2"),
    "AnaGroupHeader": (32, "group_id 0 4, nsid_count 4 4, change_count 8 8, state 16 1"),
}


def _row(text: str) -> dict[str, tuple[int, int]]:
    fields = (field.split() for field in text.split(","))
    return {name: (int(offset), int(size)) for name, offset, size in fields}


def test_the_table_covers_every_structure():
    assert {struct.__name__ for struct in all_structures()} == set(TABLE)


@pytest.mark.parametrize("struct", all_structures(), ids=lambda s: s.__name__)
def test_fields_stand_where_the_specification_has_them(struct: type[WireStruct]):
    size_bytes, text = TABLE[struct.__name__]
    row = _row(text)
    declared = {
        name: (struct.offset_of(name), struct.size_of(name)) for name in struct.field_names()
    }

    assert size_bytes == struct.SIZE
    # A structure may leave fields out that no one reads.
    assert {name: row.get(name) for name in declared} == declared


#: Register, field, highest bit, lowest bit (Base 2.1, section 3.1.4).
BITS = [
    (Cap, "mqes", 15, 0),
    (Cap, "cqr", 16, 16),
    (Cap, "ams", 18, 17),
    (Cap, "to", 31, 24),
    (Cap, "dstrd", 35, 32),
    (Cap, "nssrs", 36, 36),
    (Cap, "css", 44, 37),
    (Cap, "mpsmin", 51, 48),
    (Cap, "mpsmax", 55, 52),
    (Cap, "crms", 60, 59),
    (Vs, "major", 31, 16),
    (Vs, "minor", 15, 8),
    (Vs, "tertiary", 7, 0),
    (Cc, "en", 0, 0),
    (Cc, "css", 6, 4),
    (Cc, "mps", 10, 7),
    (Cc, "ams", 13, 11),
    (Cc, "shn", 15, 14),
    (Cc, "iosqes", 19, 16),
    (Cc, "iocqes", 23, 20),
    (Cc, "crime", 24, 24),
    (Csts, "rdy", 0, 0),
    (Csts, "cfs", 1, 1),
    (Csts, "shst", 3, 2),
    (Csts, "nssro", 4, 4),
    (Csts, "pp", 5, 5),
]


@pytest.mark.parametrize(("register", "name", "high", "low"), BITS)
def test_register_bits_stand_where_the_specification_has_them(register, name, high, low):
    mask = (1 << (high + 1)) - (1 << low)

    assert getattr(register(mask), name) == mask >> low
    assert getattr(register(~mask & (1 << 64) - 1), name) == 0


@pytest.mark.parametrize("register", [Cap, Vs, Cc, Csts])
def test_every_bit_field_of_a_register_is_in_the_table(register):
    declared = {name for name, value in vars(register).items() if isinstance(value, Bits)}

    assert declared == {name for found, name, _, _ in BITS if found is register}


def test_ready_timeout_is_in_units_of_500_ms():
    assert Cap.of(to=15).timeout_s == 7.5


def test_version_as_text():
    assert str(Vs(0x00010400)) == "1.4.0"
