"""The discovery log page as text, in FreeBSD's form."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from nvmecontrol.failure import printable
from nvmf_transport.fabrics import (
    CNTLID_DYNAMIC,
    CNTLID_STATIC_ANY,
    AddressFamily,
    DiscoveryLogEntry,
    SubsystemType,
    TransportType,
)

LABEL_WIDTH: Final = 22

TRANSPORTS: Final = {
    TransportType.RDMA: "RDMA",
    TransportType.FC: "Fibre Channel",
    TransportType.TCP: "TCP",
    TransportType.LOOP: "Intra-host",
}
FAMILIES: Final = {
    AddressFamily.IPV4: "AF_INET",
    AddressFamily.IPV6: "AF_INET6",
    AddressFamily.INFINIBAND: "InfiniBand",
    AddressFamily.FC: "Fibre Channel",
    AddressFamily.INTRA_HOST: "Intra-host",
}
_SUBSYSTEMS: Final = {
    SubsystemType.REFERRAL: "Discovery",
    SubsystemType.NVM: "NVMe",
    # Later than FreeBSD's: the subsystem that was asked, itself (Base 2.1, section 5.1.12.3.1).
    SubsystemType.CURRENT_DISCOVERY: "Current Discovery",
}
_SECURE_CHANNEL: Final = {0: "Not specified", 1: "Required", 2: "Not required"}
_SECURITY: Final = {0: "None", 1: "TLS 1.2", 2: "TLS 1.3"}
_CONTROLLERS: Final = {CNTLID_DYNAMIC: "Dynamic", CNTLID_STATIC_ANY: "Static"}


def name_of(names: Mapping[Any, str], code: int) -> str:
    """The name of a code, else the code itself."""
    return names.get(code) or f"0x{code:02x}"


def discovery_lines(entries: Sequence[DiscoveryLogEntry]) -> list[str]:
    """The whole log."""
    lines = ["Discovery", "========="]
    if not entries:
        return [*lines, "No entries found"]
    for number, entry in enumerate(entries, 1):
        lines += [f"Entry {number:02d}", "========", *_entry_lines(entry)]
    return lines


def _entry_lines(entry: DiscoveryLogEntry) -> list[str]:
    rows = {
        "Transport type": name_of(TRANSPORTS, entry.trtype),
        "Address family": name_of(FAMILIES, entry.adrfam),
        "Subsystem type": name_of(_SUBSYSTEMS, entry.subtype),
        "SQ flow control": "optional" if entry.sqflow_optional else "required",
        "Secure Channel": name_of(_SECURE_CHANNEL, entry.secure_channel),
        "Port ID": entry.portid,
        "Controller ID": _CONTROLLERS.get(entry.cntlid, entry.cntlid),
        "Max Admin SQ Size": entry.asqsz,
        "Sub NQN": entry.subnqn,
        "Transport address": entry.traddr,
        "Service identifier": entry.trsvcid,
    }
    if entry.trtype == TransportType.TCP:
        rows["Security Type"] = name_of(_SECURITY, entry.sectype)
    return [
        printable(f" {label + ':':<{LABEL_WIDTH}}{value}").rstrip() for label, value in rows.items()
    ]
