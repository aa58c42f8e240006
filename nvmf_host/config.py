"""What a connection is made with, checked once where it enters."""

import os
from collections.abc import Mapping
from typing import Final

import attrs

from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import CNTLID_DYNAMIC, CNTLID_MAX, CNTLID_STATIC_ANY, MAX_QUEUE_ENTRIES
from nvmf_transport.nqn import check_nqn

from .identity import HostIdentity
from .messages import (
    ConnectRequest,
    Origin,
    Parameter,
    ReconnectRequest,
    SetRequest,
    connect_default,
)

MAX_IO_QUEUES: Final = 1024
#: More entries than this are not asked for unless somebody does: a queue holds that much data.
DEFAULT_QUEUE_ENTRIES: Final = 1024
MAX_KATO_S: Final = 4_000_000.0
MAX_DELAY_S: Final = 86_400.0
MAX_LIMIT_S: Final = 4_000_000.0

#: Fields of `ConnectRequest` that `devlist` shows, with their origin.
SHOWN: Final = (
    "nr_io_queues",
    "queue_size",
    "kato_s",
    "reconnect_delay_s",
    "ctrl_loss_tmo_s",
    "fast_io_fail_s",
    "replay_limit_s",
    "command_age_s",
    "flow_control",
    "header_digests",
    "data_digests",
    "host_traddr",
    "host_iface",
    "read_only",
)


def default_io_queues() -> int:
    """One queue a CPU that this process may use, at most 4."""
    return min(4, len(os.sched_getaffinity(0)))


@attrs.frozen(kw_only=True)
class ConnectParams:
    """Everything about one controller's associations; the same for each of them."""

    address: Address
    subnqn: str
    identity: HostIdentity
    transport: str = "tcp"
    cntlid: int = CNTLID_DYNAMIC
    #: None: the default, and fewer are accepted; a number must be granted in full.
    nr_io_queues: int | None = None
    #: Entries, 0 for the controller's maximum up to `DEFAULT_QUEUE_ENTRIES`.
    queue_size: int = 0
    kato_s: float = 15.0
    #: The longest wait between two attempts; 0: by hand only.
    reconnect_delay_s: float = 10.0
    #: A controller that is not back after so long is given up; None: never.
    ctrl_loss_tmo_s: float | None = None
    #: So long after the loss, what waits and what comes fails until it is back; None: it waits.
    fast_io_fail_s: float | None = None
    #: After a longer outage waiting writes go on by themselves only to a private namespace.
    replay_limit_s: float = 600.0
    #: A command that is unanswered for so long ends the association; 0: never.
    command_age_s: float = 60.0
    flow_control: bool = False
    header_digests: bool = False
    data_digests: bool = False
    host_traddr: str | None = None
    host_iface: str | None = None
    duplicate: bool = False
    read_only: bool = False
    origins: Mapping[str, Origin] = attrs.field(factory=dict)

    @classmethod
    def from_request(cls, request: ConnectRequest, identity: HostIdentity) -> "ConnectParams":
        """Checks a `connect` request; raises `ConfigError` naming the field."""
        given: dict[str, Origin] = {
            name: "default" if getattr(request, name) == connect_default(name) else "given"
            for name in SHOWN
        }
        return cls(
            address=Address.parse(request.address),
            subnqn=check_nqn(request.subnqn, "subnqn"),
            identity=identity,
            transport=request.transport.lower(),
            cntlid=_cntlid(request.cntlid),
            nr_io_queues=request.nr_io_queues,
            queue_size=request.queue_size,
            kato_s=request.kato_s,
            reconnect_delay_s=request.reconnect_delay_s,
            ctrl_loss_tmo_s=_unless_never(request.ctrl_loss_tmo_s),
            fast_io_fail_s=request.fast_io_fail_s,
            replay_limit_s=request.replay_limit_s,
            command_age_s=request.command_age_s,
            flow_control=request.flow_control,
            header_digests=request.header_digests,
            data_digests=request.data_digests,
            host_traddr=request.host_traddr,
            host_iface=request.host_iface,
            duplicate=request.duplicate,
            read_only=request.read_only,
            origins=given,
        ).checked()

    def changed(
        self,
        request: ReconnectRequest | SetRequest,
        identity: HostIdentity | None = None,
    ) -> "ConnectParams":
        """These parameters with what a request changes; raises `ConfigError`."""
        changed: dict[str, object] = {
            name: getattr(request, name)
            for name in SHOWN
            if getattr(request, name, None) is not None
        }
        origins = dict(self.origins) | dict.fromkeys(changed, "given")
        if "ctrl_loss_tmo_s" in changed:
            changed["ctrl_loss_tmo_s"] = _unless_never(request.ctrl_loss_tmo_s)
        if "fast_io_fail_s" in changed:
            changed["fast_io_fail_s"] = _unless_never(request.fast_io_fail_s, never=-1)
        address = getattr(request, "address", None)
        if address is not None:
            changed["address"] = Address.parse(address)
        if identity is not None:
            changed["identity"] = identity
        return attrs.evolve(self, origins=origins, **changed).checked()  # type: ignore[arg-type]

    def checked(self) -> "ConnectParams":
        """Returns these parameters where every number is in range; else `ConfigError`."""
        check_nqn(self.subnqn, "subnqn")
        if self.nr_io_queues is not None:
            _in_range("nr_io_queues", self.nr_io_queues, 1, MAX_IO_QUEUES)
        if self.queue_size != 0:
            _in_range("queue_size", self.queue_size, 2, MAX_QUEUE_ENTRIES)
        if self.kato_s != 0:
            _in_range("kato_s", self.kato_s, 1, MAX_KATO_S)
        _in_range("reconnect_delay_s", self.reconnect_delay_s, 0, MAX_DELAY_S)
        if self.ctrl_loss_tmo_s is not None:
            _in_range("ctrl_loss_tmo_s", self.ctrl_loss_tmo_s, 0.001, MAX_LIMIT_S)
        if self.fast_io_fail_s is not None:
            _in_range("fast_io_fail_s", self.fast_io_fail_s, 0, MAX_LIMIT_S)
        _in_range("replay_limit_s", self.replay_limit_s, 0, MAX_LIMIT_S)
        if self.command_age_s:
            _in_range("command_age_s", self.command_age_s, 1, MAX_LIMIT_S)
        return self

    @property
    def wanted_io_queues(self) -> int:
        """How many I/O queues to ask for."""
        return self.nr_io_queues or default_io_queues()

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two connections the same one (host NQN, Host ID, SUBNQN, address)."""
        return (
            self.identity.nqn,
            str(self.identity.hostid),
            self.subnqn,
            self.transport,
            str(self.address),
        )

    def parameters(self) -> dict[str, Parameter]:
        """The values in effect and where they came from."""
        shown = {
            name: Parameter(
                value=getattr(self, name, None), origin=self.origins.get(name, "default")
            )
            for name in SHOWN
        }
        if self.nr_io_queues is None:
            shown["nr_io_queues"] = Parameter(value=self.wanted_io_queues, origin="default")
        return shown


def _unless_never(limit_s: float | None, *, never: float = 0) -> float | None:
    """None for a limit that stands for "never": -1, and 0 unless that means "at once"."""
    return None if limit_s is None or limit_s < 0 or limit_s == never else limit_s


def _cntlid(text: str) -> int:
    named = {"dynamic": CNTLID_DYNAMIC, "static": CNTLID_STATIC_ANY}
    if text in named:
        return named[text]
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= CNTLID_MAX:
        raise ConfigError(
            f"give dynamic, static or a number from 0 to {CNTLID_MAX}", field="cntlid", value=text
        )
    return value


def _in_range(field: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ConfigError(
            f"out of range; give {lowest:g} to {highest:.0f}", field=field, value=value
        )
