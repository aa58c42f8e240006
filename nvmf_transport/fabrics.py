"""Fabrics commands and the discovery log (NVMe Base 2.1, sections 3.1.3.3, 5.1.12.3.1, 6)."""

import enum
from typing import ClassVar, Final

import attrs

from .wire import Bits, WireStruct, raw, text, u8, u16, u32, u64, utf8

DISCOVERY_NQN: Final = "nqn.2014-08.org.nvmexpress.discovery"
CNTLID_DYNAMIC: Final = 0xFFFF
CNTLID_STATIC_ANY: Final = 0xFFFE
CNTLID_MAX: Final = 0xFFEF
SQHD_DISABLED: Final = 0xFFFF
#: Entries of an admin queue: SQSIZE in CONNECT is this less one (0's based).
ADMIN_QUEUE_ENTRIES: Final = 32
MIN_ADMIN_QUEUE_ENTRIES: Final = 2
MAX_ADMIN_QUEUE_ENTRIES: Final = 4096
MAX_QUEUE_ENTRIES: Final = 65536


class FabricsType(enum.IntEnum):
    """FCTYPE: byte 4 of a Fabrics command."""

    PROPERTY_SET = 0x00
    CONNECT = 0x01
    PROPERTY_GET = 0x04
    AUTHENTICATION_SEND = 0x05
    AUTHENTICATION_RECEIVE = 0x06
    DISCONNECT = 0x08


@attrs.frozen
class FabricsCommand(WireStruct):
    """What every Fabrics command has in common: 64 bytes (Base 2.1, section 6)."""

    SIZE: ClassVar[int] = 64

    opc: int = u8(0, 0x7F)
    flags: int = u8(1, 0x40)
    cid: int = u16(2)
    fctype: int = u8(4)


@attrs.frozen
class ConnectCommand(WireStruct):
    """CONNECT: 64 bytes (Base 2.1, section 6.3)."""

    SIZE: ClassVar[int] = 64

    opc: int = u8(0, 0x7F)
    flags: int = u8(1, 0x40)
    cid: int = u16(2)
    fctype: int = u8(4, FabricsType.CONNECT)
    sgl_address: int = u64(24)
    sgl_length: int = u32(32)
    sgl_id: int = u8(39)
    recfmt: int = u16(40)
    qid: int = u16(42)
    sqsize: int = u16(44)
    cattr: int = u8(46)
    kato: int = u32(48)

    #: CATTR bit 2: Disable SQ Flow Control.
    CATTR_DISABLE_SQFLOW: ClassVar[int] = 1 << 2
    disable_sqflow = Bits("cattr", 2)


@attrs.frozen
class ConnectData(WireStruct):
    """Data of CONNECT: 1024 bytes (Base 2.1, section 6.3)."""

    SIZE: ClassVar[int] = 1024

    hostid: bytes = raw(0, 16)
    cntlid: int = u16(16, CNTLID_DYNAMIC)
    subnqn: str = utf8(256, 256)
    hostnqn: str = utf8(512, 256)


@attrs.frozen
class PropertyGetCommand(WireStruct):
    """Property Get: 64 bytes (Base 2.1, section 6.5)."""

    SIZE: ClassVar[int] = 64

    opc: int = u8(0, 0x7F)
    flags: int = u8(1, 0x40)
    cid: int = u16(2)
    fctype: int = u8(4, FabricsType.PROPERTY_GET)
    attrib: int = u8(40)
    ofst: int = u32(44)

    size = Bits("attrib", 2, 0)


@attrs.frozen
class PropertySetCommand(WireStruct):
    """Property Set: 64 bytes (Base 2.1, section 6.6)."""

    SIZE: ClassVar[int] = 64

    opc: int = u8(0, 0x7F)
    flags: int = u8(1, 0x40)
    cid: int = u16(2)
    fctype: int = u8(4, FabricsType.PROPERTY_SET)
    attrib: int = u8(40)
    ofst: int = u32(44)
    value: int = u64(48)

    size = Bits("attrib", 2, 0)


#: ATTRIB of Property Get and Set.
PROPERTY_4_BYTES: Final = 0
PROPERTY_8_BYTES: Final = 1


class TransportType(enum.IntEnum):
    """TRTYPE of a discovery log entry."""

    RDMA = 1
    FC = 2
    TCP = 3
    LOOP = 254


class AddressFamily(enum.IntEnum):
    """ADRFAM of a discovery log entry."""

    IPV4 = 1
    IPV6 = 2
    INFINIBAND = 3
    FC = 4
    INTRA_HOST = 254


class SubsystemType(enum.IntEnum):
    """SUBTYPE of a discovery log entry."""

    REFERRAL = 1
    NVM = 2
    CURRENT_DISCOVERY = 3


@attrs.frozen
class DiscoveryLogHeader(WireStruct):
    """Header of the Discovery Log Page, 70h: 1024 bytes; the entries follow."""

    SIZE: ClassVar[int] = 1024

    genctr: int = u64(0)
    numrec: int = u64(8)
    recfmt: int = u16(16)


@attrs.frozen
class DiscoveryLogEntry(WireStruct):
    """One entry of the Discovery Log Page: 1024 bytes."""

    SIZE: ClassVar[int] = 1024

    trtype: int = u8(0)
    adrfam: int = u8(1)
    subtype: int = u8(2)
    treq: int = u8(3)
    portid: int = u16(4)
    cntlid: int = u16(6)
    asqsz: int = u16(8)
    eflags: int = u16(10)
    trsvcid: str = text(32, 32)
    subnqn: str = utf8(256, 256)
    traddr: str = text(512, 256)
    sectype: int = u8(768)

    #: TREQ bits 1:0: secure channel; bit 2: SQ flow control may be disabled.
    secure_channel = Bits("treq", 1, 0)
    sqflow_optional = Bits("treq", 2)
