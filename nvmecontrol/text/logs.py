"""Log pages as text, with FreeBSD's labels, and as JSON."""

from collections.abc import Iterator
from typing import Any, Final

from nvmecontrol.failure import printable
from nvmf_transport.identify import unpack_namespace_list
from nvmf_transport.logs import (
    AnaState,
    CommandEffectsLog,
    ErrorEntry,
    FirmwareSlotLog,
    HealthLog,
    unpack_ana_log,
)
from nvmf_transport.nvme import NSID_ALL, AdminOpcode, NvmOpcode
from nvmf_transport.status import Status

from .discovery import name_of
from .labels import as_json, section

_HEALTH_WIDTH: Final = 32
_ERROR_WIDTH: Final = 22
_ANA_WIDTH: Final = 33
_WARNINGS: Final = (
    "Available spare",
    "Temperature",
    "Device reliability",
    "Read only",
    "Volatile memory backup",
)
_ANA_STATES: Final = {
    AnaState.OPTIMIZED: "Optimized",
    AnaState.NON_OPTIMIZED: "Non-optimized",
    AnaState.INACCESSIBLE: "Inaccessible",
    AnaState.PERSISTENT_LOSS: "Persistent Loss",
    AnaState.CHANGE: "Change",
}
#: Columns of command effects: name -> bit (Base 2.1, section 5.1.12.1.6).
_EFFECTS: Final = {"LBCC": 1, "NCC": 2, "NIC": 3, "CCC": 4}


def _errors(data: bytes) -> list[ErrorEntry]:
    """The entries in use: an error count of zero marks one that is not."""
    entries = (
        ErrorEntry.unpack(data, offset)
        for offset in range(0, len(data) - ErrorEntry.SIZE + 1, ErrorEntry.SIZE)
    )
    return [entry for entry in entries if entry.error_count]


def error_lines(data: bytes) -> list[str]:
    """Error Information, page 01h."""
    lines = section("Error Information Log")
    entries = _errors(data)
    if not entries:
        return [*lines, "No error entries found"]
    for number, entry in enumerate(entries, 1):
        status = Status.from_field(entry.status_field >> 1)
        rows = {
            "Error count": entry.error_count,
            "Submission queue ID": entry.sqid,
            "Command ID": entry.cid,
            "Status": status,
            " Phase tag": entry.status_field & 1,
            " Status code": f"0x{status.sc:02x}",
            " Status code type": f"0x{status.sct:x}",
            " More": int(status.more),
            " DNR": int(status.dnr),
            "Error location": entry.error_location,
            "LBA": entry.lba,
            "Namespace ID": entry.nsid,
            "Vendor specific info": entry.vendor_info,
            "Transport type": entry.trtype,
            "Command specific info": entry.command_info,
            "Transport specific": entry.trtype_info,
        }
        lines += [f"Entry {number:02d}", "========"]
        lines += [f" {label + ':':<{_ERROR_WIDTH}} {value}" for label, value in rows.items()]
    return lines


def error_json(data: bytes) -> dict[str, Any]:
    """Error Information, page 01h."""
    return {"entries": [as_json(entry) for entry in _errors(data)]}


def _temperature(kelvin: int) -> str:
    if kelvin == 0:
        return "Not reported"
    celsius = kelvin - 273.15
    return f"{kelvin} K, {celsius:.2f} C, {celsius * 9 / 5 + 32:.2f} F"


def health_lines(data: bytes) -> list[str]:
    """SMART / Health Information, page 02h."""
    log = HealthLog.unpack(data)
    rows: dict[str, object] = {"Critical Warning State": f"0x{log.critical_warning:02x}"}
    rows |= {f" {name}": log.critical_warning >> bit & 1 for bit, name in enumerate(_WARNINGS)}
    rows |= {
        "Temperature": _temperature(log.temperature_k),
        "Available spare": log.available_spare,
        "Available spare threshold": log.available_spare_threshold,
        "Percentage used": log.percentage_used,
        "Data units (512,000 byte) read": log.data_units_read,
        "Data units written": log.data_units_written,
        "Host read commands": log.host_reads,
        "Host write commands": log.host_writes,
        "Controller busy time (minutes)": log.controller_busy_minutes,
        "Power cycles": log.power_cycles,
        "Power on hours": log.power_on_hours,
        "Unsafe shutdowns": log.unsafe_shutdowns,
        "Media errors": log.media_errors,
        "No. error info log entries": log.error_log_entries,
        "Warning Temp Composite Time": log.warning_temperature_minutes,
        "Error Temp Composite Time": log.critical_temperature_minutes,
    }
    # Zero: this sensor does not exist.
    rows |= {
        f"Temperature Sensor {number}": _temperature(kelvin)
        for number, kelvin in enumerate(log.temperature_sensors_k, 1)
        if kelvin
    }
    rows |= {
        "Temperature 1 Transition Count": log.tmt1_transitions,
        "Temperature 2 Transition Count": log.tmt2_transitions,
        "Total Time For Temperature 1": log.tmt1_seconds,
        "Total Time For Temperature 2": log.tmt2_seconds,
    }
    lines = section("SMART/Health Information Log")
    return lines + [f"{label + ':':<{_HEALTH_WIDTH}}{value}" for label, value in rows.items()]


def health_json(data: bytes) -> dict[str, Any]:
    """SMART / Health Information, page 02h."""
    return as_json(HealthLog.unpack(data))


def firmware_lines(data: bytes) -> list[str]:
    """Firmware Slot Information, page 03h: slots that hold something, and the active one."""
    log = FirmwareSlotLog.unpack(data)
    active, following = log.afi & 7, log.afi >> 4 & 7
    lines = section("Firmware Slot Log")
    for slot, revision in enumerate(log.revisions, 1):
        if slot not in {active, following} and not revision:
            continue
        state = "  Active" if slot == active else "    Next" if slot == following else "Inactive"
        lines.append(printable(f"Slot {slot}: [{state}] {revision or 'Empty'}"))
    return lines


def firmware_json(data: bytes) -> dict[str, Any]:
    """Firmware Slot Information, page 03h."""
    return as_json(FirmwareSlotLog.unpack(data))


def changed_lines(data: bytes) -> list[str]:
    """Changed Namespace List, page 04h."""
    lines = section("Changed Namespace List")
    nsids = unpack_namespace_list(data)
    # FFFFFFFFh alone: more than the list holds (Base 2.1, section 5.1.12.1.5).
    if nsids == [NSID_ALL]:
        return [*lines, "More than 1024 namespaces have changed"]
    return lines + ([f"{nsid:08x}" for nsid in nsids] or ["No namespaces have changed"])


def changed_json(data: bytes) -> dict[str, Any]:
    """Changed Namespace List, page 04h."""
    return {"nsids": unpack_namespace_list(data)}


def effects_lines(data: bytes) -> list[str]:
    """Commands Supported and Effects, page 05h: a line for each supported command."""
    log = CommandEffectsLog.unpack(data)
    lines = section("Commands Supported and Effects")
    for title, words, names in (
        ("Admin Commands", log.admin, AdminOpcode),
        ("I/O Commands", log.io, NvmOpcode),
    ):
        lines += [title, f"  {'Command':<32}{'LBCC NCC  NIC  CCC  CSE  UUID'}"]
        lines += _effects_table(words, {each.value: each.name for each in names})
    return lines


def _effects_table(words: tuple[int, ...], names: dict[int, str]) -> Iterator[str]:
    for opcode, word in enumerate(words):
        if word & CommandEffectsLog.CSUPP:
            name = names.get(opcode, "").replace("_", " ").title()
            flags = "".join(f"{'Yes' if word >> bit & 1 else 'No':<5}" for bit in _EFFECTS.values())
            # CSE, bits 18:16: who else may run commands meanwhile; bit 19: UUID selection.
            flags += f"{word >> 16 & 7:<5}{'Yes' if word >> 19 & 1 else 'No'}"
            yield f"  {f'{opcode:02x}h {name}':<32}{flags}"


def effects_json(data: bytes) -> dict[str, Any]:
    """Commands Supported and Effects, page 05h: opcode -> word, of supported commands."""
    log = CommandEffectsLog.unpack(data)
    return {
        name: {f"{opcode:02x}": word for opcode, word in enumerate(words) if word & log.CSUPP}
        for name, words in (("admin", log.admin), ("io", log.io))
    }


def ana_lines(data: bytes) -> list[str]:
    """Asymmetric Namespace Access, page 0Ch."""
    change_count, groups = unpack_ana_log(data)
    lines = section("Asymmetric Namespace Access Log")
    lines += [
        f"{'Change Count:':<{_ANA_WIDTH}}{change_count}",
        f"{'Number of ANA Group Descriptors:':<{_ANA_WIDTH}}{len(groups)}",
    ]
    for group in groups:
        lines += [
            f"ANA Group {group.group_id}",
            f"{' Change Count:':<{_ANA_WIDTH}}{group.change_count}",
            f"{' ANA State:':<{_ANA_WIDTH}}{name_of(_ANA_STATES, group.state)}",
            f"{' Namespaces:':<{_ANA_WIDTH}}{', '.join(map(str, group.nsids)) or 'none'}",
        ]
    return lines


def ana_json(data: bytes) -> dict[str, Any]:
    """Asymmetric Namespace Access, page 0Ch."""
    change_count, groups = unpack_ana_log(data)
    return {
        "change_count": change_count,
        "groups": [
            {
                "group_id": group.group_id,
                "state": group.state,
                "change_count": group.change_count,
                "nsids": list(group.nsids),
            }
            for group in groups
        ],
    }
