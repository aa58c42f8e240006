"""Queue entries, opcodes, features and properties (NVMe Base 2.1, NVM Command Set 1.1)."""

import enum
from typing import ClassVar, Final

import attrs

from .wire import Bits, Register, WireStruct, u8, u16, u32, u64

ADMIN_QID: Final = 0
NSID_ALL: Final = 0xFFFFFFFF
#: PSDT 01b: SGLs are used for the data transfer, the only choice over fabrics.
FLAGS_SGL: Final = 0x40


class AdminOpcode(enum.IntEnum):
    """Admin command opcodes (Base 2.1, section 5)."""

    GET_LOG_PAGE = 0x02
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT_REQUEST = 0x0C
    KEEP_ALIVE = 0x18
    CROSS_CONTROLLER_RESET = 0x38
    FABRICS = 0x7F


class NvmOpcode(enum.IntEnum):
    """I/O command opcodes (NVM Command Set 1.1, section 3.2)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09
    VERIFY = 0x0C


class FeatureId(enum.IntEnum):
    """Feature identifiers (Base 2.1, section 5.1.25)."""

    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    VOLATILE_WRITE_CACHE = 0x06
    NUMBER_OF_QUEUES = 0x07
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENT_CONFIG = 0x0B
    KEEP_ALIVE_TIMER = 0x0F
    HOST_BEHAVIOR_SUPPORT = 0x16
    HOST_IDENTIFIER = 0x81
    RESERVATION_NOTIFICATION_MASK = 0x82


class Cns(enum.IntEnum):
    """Controller or Namespace Structure: what IDENTIFY returns."""

    NAMESPACE = 0x00
    CONTROLLER = 0x01
    ACTIVE_NAMESPACES = 0x02
    NAMESPACE_DESCRIPTORS = 0x03


class SglId(enum.IntEnum):
    """SGL identifier: descriptor type in the high nibble, sub type in the low one."""

    DATA_BLOCK_OFFSET = 0x01
    TRANSPORT_DATA_BLOCK = 0x5A


@attrs.frozen
class SubmissionEntry(WireStruct):
    """SQE: 64 bytes (Base 2.1, section 4.1).  The SGL descriptor in DPTR is the transport's."""

    SIZE: ClassVar[int] = 64

    opc: int = u8(0)
    flags: int = u8(1, FLAGS_SGL)
    cid: int = u16(2)
    nsid: int = u32(4)
    cdw2: int = u32(8)
    cdw3: int = u32(12)
    mptr: int = u64(16)
    sgl_address: int = u64(24)
    sgl_length: int = u32(32)
    sgl_id: int = u8(39)
    cdw10: int = u32(40)
    cdw11: int = u32(44)
    cdw12: int = u32(48)
    cdw13: int = u32(52)
    cdw14: int = u32(56)
    cdw15: int = u32(60)

    fuse = Bits("flags", 1, 0)
    psdt = Bits("flags", 7, 6)

    @property
    def slba(self) -> int:
        """Starting LBA of an I/O command (CDW10, CDW11)."""
        return self.cdw10 | self.cdw11 << 32


@attrs.frozen
class CompletionEntry(WireStruct):
    """CQE: 16 bytes (Base 2.1, section 4.2).  `status_field` includes the phase tag in bit 0."""

    SIZE: ClassVar[int] = 16

    result: int = u64(0)
    sqhd: int = u16(8)
    sqid: int = u16(10)
    cid: int = u16(12)
    status_field: int = u16(14)


@attrs.frozen
class DsmRange(WireStruct):
    """One range of Dataset Management: 16 bytes (NVM Command Set 1.1, section 3.2.3)."""

    SIZE: ClassVar[int] = 16
    MAX_RANGES: ClassVar[int] = 256

    attributes: int = u32(0)
    length_lbas: int = u32(4)
    slba: int = u64(8)


@attrs.frozen
class CrossControllerResetCommand(WireStruct):
    """Cross-Controller Reset: an SQE of 64 bytes (Base 2.3, section 5.4.3).

    It names the Impacted Controller by its ID and by which instance of it is meant: Identify
    Controller's CIU and CIRN.
    """

    SIZE: ClassVar[int] = 64

    opc: int = u8(0, AdminOpcode.CROSS_CONTROLLER_RESET)
    flags: int = u8(1, FLAGS_SGL)
    cid: int = u16(2)
    icid: int = u16(40)
    ciu: int = u8(42)
    cirn: int = u64(48)

    #: DW0 of the completion: Immediate Reset Successful.  Without it the reset goes on.
    IMMEDIATE: ClassVar[int] = 1 << 0


#: CDW12 of Write, Write Zeroes: Force Unit Access.
RW_FUA: Final = 1 << 30
#: CDW12 of Write Zeroes: Deallocate.
WZ_DEAC: Final = 1 << 25
#: CDW11 of Dataset Management: Attribute - Deallocate.
DSM_AD: Final = 1 << 2


class Property(enum.IntEnum):
    """Offsets of the properties that fabrics controllers have (Base 2.1, section 3.1.4)."""

    CAP = 0x00
    VS = 0x08
    CC = 0x14
    CSTS = 0x1C
    NSSR = 0x20
    CRTO = 0x68


@attrs.frozen
class Cap(Register):
    """Controller Capabilities: 64 bits (Base 2.1, section 3.1.4.1)."""

    mqes = Bits("value", 15, 0)
    cqr = Bits("value", 16)
    ams = Bits("value", 18, 17)
    to = Bits("value", 31, 24)
    dstrd = Bits("value", 35, 32)
    nssrs = Bits("value", 36)
    css = Bits("value", 44, 37)
    mpsmin = Bits("value", 51, 48)
    mpsmax = Bits("value", 55, 52)
    crms = Bits("value", 60, 59)

    #: Bits of CSS.
    CSS_NVM: ClassVar[int] = 0x01
    CSS_IOCSS: ClassVar[int] = 0x40
    CSS_ADMIN_ONLY: ClassVar[int] = 0x80

    @property
    def timeout_s(self) -> float:
        """CAP.TO, the longest that CSTS.RDY may take to follow CC.EN."""
        return self.to * 0.5


@attrs.frozen
class Vs(Register):
    """Version: 32 bits (Base 2.1, section 3.1.4.2)."""

    major = Bits("value", 31, 16)
    minor = Bits("value", 15, 8)
    tertiary = Bits("value", 7, 0)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.tertiary}"


@attrs.frozen
class Cc(Register):
    """Controller Configuration: 32 bits (Base 2.1, section 3.1.4.5)."""

    en = Bits("value", 0)
    css = Bits("value", 6, 4)
    mps = Bits("value", 10, 7)
    ams = Bits("value", 13, 11)
    shn = Bits("value", 15, 14)
    iosqes = Bits("value", 19, 16)
    iocqes = Bits("value", 23, 20)
    crime = Bits("value", 24)

    SHN_NORMAL: ClassVar[int] = 1
    SHN_ABRUPT: ClassVar[int] = 2


@attrs.frozen
class Csts(Register):
    """Controller Status: 32 bits (Base 2.1, section 3.1.4.6)."""

    rdy = Bits("value", 0)
    cfs = Bits("value", 1)
    shst = Bits("value", 3, 2)
    nssro = Bits("value", 4)
    pp = Bits("value", 5)

    SHST_NORMAL: ClassVar[int] = 0
    SHST_OCCURRING: ClassVar[int] = 1
    SHST_COMPLETE: ClassVar[int] = 2


class AsyncEventType(enum.IntEnum):
    """Type of an asynchronous event: DW0 bits 2:0 of its completion."""

    ERROR = 0
    SMART = 1
    NOTICE = 2
    IMMEDIATE = 3
    ONE_SHOT = 4
    IO_COMMAND_SET = 6
    VENDOR = 7


class Notice(enum.IntEnum):
    """Information of a Notice event: DW0 bits 15:8."""

    NAMESPACE_ATTRIBUTE_CHANGED = 0x00
    FIRMWARE_ACTIVATION_STARTING = 0x01
    TELEMETRY_LOG_CHANGED = 0x02
    ANA_CHANGE = 0x03
    NVM_SUBSYSTEM_NORMAL_SHUTDOWN = 0x08
    DISCOVERY_LOG_CHANGE = 0xF0
    CROSS_CONTROLLER_RESET_COMPLETED = 0xF4


@attrs.frozen
class AsyncEvent(Register):
    """DW0 of an Asynchronous Event Request's completion (Base 2.1, section 5.1.2)."""

    event_type = Bits("value", 2, 0)
    info = Bits("value", 15, 8)
    log_page = Bits("value", 23, 16)


#: Bits of OAES and of the Asynchronous Event Configuration feature.
AEC_SMART: Final = 0x1F
AEC_NAMESPACE_ATTRIBUTE: Final = 1 << 8
AEC_FIRMWARE_ACTIVATION: Final = 1 << 9
AEC_ANA_CHANGE: Final = 1 << 11
AEC_DISCOVERY_CHANGE: Final = 1 << 31
