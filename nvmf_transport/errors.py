"""The errors of the whole stack, by who must act.

`kind` is what crosses the control node and decides nvmecontrol's exit code; it never changes once
released.  Errors that were caused by what somebody typed carry `field` and `value`, and their text
ends with the remedy.
"""

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from .status import Status


class NvmfError(Exception):
    """Base of all errors that this stack raises on purpose; anything else is a bug."""

    kind: ClassVar[str] = "internal"

    def __init__(
        self, message: str = "", *, field: str | None = None, value: object | None = None
    ) -> None:
        """`field` and `value` are what somebody typed, where that is what the error is about."""
        super().__init__(message)
        self.field = field
        self.value = None if value is None else str(value)


class LocalProtocolError(NvmfError):
    """The caller broke the rules of an interface: a bug on this side of the wire."""

    kind = "internal"


class ConfigError(NvmfError):
    """A value that the caller gave cannot be used: `field` and `value` name it."""

    kind = "usage"

    def __init__(self, message: str, *, field: str, value: object) -> None:
        super().__init__(message, field=field, value=str(value))


class UnavailableError(NvmfError):
    """What was asked for does not exist here: a transport, a command set, a log page."""

    kind = "unavailable"


class NoSuchDeviceError(NvmfError):
    """A controller or namespace was named that is not there."""

    kind = "no-such-device"

    def __init__(self, message: str, *, field: str = "device", value: object = "") -> None:
        super().__init__(message, field=field, value=value)


class BusyError(NvmfError):
    """The request does not fit the state: already connected, reconnect while live, closing."""

    kind = "busy"


class TooFewQueuesError(NvmfError):
    """The controller grants fewer I/O queues than were asked for with `-i`."""

    kind = "too-few-queues"

    def __init__(self, message: str, *, field: str, value: object) -> None:
        super().__init__(message, field=field, value=str(value))


class TransportError(NvmfError):
    """The association is dead, or never came to life.  `step` names where, if in a handshake."""

    kind = "transport"
    step: str | None = None


class UnreachableError(TransportError):
    """No connection could be made: name not found, refused, no route, no answer in time."""

    kind = "unreachable"


class ConnectionLostError(TransportError):
    """The connection ended: closed or reset by the peer, or silent for too long."""


class HandshakeError(TransportError):
    """The peer let a step of the handshake fail: silence, wrong order, never ready."""


class RemoteProtocolError(TransportError):
    """The peer broke the protocol.

    `fes` and `fei` are the Fatal Error Status and Information for the TermReq that answers it
    (NVMe/TCP Transport, section 3.6.2.3); `fes` is None where the fault lies above the transport.
    """

    def __init__(self, message: str, *, fes: int | None = None, fei: int = 0) -> None:
        super().__init__(message)
        self.fes = fes
        self.fei = fei


class ConnectionTerminatedError(TransportError):
    """The peer sent a TermReq: it says that we broke the protocol."""

    def __init__(self, message: str, *, fes: int, fei: int) -> None:
        super().__init__(message)
        self.fes = fes
        self.fei = fei


class MalformedStructureError(RemoteProtocolError):
    """A wire structure is shorter than the specification has it."""

    def __init__(self, name: str, length: int, size: int) -> None:
        super().__init__(f"{name} of {length} bytes; the specification has {size}")


class DataDigestError(NvmfError):
    """The data digest of one command did not match; the connection lives, the command failed."""

    kind = "transport"


class CommandError(NvmfError):
    """A command completed with a status other than success."""

    kind = "command"

    def __init__(self, status: "Status", command: str = "command", *, result: int = 0) -> None:
        super().__init__(f"{command}: {status}")
        self.status = status
        #: DW0 and DW1 of the completion: IPO and IATTR of a refused CONNECT, for one.
        self.result = result


class ConnectRejectedError(CommandError):
    """CONNECT was refused.  `iattr` and `ipo` say where (Base, section 6.3), for status 1/82h."""

    kind = "connect-rejected"

    def __init__(self, status: "Status", *, iattr: int = 0, ipo: int = 0, detail: str = "") -> None:
        super().__init__(status, "CONNECT")
        # Codes that I/O commands use as well have two names.
        named = re.sub(", or [^(]*", " ", str(status))
        self.args = (f"CONNECT: {named}: {detail}" if detail else f"CONNECT: {named}",)
        self.iattr = iattr
        self.ipo = ipo


class NotConnectedError(NvmfError):
    """The command was not sent: there is no association and this command is not to wait."""

    kind = "not-connected"


class OutcomeUnknownError(NvmfError):
    """The association ended after the command was sent and before its answer."""

    kind = "outcome-unknown"


class NamespaceGoneError(NvmfError):
    """The namespace was removed, or its controller disconnected."""

    kind = "gone"


class ShutdownError(NvmfError):
    """Waiting I/O was failed because the controller or the daemon is being shut down."""

    kind = "shutdown"
