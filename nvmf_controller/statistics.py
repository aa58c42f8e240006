"""What was served, counted as cheaply as Python can and read as a snapshot."""

import attrs

from nvmf_transport.nvme import AdminOpcode, NvmOpcode


@attrs.frozen(kw_only=True)
class StatisticsSnapshot:
    """The counters of a subsystem at one moment; commands are counted when they arrive."""

    #: Commands by opcode (0..255), only those that came at all.
    admin_commands: dict[int, int]
    io_commands: dict[int, int]
    #: Writes and Write Zeroes that had FUA set.
    fua_writes: int
    read_bytes: int
    written_bytes: int
    #: Completions with a status other than success.
    errors: int
    #: Admin CONNECTs that succeeded.
    associations: int

    def io(self, opcode: NvmOpcode) -> int:
        """I/O commands of this opcode."""
        return self.io_commands.get(opcode, 0)

    def admin(self, opcode: AdminOpcode) -> int:
        """Admin commands of this opcode."""
        return self.admin_commands.get(opcode, 0)


class Statistics:
    """The counters themselves; those who serve commands add to them directly."""

    __slots__ = (
        "admin_commands",
        "associations",
        "errors",
        "fua_writes",
        "io_commands",
        "read_bytes",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.admin_commands = [0] * 256
        self.io_commands = [0] * 256
        self.fua_writes = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.errors = 0
        self.associations = 0

    def snapshot(self) -> StatisticsSnapshot:
        """The counters as they stand."""
        return StatisticsSnapshot(
            admin_commands={opc: n for opc, n in enumerate(self.admin_commands) if n},
            io_commands={opc: n for opc, n in enumerate(self.io_commands) if n},
            fua_writes=self.fua_writes,
            read_bytes=self.read_bytes,
            written_bytes=self.written_bytes,
            errors=self.errors,
            associations=self.associations,
        )
