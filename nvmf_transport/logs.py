"""Log pages (NVMe Base 2.1, section 5.1.12)."""

import enum
import struct
from typing import ClassVar

import attrs

from .errors import RemoteProtocolError
from .wire import (
    Buffer,
    WireStruct,
    array_text,
    array_u16,
    array_u32,
    u8,
    u16,
    u32,
    u64,
    u128,
)


class LogId(enum.IntEnum):
    """Log page identifiers."""

    ERROR = 0x01
    HEALTH = 0x02
    FIRMWARE_SLOT = 0x03
    CHANGED_NAMESPACES = 0x04
    COMMAND_EFFECTS = 0x05
    ANA = 0x0C
    CROSS_CONTROLLER_RESET = 0x1E
    DISCOVERY = 0x70


@attrs.frozen
class ErrorEntry(WireStruct):
    """One entry of the Error Information log, page 01h: 64 bytes."""

    SIZE: ClassVar[int] = 64

    error_count: int = u64(0)
    sqid: int = u16(8)
    cid: int = u16(10)
    status_field: int = u16(12)
    error_location: int = u16(14)
    lba: int = u64(16)
    nsid: int = u32(24)
    vendor_info: int = u8(28)
    trtype: int = u8(29)
    csi: int = u8(30)
    opc: int = u8(31)
    command_info: int = u64(32)
    trtype_info: int = u16(40)


@attrs.frozen
class HealthLog(WireStruct):
    """SMART / Health Information, page 02h: 512 bytes.  Data units are 1000 x 512 bytes."""

    SIZE: ClassVar[int] = 512

    critical_warning: int = u8(0)
    temperature_k: int = u16(1)
    available_spare: int = u8(3)
    available_spare_threshold: int = u8(4)
    percentage_used: int = u8(5)
    endurance_group_warning: int = u8(6)
    data_units_read: int = u128(32)
    data_units_written: int = u128(48)
    host_reads: int = u128(64)
    host_writes: int = u128(80)
    controller_busy_minutes: int = u128(96)
    power_cycles: int = u128(112)
    power_on_hours: int = u128(128)
    unsafe_shutdowns: int = u128(144)
    media_errors: int = u128(160)
    error_log_entries: int = u128(176)
    warning_temperature_minutes: int = u32(192)
    critical_temperature_minutes: int = u32(196)
    temperature_sensors_k: tuple[int, ...] = array_u16(200, 8)
    tmt1_transitions: int = u32(216)
    tmt2_transitions: int = u32(220)
    tmt1_seconds: int = u32(224)
    tmt2_seconds: int = u32(228)


@attrs.frozen
class FirmwareSlotLog(WireStruct):
    """Firmware Slot Information, page 03h: 512 bytes."""

    SIZE: ClassVar[int] = 512

    afi: int = u8(0)
    revisions: tuple[str, ...] = array_text(8, 7, 8)


@attrs.frozen
class CommandEffectsLog(WireStruct):
    """Commands Supported and Effects, page 05h: 4096 bytes; one word an opcode."""

    SIZE: ClassVar[int] = 4096

    admin: tuple[int, ...] = array_u32(0, 256)
    io: tuple[int, ...] = array_u32(1024, 256)

    #: Command Supported, Logical Block Content Change.
    CSUPP: ClassVar[int] = 1 << 0
    LBCC: ClassVar[int] = 1 << 1


@attrs.frozen
class CrossControllerResetHeader(WireStruct):
    """Head of the Cross-Controller Reset log, page 1Eh: 8 bytes, then the entries (Base 2.3)."""

    SIZE: ClassVar[int] = 8
    MAX_ENTRIES: ClassVar[int] = 511

    entries: int = u16(0)


@attrs.frozen
class CrossControllerResetEntry(WireStruct):
    """One entry of page 1Eh, a reset that went on when its command was answered: 8 bytes."""

    SIZE: ClassVar[int] = 8

    icid: int = u16(0)
    ciu: int = u8(2)
    #: Alternate Controller ID.
    acid: int = u16(4)
    status: int = u8(6)
    flags: int = u8(7)

    #: CCRS.
    IN_PROGRESS: ClassVar[int] = 0
    SUCCESS: ClassVar[int] = 1
    FAILED: ClassVar[int] = 2


class AnaState(enum.IntEnum):
    """Asymmetric Namespace Access states (Base 2.1, section 8.1.1)."""

    OPTIMIZED = 0x1
    NON_OPTIMIZED = 0x2
    INACCESSIBLE = 0x3
    PERSISTENT_LOSS = 0x4
    CHANGE = 0xF


@attrs.frozen
class AnaLogHeader(WireStruct):
    """Header of the Asymmetric Namespace Access log, page 0Ch: 16 bytes."""

    SIZE: ClassVar[int] = 16

    change_count: int = u64(0)
    groups: int = u16(8)


@attrs.frozen
class AnaGroupHeader(WireStruct):
    """Head of one ANA group descriptor: 32 bytes, then `nsid_count` NSIDs."""

    SIZE: ClassVar[int] = 32

    group_id: int = u32(0)
    nsid_count: int = u32(4)
    change_count: int = u64(8)
    state: int = u8(16)


@attrs.frozen
class AnaGroup:
    """One ANA group: its state and the NSIDs in it."""

    group_id: int
    state: int
    nsids: tuple[int, ...]
    change_count: int = 0


def pack_ana_log(change_count: int, groups: list[AnaGroup]) -> bytes:
    """Encodes an ANA log page."""
    parts = [AnaLogHeader(change_count=change_count, groups=len(groups)).pack()]
    for group in groups:
        head = AnaGroupHeader(
            group_id=group.group_id,
            nsid_count=len(group.nsids),
            change_count=group.change_count,
            state=group.state,
        )
        parts += [head.pack(), struct.pack(f"<{len(group.nsids)}I", *group.nsids)]
    return b"".join(parts)


def unpack_ana_log(buffer: Buffer) -> tuple[int, list[AnaGroup]]:
    """Decodes an ANA log page into its change count and groups.

    Raises `RemoteProtocolError` where the groups do not fit the buffer.
    """
    header = AnaLogHeader.unpack(buffer)
    position = AnaLogHeader.SIZE
    groups = []
    for _ in range(header.groups):
        head = AnaGroupHeader.unpack(buffer, position)
        position += AnaGroupHeader.SIZE
        if position + 4 * head.nsid_count > len(buffer):
            raise RemoteProtocolError(
                f"ANA group {head.group_id} names {head.nsid_count} NSIDs, "
                f"more than the log page of {len(buffer)} bytes holds"
            )
        nsids = struct.unpack_from(f"<{head.nsid_count}I", buffer, position)
        position += 4 * head.nsid_count
        groups.append(AnaGroup(head.group_id, head.state & 0xF, nsids, head.change_count))
    return header.change_count, groups
