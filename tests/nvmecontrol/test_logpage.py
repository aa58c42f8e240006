"""logpage: what is asked for, and how each page is shown."""

import json
import struct

import attrs
import pytest

from nvmecontrol.pages import PAGES
from nvmf_host.messages import ErrorInfo
from nvmf_transport.fabrics import DiscoveryLogEntry, DiscoveryLogHeader
from nvmf_transport.logs import (
    AnaGroup,
    CommandEffectsLog,
    ErrorEntry,
    FirmwareSlotLog,
    HealthLog,
    pack_ana_log,
)

from .fakes import FakeDaemon, run
from .test_identify import CONTROLLER, result

HEALTH = HealthLog(
    critical_warning=0b01001,
    temperature_k=310,
    available_spare=100,
    available_spare_threshold=10,
    percentage_used=3,
    data_units_read=1 << 64,
    data_units_written=2,
    host_reads=3,
    host_writes=4,
    controller_busy_minutes=5,
    power_cycles=6,
    power_on_hours=7,
    unsafe_shutdowns=8,
    media_errors=9,
    error_log_entries=10,
    warning_temperature_minutes=11,
    critical_temperature_minutes=12,
    temperature_sensors_k=(300, 0, 0, 0, 0, 0, 0, 0),
    tmt1_transitions=13,
    tmt2_transitions=14,
    tmt1_seconds=15,
    tmt2_seconds=16,
)
ERRORS = ErrorEntry(
    error_count=7,
    sqid=1,
    cid=0x20,
    status_field=(0x4000 | 0x281) << 1 | 1,
    error_location=0xFFFF,
    lba=99,
    nsid=2,
    trtype=3,
    command_info=4,
    trtype_info=5,
).pack() + bytes(63 * 64)
FIRMWARE = FirmwareSlotLog(afi=0x21, revisions=("1.0", "", "3\x1b", "", "", "", ""))
EFFECTS = CommandEffectsLog(
    admin=tuple(1 if opcode == 6 else 0 for opcode in range(256)),
    io=tuple({1: 3, 0xC0: 1 | 2 << 16 | 1 << 19}.get(opcode, 0) for opcode in range(256)),
)
ENTRY = DiscoveryLogEntry(trtype=3, adrfam=1, subtype=2, subnqn="n", traddr="192.0.2.1")


def daemon(pages, *, lpa=1):
    """Answers from {LID: bytes}, padded with zeroes."""

    def log_page(request):
        data = pages[request["lid"]]
        start = request.get("offset_bytes", 0)
        return result(data[start:].ljust(request["length_bytes"], b"\0")[: request["length_bytes"]])

    identified = attrs.evolve(CONTROLLER, lpa=lpa, nanagrpid=2, nn=8, mnan=0)
    return FakeDaemon({"logpage": log_page, "identify": lambda _: result(identified.pack())})


TEXTS = {
    "error": (ERRORS, """\
Error Information Log
=====================
Entry 01
========
 Error count:           7
 Submission queue ID:   1
 Command ID:            32
 Status:                Unrecovered Read Error (2/81h, DNR)
  Phase tag:            1
  Status code:          0x81
  Status code type:     0x2
  More:                 0
  DNR:                  1
 Error location:        65535
 LBA:                   99
 Namespace ID:          2
 Vendor specific info:  0
 Transport type:        3
 Command specific info: 4
 Transport specific:    5
"""),
    "health": (HEALTH.pack(), """\
SMART/Health Information Log
============================
Critical Warning State:         0x09
 Available spare:               1
 Temperature:                   0
 Device reliability:            0
 Read only:                     1
 Volatile memory backup:        0
Temperature:                    310 K, 36.85 C, 98.33 F
Available spare:                100
Available spare threshold:      10
Percentage used:                3
Data units (512,000 byte) read: 18446744073709551616
Data units written:             2
Host read commands:             3
Host write commands:            4
Controller busy time (minutes): 5
Power cycles:                   6
Power on hours:                 7
Unsafe shutdowns:               8
Media errors:                   9
No. error info log entries:     10
Warning Temp Composite Time:    11
Error Temp Composite Time:      12
Temperature Sensor 1:           300 K, 26.85 C, 80.33 F
Temperature 1 Transition Count: 13
Temperature 2 Transition Count: 14
Total Time For Temperature 1:   15
Total Time For Temperature 2:   16
"""),
    "firmware": (FIRMWARE.pack(), """\
Firmware Slot Log
=================
Slot 1: [  Active] 1.0
Slot 2: [    Next] Empty
Slot 3: [Inactive] 3?
"""),
    "changed-ns": (struct.pack("<3I", 1, 0x20, 0), """\
Changed Namespace List
======================
00000001
00000020
"""),
    "effects": (EFFECTS.pack(), """\
Commands Supported and Effects
==============================
Admin Commands
  Command                         LBCC NCC  NIC  CCC  CSE  UUID
  06h Identify                    No   No   No   No   0    No
I/O Commands
  Command                         LBCC NCC  NIC  CCC  CSE  UUID
  01h Write                       Yes  No   No   No   0    No
  c0h                             No   No   No   No   2    Yes
"""),
    "ana": (pack_ana_log(5, [AnaGroup(1, 1, (1, 2), 3), AnaGroup(2, 7, ())]), """\
Asymmetric Namespace Access Log
===============================
Change Count:                    5
Number of ANA Group Descriptors: 2
ANA Group 1
 Change Count:                   3
 ANA State:                      Optimized
 Namespaces:                     1, 2
ANA Group 2
 Change Count:                   0
 ANA State:                      0x07
 Namespaces:                     none
"""),
    "discovery": (DiscoveryLogHeader(genctr=3, numrec=1).pack() + ENTRY.pack(), """\
Discovery
=========
Entry 01
========
 Transport type:       TCP
 Address family:       AF_INET
 Subsystem type:       NVMe
 SQ flow control:      required
 Secure Channel:       Not specified
 Port ID:              0
 Controller ID:        0
 Max Admin SQ Size:    0
 Sub NQN:              n
 Transport address:    192.0.2.1
 Service identifier:
 Security Type:        None
"""),
}  # fmt: skip
LIDS = {page.name: page.lid for page in PAGES}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name):
    data, text = TEXTS[name]

    by_name = run("logpage", "-p", name, "nvme0", daemon=daemon({LIDS[name]: data}))
    by_number = run("logpage", "-p", hex(LIDS[name]), "nvme0", daemon=daemon({LIDS[name]: data}))

    assert (by_name.code, by_name.err) == (0, "")
    assert by_name.out == text
    assert by_number == by_name


@pytest.mark.parametrize("name", TEXTS)
def test_every_decoded_page_is_in_the_table(name):
    assert next(page for page in PAGES if page.name == name).lines or name == "discovery"


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("error", b"", "No error entries found"),
        ("changed-ns", b"", "No namespaces have changed"),
        ("changed-ns", b"\xff" * 4, "More than 1024 namespaces have changed"),
        ("health", b"", "Temperature:                    Not reported"),
        ("discovery", b"", "No entries found"),
    ],
)
def test_empty_pages(name, data, line):
    outcome = run("logpage", "-p", name, "nvme0", daemon=daemon({LIDS[name]: data}))

    assert line in outcome.out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("-p 1", {"lid": 1, "length_bytes": 64 * 64}),
        ("-p smart", {"lid": 2, "length_bytes": 512}),
        ("-p 4", {"lid": 4, "length_bytes": 4096}),
        ("-p ana", {"lid": 12, "length_bytes": 16 + 2 * 32 + 8 * 4}),
        ("-p 0xc0", {"lid": 0xC0, "length_bytes": 512}),
        ("-p 2 -f 1 -i 2 -r", {"lid": 2, "length_bytes": 512, "lsp": 1, "lsi": 2, "rae": True}),
        ("-p 2 -l 8 -o 4", {"lid": 2, "length_bytes": 8, "offset_bytes": 4}),
    ],
)
def test_what_is_asked_for(arguments, fields):
    asked = daemon(dict.fromkeys(range(256), b""))

    assert run("logpage", *arguments.split(), "nvme0", daemon=asked).code == 0
    assert asked.requests[-1] == {
        "command": "logpage", "device": "nvme0", "nsid": 0xFFFFFFFF,
    } | fields  # fmt: skip


def test_the_discovery_page_is_read_to_its_last_entry():
    asked = daemon({0x70: DiscoveryLogHeader(numrec=3).pack() + ENTRY.pack() * 3})

    outcome = run("logpage", "-p", "discovery", "--json", "nvme0", daemon=asked)

    assert [each["length_bytes"] for each in asked.requests] == [1024, 4096]
    assert len(outcome.json["entries"]) == 3


def test_unknown_pages_and_parts_are_dumped():
    data = {0xC0: b"AB\x00\x7f", 2: HEALTH.pack()}

    unknown = run("logpage", "-p", "0xc0", "-l", "20", "nvme0", daemon=daemon(data))
    part = run("logpage", "-p", "2", "-o", "4", "-l", "4", "nvme0", daemon=daemon(data))

    assert unknown.out == (
        "000: 41 42 00 7f 00 00 00 00 00 00 00 00 00 00 00 00  AB..............\n"
        "010: 00 00 00 00                                      ....\n"
    )
    assert part.out == "000: 0a 03 00 00                                      ....\n"


def test_hex_and_binary():
    data = {2: HEALTH.pack()}

    assert run("logpage", "-p", "2", "-x", "nvme0", daemon=daemon(data)).out.startswith("000: 09 ")
    assert run("logpage", "-p", "2", "-b", "nvme0", daemon=daemon(data)).raw == HEALTH.pack()


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("health", {"temperature_k": 310, "data_units_read": 1 << 64}),
        ("error", {"entries": [{"error_count": 7, "lba": 99}]}),
        ("firmware", {"afi": 0x21}),
        ("changed-ns", {"nsids": [1, 0x20]}),
        ("effects", {"admin": {"06": 1}, "io": {"01": 3, "c0": 0xA0001}}),
        ("ana", {"change_count": 5}),
    ],
)
def test_json(page, shown):
    data = {LIDS[page]: TEXTS[page][0]}

    found = run("logpage", "--json", "-p", page, "nvme0", daemon=daemon(data)).json

    assert (found["schema"], found["lid"]) == (1, LIDS[page])
    for name, value in shown.items():
        if name == "entries":
            assert value[0].items() <= found[name][0].items()
        else:
            assert found[name] == value


def test_json_of_an_unknown_page_is_hex():
    found = run("logpage", "--json", "-p", "0xc0", "-l", "4", "nvme0", daemon=daemon({0xC0: b"A"}))

    assert found.json == {"schema": 1, "lid": 0xC0, "data": "41000000"}


def test_a_page_of_a_namespace():
    asked = daemon({2: HEALTH.pack()})

    assert run("logpage", "-p", "2", "nvme0ns1", daemon=asked).out == TEXTS["health"][1]
    assert "nsid" not in asked.requests[-1]


@pytest.mark.parametrize("status", ["1/09", "0/02"])
def test_no_such_page_is_69(status):
    error = ErrorInfo(kind="command", message="Get Log Page 06h: no", status=status)

    outcome = run("logpage", "-p", "6", "nvme0", daemon=FakeDaemon({"logpage": error}))

    assert outcome.code == 69
    assert outcome.err == (
        "nvmecontrol logpage: --page self-test: the controller has no such log page "
        "(Get Log Page 06h: no); ask for another\n"
    )


def test_an_invalid_field_with_parameters_may_be_theirs():
    error = ErrorInfo(kind="command", message="Get Log Page 06h: no; look", status="0/02")

    outcome = run("logpage", "-p", "6", "-f", "1", "nvme0", daemon=FakeDaemon({"logpage": error}))

    assert outcome.code == 74


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ("nvme0", 64, "--page: missing; see `nvmecontrol logpage --help`"),
        ("-p nonsense nvme0", 64,
         "--page nonsense: not a log page; give 0 to 0xff, or a name that `-p help` lists"),
        ("-p 256 nvme0", 64,
         "--page 256: not a log page; give 0 to 0xff, or a name that `-p help` lists"),
        ("-p 2 -x -b nvme0", 64, "--binary: given together with --hex; give one of them"),
        ("-p 2 -b nvme0 --json", 64, "--binary: given together with --json; give one of them"),
        ("-p 2 -l 6 nvme0", 64, "--log-len 6: not a multiple of 4; round it up"),
        ("-p 2 -f 0x80 nvme0", 64, "--lsp 0x80: out of range; give 0 to 127"),
        ("-p 2 -v acme nvme0", 64,
         "--vendor acme: no vendors' log pages are known; use -x instead"),
        ("-p 3 nvme0ns1", 64, "--page firmware: not a page of a namespace; "
                              "give the controller, nvme0"),
        ("-p 2 nvme0ns1", 69, "--page health: the controller keeps no such page for each "
                              "namespace; give the controller, nvme0"),
    ],
)  # fmt: skip
def test_refusals(arguments, code, line):
    outcome = run("logpage", *arguments.split(), daemon=daemon({}, lpa=0))

    assert outcome.code == code
    assert outcome.err == f"nvmecontrol logpage: {line}\n"


def test_the_table_of_pages():
    outcome = run("logpage", "-p", "help")

    assert outcome.code == 0
    assert outcome.out.splitlines()[:3] == [
        "Page  Name                  Title                                 Shown as",
        "----  ----                  -----                                 --------",
        "01h   error                 Error Information                     text",
    ]
    assert "no vendors" in run("logpage", "-v", "help").out


def test_the_table_of_pages_as_json():
    pages = json.loads(run("--json", "logpage", "-p", "help").out)["pages"]

    assert pages[0] == {"lid": 1, "name": "error", "title": "Error Information"}
