"""What is said through the control node `nvmf`: JSON lines, one request a write.

A request is `{"id": N, "command": NAME, ...fields}`; unknown fields are refused.  The answer is
`{"schema": 1, "id": N, "result": {...}}` or `{"schema": 1, "id": N, "error": {...}}`, in the order
in which requests end, not the order in which they were made.  This module knows neither trio nor
FUSE: both ends import it.
"""

from typing import Any, ClassVar, Final, Literal

import attrs

SCHEMA: Final = 1
#: A request longer than this is refused unread; so is one more than `MAX_PENDING` at a time.
MAX_REQUEST_BYTES: Final = 65536
MAX_PENDING: Final = 256

Origin = Literal["given", "default", "granted"]


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
    #: None: never give up.
    ctrl_loss_tmo_s: float | None = None
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
    hostnqn: str | None = None
    hostid: str | None = None
    flow_control: bool | None = None
    header_digests: bool | None = None
    data_digests: bool | None = None


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
        FlushRequest,
        DeallocateRequest,
        WriteZeroesRequest,
    )
}


@attrs.frozen(kw_only=True)
class NamespaceInfo:
    """One namespace as `devlist`, `connect` and the nodes show it."""

    name: str
    nsid: int
    #: live, held, replaying, paused or gone.
    state: str
    #: Why it is not live, and the cure; "" where it is.
    reason: str
    lba_bytes: int
    size_bytes: int
    size_lbas: int
    read_only: bool
    uuid: str | None
    nguid: str | None
    eui64: str | None
    #: The name of the node whose second path this is, else None.
    same_as: str | None
    last_error: str
    waiting_requests: int
    ambiguous_writes: int


@attrs.frozen(kw_only=True)
class RefusedNamespace:
    """A namespace that has no node, and why."""

    nsid: int
    reason: str


@attrs.frozen(kw_only=True)
class Parameter:
    """A parameter in effect: its value and where it came from."""

    value: str | int | float | bool | None
    origin: Origin


@attrs.frozen(kw_only=True)
class QueueInfo:
    """One queue of a live association."""

    qid: int
    entries: int
    outstanding: int
    commands: int
    waiting: int
    header_digest: bool
    data_digest: bool
    sq_flow_control: bool


@attrs.frozen(kw_only=True)
class ControllerInfo:
    """One controller: what reading `nvmeX` gives, and `devlist`."""

    name: str
    #: connecting, live, lost, reconnecting, closing or closed.
    state: str
    subnqn: str
    transport: str
    #: As it was given: ADDRESS:PORT.
    address: str
    #: The numeric end of the connection, "" while there is none.
    endpoint: str
    hostnqn: str
    hostid: str
    cntlid: int | None
    serial: str
    model: str
    firmware: str
    version: str
    #: Seconds since the association was made, or lost.
    since_s: float
    last_error: str
    #: Attempts since the loss, and seconds to the next (None: by hand only, or under way).
    attempts: int
    next_attempt_s: float | None
    associations: int
    parameters: dict[str, Parameter]
    queues: tuple[QueueInfo, ...]
    namespaces: tuple[NamespaceInfo, ...]
    refused: tuple[RefusedNamespace, ...]


@attrs.frozen(kw_only=True)
class ConnectResult:
    """Answer to `connect` and `reconnect`."""

    device: str
    namespaces: tuple[NamespaceInfo, ...]
    refused: tuple[RefusedNamespace, ...]


@attrs.frozen(kw_only=True)
class DisconnectResult:
    """Answer to `disconnect`, once the shutdown was seen and the nodes are gone.

    `problems` names controllers whose shutdown was not seen to complete, and why.
    """

    devices: tuple[str, ...]
    problems: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class DevlistResult:
    """Answer to `devlist`, in the order of the controllers' numbers."""

    controllers: tuple[ControllerInfo, ...]


@attrs.frozen(kw_only=True)
class DataResult:
    """Answer with the data of a command, base64; `result` is DW0 of the completion."""

    data: str
    result: int = 0


@attrs.frozen(kw_only=True)
class NsidResult:
    """Answer to `nsid`; nsid 0 for a controller."""

    controller: str
    nsid: int


@attrs.frozen(kw_only=True)
class ErrorInfo:
    """The `error` of an answer.  `kind` is `NvmfError.kind`, and decides the exit code."""

    kind: str
    message: str
    field: str | None = None
    value: str | None = None
    #: The status of a completion, "SCT/SC" in hex as in "0/0B", else None.
    status: str | None = None
    #: The step of a handshake that failed, else None.
    step: str | None = None


def connect_default(field: str) -> Any:
    """The default of a field of `ConnectRequest`, for help texts and `Parameter.origin`."""
    return getattr(attrs.fields(ConnectRequest), field).default
