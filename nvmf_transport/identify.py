"""Structures that IDENTIFY returns (Base 2.1, section 5.1.13; NVM Command Set 1.1, section 4.1.5).

Fields that no one here reads are left out; they are reserved as far as this file goes.
"""

import enum
import struct
from collections.abc import Iterable
from typing import ClassVar, Final

import attrs

from .errors import RemoteProtocolError
from .wire import Bits, Buffer, WireStruct, array_u32, raw, text, u8, u16, u32, u64, u128, utf8

IDENTIFY_BYTES: Final = 4096
MAX_ACTIVE_NAMESPACES: Final = 1024


@attrs.frozen
class IdentifyController(WireStruct):
    """Identify Controller data structure, CNS 01h: 4096 bytes."""

    SIZE: ClassVar[int] = IDENTIFY_BYTES

    vid: int = u16(0)
    ssvid: int = u16(2)
    sn: str = text(4, 20)
    mn: str = text(24, 40)
    fr: str = text(64, 8)
    rab: int = u8(72)
    ieee: bytes = raw(73, 3)
    cmic: int = u8(76)
    mdts: int = u8(77)
    cntlid: int = u16(78)
    ver: int = u32(80)
    rtd3r: int = u32(84)
    rtd3e: int = u32(88)
    oaes: int = u32(92)
    ctratt: int = u32(96)
    rrls: int = u16(100)
    cntrltype: int = u8(111)
    fguid: bytes = raw(112, 16)
    crdt1: int = u16(128)
    crdt2: int = u16(130)
    crdt3: int = u16(132)
    ciu: int = u8(135)
    cirn: int = u64(136)
    oacs: int = u16(256)
    acl: int = u8(258)
    aerl: int = u8(259)
    frmw: int = u8(260)
    lpa: int = u8(261)
    elpe: int = u8(262)
    npss: int = u8(263)
    avscc: int = u8(264)
    apsta: int = u8(265)
    wctemp: int = u16(266)
    cctemp: int = u16(268)
    mtfa: int = u16(270)
    hmpre: int = u32(272)
    hmmin: int = u32(276)
    tnvmcap: int = u128(280)
    unvmcap: int = u128(296)
    rpmbs: int = u32(312)
    edstt: int = u16(316)
    dsto: int = u8(318)
    fwug: int = u8(319)
    kas: int = u16(320)
    hctma: int = u16(322)
    mntmt: int = u16(324)
    mxtmt: int = u16(326)
    sanicap: int = u32(328)
    hmminds: int = u32(332)
    hmmaxd: int = u16(336)
    nsetidmax: int = u16(338)
    endgidmax: int = u16(340)
    anatt: int = u8(342)
    anacap: int = u8(343)
    anagrpmax: int = u32(344)
    nanagrpid: int = u32(348)
    pels: int = u32(352)
    cqt: int = u16(386)
    sqes: int = u8(512)
    cqes: int = u8(513)
    maxcmd: int = u16(514)
    nn: int = u32(516)
    oncs: int = u16(520)
    fuses: int = u16(522)
    fna: int = u8(524)
    vwc: int = u8(525)
    awun: int = u16(526)
    awupf: int = u16(528)
    icsvscc: int = u8(530)
    nwpc: int = u8(531)
    acwu: int = u16(532)
    sgls: int = u32(536)
    mnan: int = u32(540)
    subnqn: str = utf8(768, 256)
    ioccsz: int = u32(1792)
    iorcsz: int = u32(1796)
    icdoff: int = u16(1800)
    fcatt: int = u8(1802)
    msdbd: int = u8(1803)
    ofcs: int = u16(1804)
    dctype: int = u8(1806)
    #: Cross-Controller Resets that may be in progress at a time, 0 where there is no such command.
    ccrl: int = u8(1807)

    #: CTRATT bits.
    CTRATT_HOSTID_128: ClassVar[int] = 1 << 0
    CTRATT_TBKAS: ClassVar[int] = 1 << 6
    #: ONCS bits.
    ONCS_COMPARE: ClassVar[int] = 1 << 0
    ONCS_WRITE_UNCORRECTABLE: ClassVar[int] = 1 << 1
    ONCS_DSM: ClassVar[int] = 1 << 2
    ONCS_WRITE_ZEROES: ClassVar[int] = 1 << 3
    ONCS_SAVE: ClassVar[int] = 1 << 4
    ONCS_RESERVATIONS: ClassVar[int] = 1 << 5
    ONCS_TIMESTAMP: ClassVar[int] = 1 << 6
    ONCS_VERIFY: ClassVar[int] = 1 << 7
    ONCS_COPY: ClassVar[int] = 1 << 8
    #: CNTRLTYPE values.
    TYPE_IO: ClassVar[int] = 1
    TYPE_DISCOVERY: ClassVar[int] = 2

    vwc_present = Bits("vwc", 0)
    #: 10b: Flush with NSID FFFFFFFFh is refused; 11b: it is taken.
    vwc_flush_all = Bits("vwc", 2, 1)
    tbkas = Bits("ctratt", 6)


@attrs.frozen
class LbaFormat:
    """One LBA format of Identify Namespace: metadata size, LBA size, relative performance."""

    metadata_bytes: int
    lbads: int
    relative_performance: int = 0

    @classmethod
    def from_word(cls, word: int) -> "LbaFormat":
        """Decodes the 32 bits of LBAFn."""
        return cls(word & 0xFFFF, (word >> 16) & 0xFF, (word >> 24) & 3)

    def to_word(self) -> int:
        """The 32 bits of LBAFn."""
        return self.metadata_bytes | self.lbads << 16 | self.relative_performance << 24

    @property
    def lba_bytes(self) -> int:
        """LBA data size; 0 where LBADS says that the format is not in use, or nothing sensible."""
        return 1 << self.lbads if 9 <= self.lbads < 32 else 0


@attrs.frozen
class IdentifyNamespace(WireStruct):
    """Identify Namespace data structure of the NVM Command Set, CNS 00h: 4096 bytes."""

    SIZE: ClassVar[int] = IDENTIFY_BYTES

    nsze: int = u64(0)
    ncap: int = u64(8)
    nuse: int = u64(16)
    nsfeat: int = u8(24)
    nlbaf: int = u8(25)
    flbas: int = u8(26)
    mc: int = u8(27)
    dpc: int = u8(28)
    dps: int = u8(29)
    nmic: int = u8(30)
    rescap: int = u8(31)
    fpi: int = u8(32)
    dlfeat: int = u8(33)
    nawun: int = u16(34)
    nawupf: int = u16(36)
    nacwu: int = u16(38)
    nabsn: int = u16(40)
    nabo: int = u16(42)
    nabspf: int = u16(44)
    noiob: int = u16(46)
    nvmcap: int = u128(48)
    npwg: int = u16(64)
    npwa: int = u16(66)
    npdg: int = u16(68)
    npda: int = u16(70)
    nows: int = u16(72)
    mssrl: int = u16(74)
    mcl: int = u32(76)
    msrc: int = u8(80)
    nulbaf: int = u8(82)
    anagrpid: int = u32(92)
    nsattr: int = u8(99)
    nvmsetid: int = u16(100)
    endgid: int = u16(102)
    nguid: bytes = raw(104, 16)
    eui64: bytes = raw(120, 8)
    lbaf: tuple[int, ...] = array_u32(128, 64)

    pit = Bits("dps", 2, 0)
    write_protected = Bits("nsattr", 0)
    thin = Bits("nsfeat", 0)
    shared = Bits("nmic", 0)

    @property
    def format_index(self) -> int:
        """Index of the LBA format in use: FLBAS bits 6:5 and 3:0 (the high ones count only
        where there are more than 16 formats)."""
        low = self.flbas & 0x0F
        return low | (self.flbas >> 5 & 3) << 4 if self.nlbaf + self.nulbaf > 15 else low

    @property
    def lba_format(self) -> LbaFormat:
        """The LBA format in use."""
        return LbaFormat.from_word(self.lbaf[self.format_index])


class DescriptorType(enum.IntEnum):
    """Namespace Identifier Type (Base 2.1, section 5.1.13.2.3)."""

    EUI64 = 1
    NGUID = 2
    UUID = 3
    CSI = 4


_DESCRIPTOR_BYTES: Final = {
    DescriptorType.EUI64: 8,
    DescriptorType.NGUID: 16,
    DescriptorType.UUID: 16,
    DescriptorType.CSI: 1,
}


def pack_namespace_descriptors(descriptors: Iterable[tuple[int, bytes]]) -> bytes:
    """Encodes (type, value) pairs as a Namespace Identification Descriptor list, CNS 03h."""
    body = b"".join(bytes((nidt, len(nid), 0, 0)) + nid for nidt, nid in descriptors)
    return body.ljust(IDENTIFY_BYTES, b"\0")


def unpack_namespace_descriptors(buffer: Buffer) -> dict[int, bytes]:
    """Decodes a Namespace Identification Descriptor list into {type: value}.

    Unknown types are kept, all-zero values dropped (they say "none").  Raises
    `RemoteProtocolError` for a length that does not fit its type or the list.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position + 4 <= len(buffer):
        nidt, nidl = buffer[position], buffer[position + 1]
        if nidt == 0 and nidl == 0:
            break
        end = position + 4 + nidl
        expected = _DESCRIPTOR_BYTES.get(nidt)  # type: ignore[call-overload]
        if nidl == 0 or end > len(buffer) or (expected is not None and nidl != expected):
            raise RemoteProtocolError(
                f"namespace identification descriptor at {position}: "
                f"type {nidt} with a length of {nidl} bytes"
            )
        value = bytes(buffer[position + 4 : end])
        if any(value) or nidt == DescriptorType.CSI:
            found[nidt] = value
        position = end
    return found


def pack_namespace_list(nsids: Iterable[int]) -> bytes:
    """Encodes up to 1024 NSIDs as a namespace list: 4096 bytes, zero-filled."""
    values = list(nsids)
    if len(values) > MAX_ACTIVE_NAMESPACES:
        raise ValueError(f"a namespace list of {len(values)} NSIDs")
    return struct.pack(f"<{len(values)}I", *values).ljust(IDENTIFY_BYTES, b"\0")


def unpack_namespace_list(buffer: Buffer) -> list[int]:
    """Decodes a namespace list up to its first zero."""
    count = len(buffer) // 4
    values = struct.unpack_from(f"<{count}I", buffer)
    return list(values[: values.index(0)] if 0 in values else values)
