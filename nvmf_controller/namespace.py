"""A namespace: a backing store seen as logical blocks, with an identity."""

from typing import Final
from uuid import UUID, uuid4

import attrs

from nvmf_transport.errors import ConfigError
from nvmf_transport.identify import (
    DescriptorType,
    IdentifyNamespace,
    LbaFormat,
    pack_namespace_descriptors,
)

from .backing import BackingStore

LBA_SIZES: Final = (512, 4096)
#: DLFEAT: deallocated blocks read as zeroes; Write Zeroes takes the Deallocate bit.
_DLFEAT: Final = 0x09


@attrs.define(eq=False)
class Namespace:
    """One namespace.  `size_lbas` changes only through `Subsystem.resize_namespace`."""

    nsid: int
    store: BackingStore
    lba_bytes: int = 512
    #: New at every start unless one is given: right for memory, whose data is new as well.
    uuid: UUID = attrs.field(factory=uuid4)
    read_only: bool = False
    lba_shift: int = attrs.field(init=False)
    size_lbas: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.lba_bytes < 512 or self.lba_bytes & (self.lba_bytes - 1):
            raise ConfigError(
                "not an LBA size; give a power of two from 512",
                field="LBA size",
                value=self.lba_bytes,
            )
        size_bytes = self.store.size_bytes
        if size_bytes == 0 or size_bytes % self.lba_bytes:
            raise ConfigError(
                f"its size of {size_bytes} bytes is no multiple of the LBA size of "
                f"{self.lba_bytes} bytes; resize it or choose another LBA size"
                if size_bytes
                else "its size is 0; a namespace has at least one block",
                field="namespace",
                value=self.nsid,
            )
        self.lba_shift = self.lba_bytes.bit_length() - 1
        self.size_lbas = size_bytes >> self.lba_shift
        self.read_only = self.read_only or self.store.read_only

    def identify(self) -> bytes:
        """Identify Namespace, CNS 00h."""
        return IdentifyNamespace(
            nsze=self.size_lbas,
            ncap=self.size_lbas,
            nuse=self.size_lbas,
            nlbaf=0,
            # Every controller of the subsystem has every namespace.
            nmic=1,
            dlfeat=_DLFEAT,
            nvmcap=self.size_lbas << self.lba_shift,
            nsattr=1 if self.read_only else 0,
            lbaf=(LbaFormat(0, self.lba_shift).to_word(), *(0,) * 63),
        ).pack()

    def descriptors(self) -> bytes:
        """Namespace Identification Descriptor list, CNS 03h.

        A UUID alone: NGUID and EUI64 begin with an OUI, and we have none to give away.
        """
        return pack_namespace_descriptors([(DescriptorType.UUID, self.uuid.bytes)])
