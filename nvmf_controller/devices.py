"""DEVICE, as nvmfd's command line has it: `ramdisk:SIZE[:512|:4096]` or a path[:512|:4096]."""

import re
from typing import Final

import attrs

from nvmf_transport.errors import ConfigError

from .backing import BackingStore, RamDisk
from .file_backing import FileStore
from .identity import file_uuid
from .namespace import LBA_SIZES, Namespace
from .volatile_cache import VolatileCache

_RAMDISK: Final = "ramdisk:"
_SIZE: Final = re.compile(r"([0-9]+)([KMGT]?)", re.IGNORECASE)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MAX_SIZE_BYTES: Final = 1 << 46
_DEFAULT_LBA_BYTES: Final = 512


@attrs.frozen
class Device:
    """A DEVICE: a RAM disk of a size, or a path; `lba_bytes` is None where none was given."""

    text: str
    path: str | None
    ram_bytes: int
    lba_bytes: int | None

    @classmethod
    def parse(cls, text: str) -> "Device":
        """Raises `ConfigError`.  Colons in a path are part of it, a last `:512` is not."""
        body, colon, tail = text.rpartition(":")
        lba_bytes = None
        if colon and body and body != "ramdisk" and tail in {str(size) for size in LBA_SIZES}:
            lba_bytes = int(tail)
        else:
            body = text
        if not body.startswith(_RAMDISK):
            if not body:
                raise ConfigError("empty; give a path or ramdisk:SIZE", field="device", value=text)
            return cls(text, body, 0, lba_bytes)
        size = _parse_size(text, body.removeprefix(_RAMDISK))
        _check_multiple(text, size, lba_bytes or _DEFAULT_LBA_BYTES)
        return cls(text, None, size, lba_bytes)


async def open_namespace(
    nsid: int, device: Device, *, read_only: bool = False, volatile_cache: bool = False
) -> Namespace:
    """Opens the store of a DEVICE as a namespace.  Raises `ConfigError`.

    With `volatile_cache` writes stay in this process until a Flush: see `VolatileCache`.
    """
    if device.path is None:
        try:
            store: BackingStore = RamDisk(device.ram_bytes)
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigError(
                f"no memory ({error}); give a smaller size", field="device", value=device.text
            ) from None
        lba_bytes = device.lba_bytes or _DEFAULT_LBA_BYTES
        if volatile_cache:
            store = VolatileCache(store)
        return Namespace(nsid, store, lba_bytes, read_only=read_only)
    file = await FileStore.open(device.path, read_only=read_only)
    try:
        own = file.device_lba_bytes()
        lba_bytes = device.lba_bytes or own or _DEFAULT_LBA_BYTES
        _check_own(device.text, lba_bytes, own)
        _check_multiple(device.text, file.size_bytes, lba_bytes)
        identifier = file_uuid(file.fd, device.path)
        store = VolatileCache(file) if volatile_cache else file
        return Namespace(nsid, store, lba_bytes, uuid=identifier, read_only=read_only)
    except BaseException:
        file.close()
        raise


def _check_own(text: str, lba_bytes: int, own_bytes: int | None) -> None:
    if own_bytes and lba_bytes < own_bytes:
        raise ConfigError(
            f"the device's own blocks have {own_bytes} bytes; leave out :{lba_bytes}",
            field="device",
            value=text,
        )


def _parse_size(text: str, size: str) -> int:
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ConfigError(
            f"{size!r} is not a size; write ramdisk:64M, with K, M, G or T for powers of 1024",
            field="device",
            value=text,
        )
    value = int(match[1]) << _UNITS[match[2].upper()]
    if value > _MAX_SIZE_BYTES:
        raise ConfigError("too large; give at most 64T", field="device", value=text)
    return value


def _check_multiple(text: str, size_bytes: int, lba_bytes: int) -> None:
    if size_bytes == 0:
        raise ConfigError(
            "its size is 0; a namespace has at least one block", field="device", value=text
        )
    if size_bytes % lba_bytes:
        raise ConfigError(
            f"its size of {size_bytes} bytes is no multiple of the LBA size of {lba_bytes} "
            f"bytes; make it {-(-size_bytes // lba_bytes) * lba_bytes} bytes or choose another "
            "LBA size",
            field="device",
            value=text,
        )
