"""Errors of the host that are not the transport's (see `nvmf_transport.errors`)."""

from nvmf_transport.errors import NvmfError


class EndOfNamespaceError(NvmfError):
    """A write begins at or past the end of the namespace."""

    kind = "end-of-namespace"


class ReadOnlyError(NvmfError):
    """The namespace is write-protected, connected read-only, or a second path."""

    kind = "read-only"


class UnsupportedError(NvmfError):
    """The controller does not offer the command."""

    kind = "unsupported"


class KilledError(NvmfError):
    """Whoever waited has a fatal signal pending; what was sent goes on by itself."""

    kind = "killed"


class UnflushedLostError(NvmfError):
    """Acknowledged writes that were not flushed are lost, or may be."""

    kind = "unflushed-lost"
