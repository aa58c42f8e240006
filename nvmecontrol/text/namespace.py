"""Identify Namespace as text, with FreeBSD's labels."""

from typing import Final

from nvmf_transport.identify import IdentifyNamespace, LbaFormat

from .labels import row, supported

_PERFORMANCE: Final = ("Best", "Better", "Good", "Degraded")
_DEALLOCATED: Final = ("Read Not Reported", "Read 00h", "Read FFh")
_PROTECTION: Final = ("Not Enabled", "Type 1", "Type 2", "Type 3")
#: Label -> bit of RESCAP (Base 2.1, section 5.1.13.2.8).
_RESERVATIONS: Final = (
    "Persist Through Power Loss",
    "Write Exclusive",
    "Exclusive Access",
    "Write Exclusive Registrants Only",
    "Exclusive Access Registrants Only",
    "Write Exclusive All Registrants",
    "Exclusive Access All Registrants",
)


def namespace_lines(data: IdentifyNamespace) -> list[str]:
    """All lines."""
    reservations = [name for bit, name in enumerate(_RESERVATIONS) if data.rescap >> bit & 1]
    progress = f"{data.fpi & 0x7F}% remains" if data.fpi & 0x80 else "Not Supported"
    deallocated = data.dlfeat & 7
    # NLBAF is 0's based.
    formats = [LbaFormat.from_word(word) for word in data.lbaf[: data.nlbaf + data.nulbaf + 1]]
    lines = [
        row("Size", f"{data.nsze} blocks"),
        row("Capacity", f"{data.ncap} blocks"),
        row("Utilization", f"{data.nuse} blocks"),
        row("Thin Provisioning", supported(data.thin)),
        row("Number of LBA Formats", data.nlbaf + 1),
        row("Current LBA Format", f"LBA Format #{data.format_index:02d}"),
        "Metadata Capabilities",
        row("  Extended", supported(data.mc & 1)),
        row("  Separate", supported(data.mc >> 1 & 1)),
        row("Data Protection Caps", _protection_capabilities(data.dpc)),
        row("Data Protection Settings", _protection_settings(data)),
        row("Multi-Path I/O Capabilities", supported(data.shared)),
        row("Reservation Capabilities", ", ".join(reservations) or "Not Supported"),
        row("Format Progress Indicator", progress),
        row(
            "Deallocate Logical Block",
            _DEALLOCATED[deallocated] if deallocated < len(_DEALLOCATED) else "Reserved",
        ),
        row("Optimal I/O Boundary", f"{data.noiob} blocks"),
        row("NVM Capacity", f"{data.nvmcap} bytes"),
    ]
    if data.nsfeat >> 4 & 1:
        lines += _preferences(data)
    lines += [
        row("Globally Unique Identifier", data.nguid.hex()),
        row("IEEE EUI64", data.eui64.hex()),
    ]
    return lines + [
        f"LBA Format #{index:02d}: Data Size: {each.lba_bytes:5}"
        f"  Metadata Size: {each.metadata_bytes:5}"
        f"  Performance: {_PERFORMANCE[each.relative_performance]}"
        for index, each in enumerate(formats)
    ]


def _preferences(data: IdentifyNamespace) -> list[str]:
    """The optimal sizes and alignments, all 0's based."""
    return [
        row("Preferred Write Granularity", f"{data.npwg + 1} blocks"),
        row("Preferred Write Alignment", f"{data.npwa + 1} blocks"),
        row("Preferred Deallocate Gran", f"{data.npdg + 1} blocks"),
        row("Preferred Deallocate Align", f"{data.npda + 1} blocks"),
        row("Optimal Write Size", f"{data.nows + 1} blocks"),
    ]


def _protection_capabilities(dpc: int) -> str:
    types = [name for bit, name in enumerate(_PROTECTION[1:]) if dpc >> bit & 1]
    places = [name for bit, name in ((3, "First Bytes"), (4, "Last Bytes")) if dpc >> bit & 1]
    return ", ".join(types + places) if types else "Not Supported"


def _protection_settings(data: IdentifyNamespace) -> str:
    if data.pit == 0:
        return _PROTECTION[0]
    name = _PROTECTION[data.pit] if data.pit < len(_PROTECTION) else "Reserved"
    return f"{name}, {'First' if data.dps >> 3 & 1 else 'Last'} Bytes"
