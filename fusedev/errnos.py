"""Which errno a caller sees: the one table for the whole mount.

What is not in it is EIO, and `user.nvme.last_error` says what it was.
"""

import errno
from typing import Final

from nvmf_host.errors import EndOfNamespaceError, KilledError, ReadOnlyError, UnsupportedError
from nvmf_transport import status
from nvmf_transport.errors import (
    CommandError,
    NamespaceGoneError,
    NoSuchDeviceError,
    NvmfError,
)

#: By class; the nearest base counts.
BY_CLASS: Final[dict[type[BaseException], int]] = {
    NamespaceGoneError: errno.ENXIO,
    NoSuchDeviceError: errno.ENXIO,
    EndOfNamespaceError: errno.ENOSPC,
    ReadOnlyError: errno.EROFS,
    # Never ENOSYS: the kernel takes that for the whole mount and does not ask again.
    UnsupportedError: errno.EOPNOTSUPP,
    KilledError: errno.EINTR,
    NvmfError: errno.EIO,
}

#: By the status of a command that the controller failed.
BY_STATUS: Final[dict[tuple[int, int], int]] = {
    status.RESERVATION_CONFLICT.code: errno.EBADE,
    status.WRITE_PROTECTED.code: errno.EROFS,
    status.WRITE_TO_READ_ONLY_RANGE.code: errno.EROFS,
}


def errno_of(error: NvmfError) -> int:
    """The errno for an error of the stack."""
    if isinstance(error, CommandError) and error.status.code in BY_STATUS:
        return BY_STATUS[error.status.code]
    return next(BY_CLASS[cls] for cls in type(error).__mro__ if cls in BY_CLASS)
