"""identify, ns active and ns identify."""

import base64

import attrs
import pytest

from nvmf_host.messages import DataResult, ErrorInfo
from nvmf_transport.identify import (
    IDENTIFY_BYTES,
    IdentifyController,
    IdentifyNamespace,
    LbaFormat,
    pack_namespace_list,
)

from .fakes import FakeDaemon, run

CONTROLLER = IdentifyController(
    vid=0x144D, ssvid=0x144E, sn="SN1", mn="Model", fr="1.2", rab=2, ieee=bytes.fromhex("385200"),
    cmic=0b1010, mdts=5, cntlid=0x41, ver=0x10400, oacs=0b10, acl=3, aerl=7, frmw=0b0011, lpa=1,
    elpe=63, npss=4, tnvmcap=1 << 70, unvmcap=512, fwug=1, sanicap=1 << 30 | 2, sqes=0x66,
    cqes=0x44, nn=16, oncs=0b1100, fuses=1, fna=0b101, vwc=1, hmpre=1, hmmin=2,
    subnqn="nqn.2014-08.org.example:disk", ioccsz=1028, iorcsz=1, icdoff=0, fcatt=1, msdbd=0,
    ofcs=1,
)  # fmt: skip
NAMESPACE = IdentifyNamespace(
    nsze=1000, ncap=900, nuse=800, nsfeat=0b10001, nlbaf=1, flbas=1, mc=0b01, dpc=0b01001,
    dps=0b1010, nmic=1, rescap=0b11, fpi=0x80 | 40, dlfeat=1, noiob=256, nvmcap=460800, npwg=7,
    npwa=7, npdg=0, npda=0, nows=15, nguid=bytes(range(16)), eui64=bytes(range(8)),
    lbaf=(LbaFormat(0, 9).to_word(), LbaFormat(8, 12, 2).to_word(), *([0] * 62)),
)  # fmt: skip

CONTROLLER_TEXT = """\
Controller Capabilities/Features
================================
Vendor ID:                   144d
Subsystem Vendor ID:         144e
Serial Number:               SN1
Model Number:                Model
Firmware Version:            1.2
Recommended Arb Burst:       2
IEEE OUI Identifier:         00 52 38
Multi-Path I/O Capabilities: Multiple controllers, ANA
Max Data Transfer Size:      131072 bytes
Sanitize Crypto Erase:       Not Supported
Sanitize Block Erase:        Supported
Sanitize Overwrite:          Not Supported
Sanitize NDI:                Not Supported
Sanitize NODMMAS:            No
Controller ID:               0x0041
Version:                     1.4.0

Admin Command Set Attributes
============================
Security Send/Receive:       Not Supported
Format NVM:                  Supported
Firmware Activate/Download:  Not Supported
Namespace Management:        Not Supported
Device Self-test:            Not Supported
Directives:                  Not Supported
NVMe-MI Send/Receive:        Not Supported
Virtualization Management:   Not Supported
Doorbell Buffer Config:      Not Supported
Get LBA Status:              Not Supported
Sanitize:                    Supported
Abort Command Limit:         4
Async Event Request Limit:   8
Number of Firmware Slots:    1
Firmware Slot 1 Read-Only:   Yes
Per-Namespace SMART Log:     Yes
Error Log Page Entries:      64
Number of Power States:      5
Total NVM Capacity:          1180591620717411303424 bytes
Unallocated NVM Capacity:    512 bytes
Firmware Update Granularity: 4096 bytes
Host Buffer Preferred Size:  4096 bytes
Host Buffer Minimum Size:    8192 bytes

NVM Command Set Attributes
==========================
Submission Queue Entry Size
  Max:                       64
  Min:                       64
Completion Queue Entry Size
  Max:                       16
  Min:                       16
Number of Namespaces:        16
Compare Command:             Not Supported
Write Uncorrectable Command: Not Supported
Dataset Management Command:  Supported
Write Zeroes Command:        Supported
Save Features:               Not Supported
Reservations:                Not Supported
Timestamp feature:           Not Supported
Verify feature:              Not Supported
Fused Operation Support:     Compare and Write
Format NVM Attributes:       All-NVM Format, Per-NS Erase, Crypto Erase
Volatile Write Cache:        Present
NVM Subsystem Name:          nqn.2014-08.org.example:disk

Fabrics Attributes
==================
I/O Command Capsule Size:    16448 bytes
I/O Response Capsule Size:   16 bytes
In Capsule Data Offset:      0 bytes
Controller Model:            Static
Max SGL Descriptors:         Unlimited
Disconnect of I/O Queues:    Supported
"""
NAMESPACE_TEXT = """\
Size:                        1000 blocks
Capacity:                    900 blocks
Utilization:                 800 blocks
Thin Provisioning:           Supported
Number of LBA Formats:       2
Current LBA Format:          LBA Format #01
Metadata Capabilities
  Extended:                  Supported
  Separate:                  Not Supported
Data Protection Caps:        Type 1, First Bytes
Data Protection Settings:    Type 2, First Bytes
Multi-Path I/O Capabilities: Supported
Reservation Capabilities:    Persist Through Power Loss, Write Exclusive
Format Progress Indicator:   40% remains
Deallocate Logical Block:    Read 00h
Optimal I/O Boundary:        256 blocks
NVM Capacity:                460800 bytes
Preferred Write Granularity: 8 blocks
Preferred Write Alignment:   8 blocks
Preferred Deallocate Gran:   1 blocks
Preferred Deallocate Align:  1 blocks
Optimal Write Size:          16 blocks
Globally Unique Identifier:  000102030405060708090a0b0c0d0e0f
IEEE EUI64:                  0001020304050607
LBA Format #00: Data Size:   512  Metadata Size:     0  Performance: Best
LBA Format #01: Data Size:  4096  Metadata Size:     8  Performance: Good
"""


def result(data):
    return DataResult(data=base64.b64encode(data).decode())


def daemon(*, lists=()):
    """Answers IDENTIFY by CNS; a namespace other than 1 is inactive."""

    def answer(request):
        match request["cns"], request.get("nsid"):
            case 0, None | 1:
                return result(NAMESPACE.pack())
            case 0, _:
                return result(bytes(IDENTIFY_BYTES))
            case 1, 0:
                return result(CONTROLLER.pack())
            case 2, start:
                return result(pack_namespace_list([n for n in lists if n > start][:1024]))
            case _:
                raise AssertionError(request)

    return FakeDaemon({"identify": answer})


@pytest.mark.parametrize("arguments", ["nvme0", "-n 0 nvme0ns1", "--nsid 0 nvme0"])
def test_controller(arguments):
    outcome = run("identify", *arguments.split(), daemon=daemon())

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == CONTROLLER_TEXT


@pytest.mark.parametrize(
    "arguments",
    ["identify nvme0ns1", "identify -n 1 nvme0", "ns identify -n 1 nvme0", "ns identify nvme0ns1"],
)
def test_namespace(arguments):
    outcome = run(*arguments.split(), daemon=daemon())

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == NAMESPACE_TEXT


@pytest.mark.parametrize("arguments", ["identify -n 7 nvme0", "ns identify -n 7 nvme0"])
def test_an_inactive_namespace_is_not_shown_as_zeroes(arguments):
    outcome = run(*arguments.split(), daemon=daemon())

    assert (outcome.code, outcome.out) == (74, "")
    assert outcome.err.endswith(
        "NSID 7: an inactive namespace; `nvmecontrol ns active` lists the active ones\n"
    )


def test_hex_has_what_is_not_reserved_unless_verbose():
    short = run("identify", "-x", "nvme0ns1", daemon=daemon()).out.splitlines()
    whole = run("identify", "-x", "-v", "nvme0ns1", daemon=daemon()).out.splitlines()

    assert short == whole[:24]
    assert short[0] == "000: e8 03 00 00 00 00 00 00 84 03 00 00 00 00 00 00  ................"
    assert short[-1].startswith("170: 00 ")
    assert len(whole) == 256
    assert whole[-1].startswith("ff0: 00 ")


def test_json_has_the_names_of_the_specification():
    shown = run("identify", "--json", "nvme0", daemon=daemon()).json

    assert {"schema", *(each.name for each in attrs.fields(IdentifyController))} == set(shown)
    assert (shown["schema"], shown["mn"], shown["oncs"]) == (1, "Model", 12)
    assert shown["ieee"] == "385200"
    assert run("identify", "--json", "nvme0ns1", daemon=daemon()).json["lbaf"][:2] == list(
        NAMESPACE.lbaf[:2]
    )


def test_json_of_an_nqn_that_is_no_utf8():
    def answer(_):
        return result(attrs.evolve(CONTROLLER, subnqn="a\udcff").pack())

    shown = run("identify", "--json", "nvme0", daemon=FakeDaemon({"identify": answer})).json

    assert shown["subnqn"] == "a\\xff"


def test_active_namespaces():
    outcome = run("ns", "active", "nvme0", daemon=daemon(lists=[1, 2, 70000]))

    assert outcome.out == "Active namespaces:\n         1\n         2\n     70000\n"


def test_more_active_namespaces_than_one_list_holds():
    wanted = list(range(1, 2500))
    asked = daemon(lists=wanted)

    assert run("ns", "active", "nvme0", "--json", daemon=asked).json == {
        "schema": 1, "nsids": wanted,
    }  # fmt: skip
    assert [each["nsid"] for each in asked.requests] == [0, 1024, 2048]


def test_a_list_without_end_is_not_followed():
    endless = FakeDaemon({"identify": result(pack_namespace_list(range(1, 1025)))})

    assert run("ns", "active", "nvme0", "--json", daemon=endless).json["nsids"][-1] == 1024
    assert len(endless.requests) == 2


def test_a_status_of_the_controller():
    error = ErrorInfo(kind="command", message="Identify: Invalid Namespace (0/0Bh, DNR)",
                      status="0/0B")  # fmt: skip

    outcome = run("identify", "-n", "9", "nvme0", "--json", daemon=FakeDaemon({"identify": error}))

    assert outcome.code == 74
    assert outcome.json["error"]["status"] == "0/0B"
    assert outcome.err == (
        "nvmecontrol identify: DEVICE nvme0: Identify: Invalid Namespace (0/0Bh, DNR); "
        "the status is the controller's; see `devlist` for its state\n"
    )


def test_identify_data_of_another_size_is_refused():
    outcome = run("identify", "nvme0", daemon=FakeDaemon({"identify": result(b"short")}))

    assert outcome.code == 70
    assert "5 bytes of identify data, there are 4096" in outcome.err
