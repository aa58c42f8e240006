"""Header and data digests: CRC32C (NVMe/TCP Transport 1.1, section 3.3.1.1).

The one place that knows which library computes it.
"""

from collections.abc import Iterable

from crc32c import crc32c as _crc32c

from nvmf_transport.wire import Buffer

from .pdu import DIGEST


def crc32c(data: Buffer, previous: int = 0) -> int:
    """The CRC32C of `data`, going on from that of what came before it."""
    return _crc32c(data, previous)


def crc32c_of(buffers: Iterable[Buffer]) -> int:
    """The CRC32C of several buffers as one."""
    value = 0
    for buffer in buffers:
        value = _crc32c(buffer, value)
    return value


def digest_bytes(data: Buffer) -> bytes:
    """The digest of `data` as it stands on the wire."""
    return DIGEST.pack(_crc32c(data))
