"""Identify Controller as text, with FreeBSD's sections and labels."""

from typing import Final

from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import Vs

from .labels import row, section, supported, yes

#: MDTS counts in units of CAP.MPSMIN, which identify data do not tell; over fabrics it is 4 KiB.
MPSMIN_BYTES: Final = 4096

#: Label -> bit of OACS (Base 2.1, section 5.1.13.2.1).
_OACS_FIRST: Final = {
    "Security Send/Receive": 0,
    "Format NVM": 1,
    "Firmware Activate/Download": 2,
    "Namespace Management": 3,
    "Device Self-test": 4,
    "Directives": 5,
    "NVMe-MI Send/Receive": 6,
    "Virtualization Management": 7,
    "Doorbell Buffer Config": 8,
    "Get LBA Status": 9,
}
#: Label -> bit of ONCS.
_ONCS: Final = {
    "Compare Command": 0,
    "Write Uncorrectable Command": 1,
    "Dataset Management Command": 2,
    "Write Zeroes Command": 3,
    "Save Features": 4,
    "Reservations": 5,
    "Timestamp feature": 6,
    "Verify feature": 7,
}


def controller_lines(data: IdentifyController) -> list[str]:
    """All sections."""
    lines = [*_capabilities(data), "", *_admin(data), "", *_nvm(data)]
    if data.ioccsz:
        lines += ["", *_fabrics(data)]
    return lines


def _capabilities(data: IdentifyController) -> list[str]:
    # IEEE stands least significant byte first.
    oui = " ".join(f"{byte:02x}" for byte in reversed(data.ieee))
    multi_path = [
        name
        for bit, name in enumerate(("Multiple ports", "Multiple controllers", "SR-IOV", "ANA"))
        if data.cmic >> bit & 1
    ]
    mdts = f"{MPSMIN_BYTES << data.mdts} bytes" if data.mdts else "Unlimited"
    return [
        *section("Controller Capabilities/Features"),
        row("Vendor ID", f"{data.vid:04x}"),
        row("Subsystem Vendor ID", f"{data.ssvid:04x}"),
        row("Serial Number", data.sn),
        row("Model Number", data.mn),
        row("Firmware Version", data.fr),
        row("Recommended Arb Burst", data.rab),
        row("IEEE OUI Identifier", oui),
        row("Multi-Path I/O Capabilities", ", ".join(multi_path) or "Not Supported"),
        row("Max Data Transfer Size", mdts),
        row("Sanitize Crypto Erase", supported(data.sanicap & 1)),
        row("Sanitize Block Erase", supported(data.sanicap >> 1 & 1)),
        row("Sanitize Overwrite", supported(data.sanicap >> 2 & 1)),
        row("Sanitize NDI", supported(data.sanicap >> 29 & 1)),
        row("Sanitize NODMMAS", _NODMMAS[data.sanicap >> 30 & 3]),
        row("Controller ID", f"0x{data.cntlid:04x}"),
        row("Version", Vs(data.ver)),
    ]


_NODMMAS: Final = ("Undefined", "No", "Yes", "Reserved")


def _admin(data: IdentifyController) -> list[str]:
    lines = section("Admin Command Set Attributes")
    lines += [row(label, supported(data.oacs >> bit & 1)) for label, bit in _OACS_FIRST.items()]
    update = data.fwug
    granularity = {0: "Unknown", 0xFF: "None"}.get(update, f"{update * 4096} bytes")
    return [
        *lines,
        row("Sanitize", supported(data.sanicap & 7)),
        row("Abort Command Limit", data.acl + 1),
        row("Async Event Request Limit", data.aerl + 1),
        row("Number of Firmware Slots", data.frmw >> 1 & 7),
        row("Firmware Slot 1 Read-Only", yes(data.frmw & 1)),
        row("Per-Namespace SMART Log", yes(data.lpa & 1)),
        row("Error Log Page Entries", data.elpe + 1),
        row("Number of Power States", data.npss + 1),
        row("Total NVM Capacity", f"{data.tnvmcap} bytes"),
        row("Unallocated NVM Capacity", f"{data.unvmcap} bytes"),
        row("Firmware Update Granularity", granularity),
        row("Host Buffer Preferred Size", f"{data.hmpre * 4096} bytes"),
        row("Host Buffer Minimum Size", f"{data.hmmin * 4096} bytes"),
    ]


def _nvm(data: IdentifyController) -> list[str]:
    formats = [
        "All-NVM Format" if data.fna & 1 else "Per-NS Format",
        "All-NVM Erase" if data.fna >> 1 & 1 else "Per-NS Erase",
        *(["Crypto Erase"] if data.fna >> 2 & 1 else []),
    ]
    return [
        *section("NVM Command Set Attributes"),
        "Submission Queue Entry Size",
        row("  Max", 1 << (data.sqes >> 4)),
        row("  Min", 1 << (data.sqes & 0xF)),
        "Completion Queue Entry Size",
        row("  Max", 1 << (data.cqes >> 4)),
        row("  Min", 1 << (data.cqes & 0xF)),
        row("Number of Namespaces", data.nn),
        *(row(label, supported(data.oncs >> bit & 1)) for label, bit in _ONCS.items()),
        row("Fused Operation Support", "Compare and Write" if data.fuses & 1 else "Not Supported"),
        row("Format NVM Attributes", ", ".join(formats)),
        row("Volatile Write Cache", "Present" if data.vwc & 1 else "Not Present"),
        row("NVM Subsystem Name", data.subnqn),
    ]


def _fabrics(data: IdentifyController) -> list[str]:
    return [
        *section("Fabrics Attributes"),
        # Both capsule sizes and the offset count in units of 16 bytes (Base 2.1, section 5.1.13).
        row("I/O Command Capsule Size", f"{data.ioccsz * 16} bytes"),
        row("I/O Response Capsule Size", f"{data.iorcsz * 16} bytes"),
        row("In Capsule Data Offset", f"{data.icdoff * 16} bytes"),
        row("Controller Model", "Static" if data.fcatt & 1 else "Dynamic"),
        row("Max SGL Descriptors", data.msdbd or "Unlimited"),
        row("Disconnect of I/O Queues", supported(data.ofcs & 1)),
    ]
