"""What is said through the control node `nvmf`: JSON lines, one request a write.

A request is `{"id": N, "command": NAME, ...fields}`; unknown fields are refused.  The answer is
`{"schema": 1, "id": N, "result": {...}}` or `{"schema": 1, "id": N, "error": {...}}`, in the order
in which requests end, not the order in which they were made.  This module knows neither trio nor
FUSE: both ends import it.
"""

from typing import Any, ClassVar, Final

import attrs

from .results import (
    ConnectResult,
    ControllerInfo,
    DataResult,
    DevlistResult,
    DisconnectResult,
    ErrorInfo,
    NamespaceInfo,
    NsidResult,
    Origin,
    Parameter,
    PausedResult,
    QuarantinedRange,
    QueueInfo,
    RefusedNamespace,
    WaitingRequest,
)

SCHEMA: Final = 1
#: A request longer than this is refused unread; so is one more than `MAX_PENDING` at a time.
MAX_REQUEST_BYTES: Final = 65536
MAX_PENDING: Final = 256


@attrs.frozen(kw_only=True)
class ConnectRequest:
    """`connect`: one association to an I/O controller.  Answer: `ConnectResult`."""

    COMMAND: ClassVar[str] = "connect"

    address: str
    subnqn: str
    transport: str = "tcp"
    #: "dynamic", "static" or a number.
    cntlid: str = "dynamic"
    #: None: as many as the default gives and the controller grants.
    nr_io_queues: int | None = None
    #: Entries of each I/O queue, 0 for the controller's maximum (bounded).
    queue_size: int = 0
    kato_s: float = 15.0
    #: The longest wait between two attempts to reconnect; 0: by hand only.
    reconnect_delay_s: float = 10.0
    #: A controller that is not back after so long is given up; None, 0 or -1: never.
    ctrl_loss_tmo_s: float | None = None
    #: So long after the loss, waiting and new I/O fails until the controller is back; None: waits.
    fast_io_fail_s: float | None = None
    #: After a longer outage waiting writes go on by themselves only to a private namespace.
    replay_limit_s: float = 600.0
    #: A command that is unanswered for so long ends the association; 0: never.
    command_age_s: float = 60.0
    hostnqn: str | None = None
    hostid: str | None = None
    flow_control: bool = False
    header_digests: bool = False
    data_digests: bool = False
    host_traddr: str | None = None
    host_iface: str | None = None
    duplicate: bool = False
    read_only: bool = False


@attrs.frozen(kw_only=True)
class ReconnectRequest:
    """`reconnect`: the next attempt now, perhaps elsewhere.  None leaves a parameter as it is.

    Answer: `ConnectResult`, once I/O has resumed where it may.
    """

    COMMAND: ClassVar[str] = "reconnect"

    device: str
    address: str | None = None
    nr_io_queues: int | None = None
    queue_size: int | None = None
    kato_s: float | None = None
    reconnect_delay_s: float | None = None
    ctrl_loss_tmo_s: float | None = None
    #: -1: never.
    fast_io_fail_s: float | None = None
    replay_limit_s: float | None = None
    command_age_s: float | None = None
    hostnqn: str | None = None
    hostid: str | None = None
    flow_control: bool | None = None
    header_digests: bool | None = None
    data_digests: bool | None = None
    #: The operator vouches that controllers of ended associations execute nothing any more.
    fenced: bool = False


@attrs.frozen(kw_only=True)
class SetRequest:
    """`set`: parameters that may change while connected.  Answer: `ControllerInfo`."""

    COMMAND: ClassVar[str] = "set"

    device: str
    reconnect_delay_s: float | None = None
    #: 0 or -1: never.
    ctrl_loss_tmo_s: float | None = None
    #: -1: never.
    fast_io_fail_s: float | None = None
    replay_limit_s: float | None = None
    command_age_s: float | None = None


@attrs.frozen(kw_only=True)
class PausedRequest:
    """`paused`: what waits, and why.  Answer: `PausedResult`."""

    COMMAND: ClassVar[str] = "paused"

    #: None: of every controller.
    device: str | None = None


@attrs.frozen(kw_only=True)
class ResumeRequest:
    """`resume`: lets a paused namespace go on.  Answer: `NamespaceInfo`."""

    COMMAND: ClassVar[str] = "resume"

    device: str
    #: Write again what was acknowledged, not flushed, and lost.
    rewrite: bool = False
    #: Take the namespace as it is: what was lost is lost, what it is now is what it is.
    accept: bool = False


@attrs.frozen(kw_only=True)
class FailRequest:
    """`fail`: fails what waits for a namespace, and what comes, until it resumes.

    Answer: `NamespaceInfo`.
    """

    COMMAND: ClassVar[str] = "fail"

    device: str


@attrs.frozen(kw_only=True)
class DisconnectRequest:
    """`disconnect`: by controller, namespace or SUBNQN; or all.  Answer: `DisconnectResult`."""

    COMMAND: ClassVar[str] = "disconnect"

    #: None: every controller.
    device: str | None


@attrs.frozen(kw_only=True)
class DevlistRequest:
    """`devlist`: what is there.  Answer: `DevlistResult`."""

    COMMAND: ClassVar[str] = "devlist"


@attrs.frozen(kw_only=True)
class IdentifyRequest:
    """`identify`: one IDENTIFY command.  Answer: `DataResult` of 4096 bytes."""

    COMMAND: ClassVar[str] = "identify"

    device: str
    cns: int
    #: None: the namespace's own for a namespace node, 0 for a controller.
    nsid: int | None = None


@attrs.frozen(kw_only=True)
class LogPageRequest:
    """`logpage`: one log page, read in pieces where it is long.  Answer: `DataResult`."""

    COMMAND: ClassVar[str] = "logpage"

    device: str
    lid: int
    length_bytes: int
    offset_bytes: int = 0
    lsp: int = 0
    lsi: int = 0
    rae: bool = False
    #: None: FFFFFFFFh for a controller node, the namespace's own for a namespace node.
    nsid: int | None = None


@attrs.frozen(kw_only=True)
class NsidRequest:
    """`nsid`: which controller and NSID a node stands for.  Answer: `NsidResult`."""

    COMMAND: ClassVar[str] = "nsid"

    device: str


@attrs.frozen(kw_only=True)
class FlushRequest:
    """`flush`: Flush of one namespace; waits and is replayed like any I/O.  Answer: `{}`."""

    COMMAND: ClassVar[str] = "flush"

    device: str


@attrs.frozen(kw_only=True)
class DeallocateRequest:
    """`dsm`: deallocates ranges of (SLBA, LBAs).  Answer: `{}`."""

    COMMAND: ClassVar[str] = "dsm"

    device: str
    ranges: tuple[tuple[int, int], ...]


@attrs.frozen(kw_only=True)
class WriteZeroesRequest:
    """`write-zeroes`: zeroes `length_lbas` LBAs from `slba`.  Answer: `{}`."""

    COMMAND: ClassVar[str] = "write-zeroes"

    device: str
    slba: int
    length_lbas: int
    fua: bool = False
    deallocate: bool = False


Request = (
    ConnectRequest
    | ReconnectRequest
    | DisconnectRequest
    | DevlistRequest
    | IdentifyRequest
    | LogPageRequest
    | NsidRequest
    | SetRequest
    | PausedRequest
    | ResumeRequest
    | FailRequest
    | FlushRequest
    | DeallocateRequest
    | WriteZeroesRequest
)

REQUESTS: Final[dict[str, type[Any]]] = {
    request.COMMAND: request
    for request in (
        ConnectRequest,
        ReconnectRequest,
        DisconnectRequest,
        DevlistRequest,
        IdentifyRequest,
        LogPageRequest,
        NsidRequest,
        SetRequest,
        PausedRequest,
        ResumeRequest,
        FailRequest,
        FlushRequest,
        DeallocateRequest,
        WriteZeroesRequest,
    )
}


def connect_default(field: str) -> Any:
    """The default of a field of `ConnectRequest`, for help texts and `Parameter.origin`."""
    return getattr(attrs.fields(ConnectRequest), field).default


__all__ = [
    "MAX_PENDING",
    "MAX_REQUEST_BYTES",
    "REQUESTS",
    "SCHEMA",
    "ConnectRequest",
    "ConnectResult",
    "ControllerInfo",
    "DataResult",
    "DeallocateRequest",
    "DevlistRequest",
    "DevlistResult",
    "DisconnectRequest",
    "DisconnectResult",
    "ErrorInfo",
    "FailRequest",
    "FlushRequest",
    "IdentifyRequest",
    "LogPageRequest",
    "NamespaceInfo",
    "NsidRequest",
    "NsidResult",
    "Origin",
    "Parameter",
    "PausedRequest",
    "PausedResult",
    "QuarantinedRange",
    "QueueInfo",
    "ReconnectRequest",
    "RefusedNamespace",
    "Request",
    "ResumeRequest",
    "SetRequest",
    "WaitingRequest",
    "WriteZeroesRequest",
    "connect_default",
]
