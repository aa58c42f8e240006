"""Answers to the requests of the control node (see `messages`)."""

from typing import Literal

import attrs

Origin = Literal["given", "default", "granted"]


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
    #: Ranges that newer writes must not touch yet: an old copy of a write may still land there.
    quarantined_ranges: int = 0
    #: Bytes that are remembered because no completed Flush covers them.
    unflushed_bytes: int = 0
    #: Since it was first live: writes that were lost with an association and sent again with
    #: success, and ranges that were put into quarantine.
    replayed_writes: int = 0
    quarantined_writes: int = 0


@attrs.frozen(kw_only=True)
class WaitingRequest:
    """One request that waits."""

    node: str
    #: read, write, flush, write-zeroes or deallocate.
    operation: str
    offset_bytes: int
    length_bytes: int
    #: Who opened the file that the request came through; None for the library's own.
    pid: int | None
    uid: int | None
    age_s: float
    #: Bytes of memory that it holds.
    held_bytes: int
    #: Why it waits.
    reason: str
    #: True where it was sent, and its outcome is unknown.
    ambiguous: bool
    #: True where it waits for LBAs in quarantine.
    quarantined: bool


@attrs.frozen(kw_only=True)
class QuarantinedRange:
    """LBAs on which an old copy of a write may still land."""

    node: str
    slba: int
    length_lbas: int
    #: Seconds until it is lifted by time; None: never by time.
    lifts_in_s: float | None


@attrs.frozen(kw_only=True)
class PausedResult:
    """Answer to `paused`, oldest first."""

    requests: tuple[WaitingRequest, ...]
    quarantine: tuple[QuarantinedRange, ...]
    #: What requests that come through files may hold at the most; None: not bounded here.
    max_held_bytes: int | None = None


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
    #: Seconds until the controller is given up, and until waiting I/O fails (None: never).
    gives_up_in_s: float | None = None
    fails_fast_in_s: float | None = None
    #: Ended associations whose controllers may still execute commands.
    fences: int = 0
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
