"""Get Log Page: which page, which part of it (Base 2.1, section 5.1.12)."""

import struct
import time
from typing import TYPE_CHECKING, Final

import attrs

from nvmf_transport.errors import CommandError
from nvmf_transport.logs import CommandEffectsLog, FirmwareSlotLog, HealthLog, LogId
from nvmf_transport.nvme import AdminOpcode, NvmOpcode, SubmissionEntry
from nvmf_transport.status import INVALID_FIELD

if TYPE_CHECKING:
    from .statistics import Statistics

#: Supported Log Pages: a word for each identifier, bit 0 says that it is there.
LID_SUPPORTED: Final = 0x00
_SUPPORTED_WORDS: Final = 256
_DATA_UNIT_BYTES: Final = 512_000


@attrs.frozen
class LogRequest:
    """The fields of a Get Log Page command."""

    lid: int
    nsid: int
    offset: int
    length_bytes: int
    retain_event: bool

    @classmethod
    def of(cls, entry: SubmissionEntry) -> "LogRequest":
        """Decodes the command; raises `CommandError` for an offset that is not allowed."""
        numd = entry.cdw10 >> 16 | (entry.cdw11 & 0xFFFF) << 16
        offset = entry.cdw12 | entry.cdw13 << 32
        if offset % 4 or entry.cdw14 >> 23 & 1:  # LPOL in dwords; OT: offset by index.
            raise CommandError(INVALID_FIELD.with_dnr())
        return cls(
            lid=entry.cdw10 & 0xFF,
            nsid=entry.nsid,
            offset=offset,
            length_bytes=(numd + 1) * 4,
            retain_event=bool(entry.cdw10 >> 15 & 1),
        )

    def part_of(self, page: bytes) -> bytes:
        """The part that was asked for, zeroes after the page's end.

        Raises `CommandError` where the offset is beyond the end.
        """
        if self.offset > len(page):
            raise CommandError(INVALID_FIELD.with_dnr())
        return page[self.offset : self.offset + self.length_bytes].ljust(self.length_bytes, b"\0")


def supported_pages(lids: frozenset[int]) -> bytes:
    """Supported Log Pages, 00h."""
    words = [1 if lid in lids else 0 for lid in range(_SUPPORTED_WORDS)]
    return struct.pack(f"<{_SUPPORTED_WORDS}I", *words)


def health(statistics: "Statistics", started_at: float) -> bytes:
    """SMART / Health Information, 02h, of the whole subsystem.

    A file has neither spares nor a temperature: full spare, nothing used, 0 K for "not measured".
    """
    commands = statistics.io_commands
    reads = commands[NvmOpcode.READ] + commands[NvmOpcode.COMPARE] + commands[NvmOpcode.VERIFY]
    return HealthLog(
        available_spare=100,
        available_spare_threshold=10,
        data_units_read=-(-statistics.read_bytes // _DATA_UNIT_BYTES),
        data_units_written=-(-statistics.written_bytes // _DATA_UNIT_BYTES),
        host_reads=reads,
        host_writes=commands[NvmOpcode.WRITE],
        power_cycles=1,
        power_on_hours=int((time.monotonic() - started_at) // 3600),
        error_log_entries=statistics.errors,
    ).pack()


def firmware_slots(revision: str) -> bytes:
    """Firmware Slot Information, 03h: one slot, active."""
    return FirmwareSlotLog(afi=1, revisions=(revision, *("",) * 6)).pack()


def command_effects() -> bytes:
    """Commands Supported and Effects, 05h."""
    supported = CommandEffectsLog.CSUPP
    changing = supported | CommandEffectsLog.LBCC
    admin, io = [0] * 256, [0] * 256
    for admin_opcode in AdminOpcode:
        if admin_opcode != AdminOpcode.FABRICS:
            admin[admin_opcode] = supported
    for opcode in (NvmOpcode.FLUSH, NvmOpcode.READ, NvmOpcode.COMPARE, NvmOpcode.VERIFY):
        io[opcode] = supported
    for opcode in (NvmOpcode.WRITE, NvmOpcode.WRITE_ZEROES, NvmOpcode.DATASET_MANAGEMENT):
        io[opcode] = changing
    return CommandEffectsLog(admin=tuple(admin), io=tuple(io)).pack()


NVM_LOG_PAGES: Final = frozenset(
    {
        LID_SUPPORTED,
        LogId.ERROR,
        LogId.HEALTH,
        LogId.FIRMWARE_SLOT,
        LogId.CHANGED_NAMESPACES,
        LogId.COMMAND_EFFECTS,
        LogId.CROSS_CONTROLLER_RESET,
    }
)
