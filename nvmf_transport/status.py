"""Status values of completions (NVMe Base 2.1, section 4.2.3)."""

from typing import Final

import attrs

SCT_GENERIC: Final = 0
SCT_COMMAND_SPECIFIC: Final = 1
SCT_MEDIA: Final = 2
SCT_PATH: Final = 3
SCT_VENDOR: Final = 7


@attrs.frozen
class Status:
    """The 15 bits of a completion's status field, without the phase tag."""

    sct: int = 0
    sc: int = 0
    crd: int = 0
    more: bool = False
    dnr: bool = False

    @classmethod
    def from_field(cls, field: int) -> "Status":
        """Decodes the status field of a CQE shifted right by one (no phase tag)."""
        return cls(
            sct=(field >> 8) & 7,
            sc=field & 0xFF,
            crd=(field >> 11) & 3,
            more=bool(field & 0x2000),
            dnr=bool(field & 0x4000),
        )

    def to_field(self) -> int:
        """The 15 bits, as `from_field` takes them."""
        flags = self.more << 13 | self.dnr << 14
        return self.sc | self.sct << 8 | self.crd << 11 | flags

    @property
    def code(self) -> tuple[int, int]:
        """Status code type and status code: what `names` and the policies are keyed by."""
        return (self.sct, self.sc)

    @property
    def ok(self) -> bool:
        """True for Successful Completion."""
        return self.sct == 0 and self.sc == 0

    def with_dnr(self) -> "Status":
        """The same status with Do Not Retry set."""
        return attrs.evolve(self, dnr=True)

    def __str__(self) -> str:
        name = NAMES.get(self.code) or f"status {self.sc:02X}h"
        return f"{name} ({self.sct:X}/{self.sc:02X}h{', DNR' if self.dnr else ''})"


def _generic(sc: int) -> Status:
    return Status(SCT_GENERIC, sc)


def _specific(sc: int) -> Status:
    return Status(SCT_COMMAND_SPECIFIC, sc)


SUCCESS: Final = _generic(0x00)
INVALID_OPCODE: Final = _generic(0x01)
INVALID_FIELD: Final = _generic(0x02)
COMMAND_ID_CONFLICT: Final = _generic(0x03)
DATA_TRANSFER_ERROR: Final = _generic(0x04)
INTERNAL_ERROR: Final = _generic(0x06)
ABORT_REQUESTED: Final = _generic(0x07)
ABORTED_SQ_DELETION: Final = _generic(0x08)
INVALID_NAMESPACE: Final = _generic(0x0B)
COMMAND_SEQUENCE_ERROR: Final = _generic(0x0C)
INVALID_SGL_DESCRIPTOR: Final = _generic(0x0D)
INVALID_SGL_COUNT: Final = _generic(0x0E)
DATA_SGL_LENGTH_INVALID: Final = _generic(0x0F)
SGL_TYPE_INVALID: Final = _generic(0x11)
SGL_OFFSET_INVALID: Final = _generic(0x16)
KEEP_ALIVE_EXPIRED: Final = _generic(0x19)
WRITE_PROTECTED: Final = _generic(0x20)
TRANSIENT_TRANSPORT_ERROR: Final = _generic(0x22)
LBA_OUT_OF_RANGE: Final = _generic(0x80)
CAPACITY_EXCEEDED: Final = _generic(0x81)
NAMESPACE_NOT_READY: Final = _generic(0x82)
RESERVATION_CONFLICT: Final = _generic(0x83)
FORMAT_IN_PROGRESS: Final = _generic(0x84)

ABORT_LIMIT_EXCEEDED: Final = _specific(0x03)
AER_LIMIT_EXCEEDED: Final = _specific(0x05)
INVALID_LOG_PAGE: Final = _specific(0x09)
FEATURE_NOT_SAVEABLE: Final = _specific(0x0D)
FEATURE_NOT_CHANGEABLE: Final = _specific(0x0E)
CROSS_RESET_IN_PROGRESS: Final = _specific(0x3F)
CROSS_RESET_LOG_FULL: Final = _specific(0x40)
CROSS_RESET_LIMIT_EXCEEDED: Final = _specific(0x41)
INCOMPATIBLE_FORMAT: Final = _specific(0x80)
CONTROLLER_BUSY: Final = _specific(0x81)
CONNECT_INVALID_PARAMETERS: Final = _specific(0x82)
CONNECT_RESTART_DISCOVERY: Final = _specific(0x83)
CONNECT_INVALID_HOST: Final = _specific(0x84)
DISCOVERY_RESTART: Final = _specific(0x90)
AUTHENTICATION_REQUIRED: Final = _specific(0x91)
# 80h and up mean one thing for Fabrics commands and another for I/O commands.
CONFLICTING_ATTRIBUTES: Final = _specific(0x80)
INVALID_PROTECTION_INFORMATION: Final = _specific(0x81)
WRITE_TO_READ_ONLY_RANGE: Final = _specific(0x82)

WRITE_FAULT: Final = Status(SCT_MEDIA, 0x80)
UNRECOVERED_READ_ERROR: Final = Status(SCT_MEDIA, 0x81)
COMPARE_FAILURE: Final = Status(SCT_MEDIA, 0x85)
ACCESS_DENIED: Final = Status(SCT_MEDIA, 0x86)

ANA_PERSISTENT_LOSS: Final = Status(SCT_PATH, 0x01)
ANA_INACCESSIBLE: Final = Status(SCT_PATH, 0x02)
ANA_TRANSITION: Final = Status(SCT_PATH, 0x03)
HOST_PATHING_ERROR: Final = Status(SCT_PATH, 0x70)
COMMAND_ABORTED_BY_HOST: Final = Status(SCT_PATH, 0x71)

#: Names as the specification gives them, for messages.
NAMES: Final[dict[tuple[int, int], str]] = {
    (0, 0x00): "Successful Completion",
    (0, 0x01): "Invalid Command Opcode",
    (0, 0x02): "Invalid Field in Command",
    (0, 0x03): "Command ID Conflict",
    (0, 0x04): "Data Transfer Error",
    (0, 0x05): "Commands Aborted due to Power Loss Notification",
    (0, 0x06): "Internal Error",
    (0, 0x07): "Command Abort Requested",
    (0, 0x08): "Command Aborted due to SQ Deletion",
    (0, 0x09): "Command Aborted due to Failed Fused Command",
    (0, 0x0A): "Command Aborted due to Missing Fused Command",
    (0, 0x0B): "Invalid Namespace or Format",
    (0, 0x0C): "Command Sequence Error",
    (0, 0x0D): "Invalid SGL Segment Descriptor",
    (0, 0x0E): "Invalid Number of SGL Descriptors",
    (0, 0x0F): "Data SGL Length Invalid",
    (0, 0x10): "Metadata SGL Length Invalid",
    (0, 0x11): "SGL Descriptor Type Invalid",
    (0, 0x13): "PRP Offset Invalid",
    (0, 0x15): "Operation Denied",
    (0, 0x16): "SGL Offset Invalid",
    (0, 0x18): "Host Identifier Inconsistent Format",
    (0, 0x19): "Keep Alive Timer Expired",
    (0, 0x1A): "Keep Alive Timeout Invalid",
    (0, 0x1C): "Sanitize Failed",
    (0, 0x1D): "Sanitize In Progress",
    (0, 0x1F): "Command Not Supported for Queue in CMB",
    (0, 0x20): "Namespace is Write Protected",
    (0, 0x21): "Command Interrupted",
    (0, 0x22): "Transient Transport Error",
    (0, 0x24): "Admin Command Media Not Ready",
    (0, 0x80): "LBA Out of Range",
    (0, 0x81): "Capacity Exceeded",
    (0, 0x82): "Namespace Not Ready",
    (0, 0x83): "Reservation Conflict",
    (0, 0x84): "Format In Progress",
    (1, 0x00): "Completion Queue Invalid",
    (1, 0x01): "Invalid Queue Identifier",
    (1, 0x02): "Invalid Queue Size",
    (1, 0x03): "Abort Command Limit Exceeded",
    (1, 0x05): "Asynchronous Event Request Limit Exceeded",
    (1, 0x06): "Invalid Firmware Slot",
    (1, 0x07): "Invalid Firmware Image",
    (1, 0x09): "Invalid Log Page",
    (1, 0x0A): "Invalid Format",
    (1, 0x0D): "Feature Identifier Not Saveable",
    (1, 0x0E): "Feature Not Changeable",
    (1, 0x0F): "Feature Not Namespace Specific",
    (1, 0x3F): "Cross-Controller Reset in Progress",
    (1, 0x40): "Cross-Controller Reset Log Page Full",
    (1, 0x41): "Cross-Controller Reset Limit Exceeded",
    (1, 0x80): "Connect Incompatible Format, or Conflicting Attributes",
    (1, 0x81): "Connect Controller Busy, or Invalid Protection Information",
    (1, 0x82): "Connect Invalid Parameters, or Attempted Write to Read Only Range",
    (1, 0x83): "Connect Restart Discovery, or Command Size Limit Exceeded",
    (1, 0x84): "Connect Invalid Host",
    (1, 0x85): "Invalid Queue Type",
    (1, 0x90): "Discover Restart",
    (1, 0x91): "Authentication Required",
    (2, 0x80): "Write Fault",
    (2, 0x81): "Unrecovered Read Error",
    (2, 0x82): "End-to-end Guard Check Error",
    (2, 0x83): "End-to-end Application Tag Check Error",
    (2, 0x84): "End-to-end Reference Tag Check Error",
    (2, 0x85): "Compare Failure",
    (2, 0x86): "Access Denied",
    (2, 0x87): "Deallocated or Unwritten Logical Block",
    (3, 0x00): "Internal Path Error",
    (3, 0x01): "Asymmetric Access Persistent Loss",
    (3, 0x02): "Asymmetric Access Inaccessible",
    (3, 0x03): "Asymmetric Access Transition",
    (3, 0x60): "Controller Pathing Error",
    (3, 0x70): "Host Pathing Error",
    (3, 0x71): "Command Aborted By Host",
}
