"""The discovery subsystem: where hosts find out what is served (Base 2.1, section 3.1.3.3)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from nvmf_transport.errors import CommandError
from nvmf_transport.fabrics import (
    ADMIN_QUEUE_ENTRIES,
    CNTLID_DYNAMIC,
    DISCOVERY_NQN,
    DiscoveryLogEntry,
    DiscoveryLogHeader,
    SubsystemType,
    TransportType,
)
from nvmf_transport.interfaces import Endpoint
from nvmf_transport.logs import LogId
from nvmf_transport.nvme import Cns
from nvmf_transport.status import INVALID_FIELD, INVALID_LOG_PAGE

from .identify import identify_discovery_controller
from .logs import LID_SUPPORTED, LogRequest, supported_pages
from .subsystem import ControllerConfig, Subsystem

if TYPE_CHECKING:
    from .association import Association

#: TREQ: SQ flow control may be disabled; no secure channel is specified.
_TREQ: Final = 1 << 2
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to.


@attrs.frozen
class Portal:
    """A listener through which a subsystem is reached."""

    subnqn: str
    endpoint: Endpoint


class DiscoverySubsystem(Subsystem):
    """What the well-known discovery NQN names."""

    has_io_queues = False
    #: What Base 2.1 allows a host without keep alive timer between two commands.
    idle_limit_s = 120.0

    def __init__(self, trtype: TransportType, config: ControllerConfig | None = None) -> None:
        super().__init__(DISCOVERY_NQN, config=config)
        self._trtype = trtype
        self._portals: tuple[Portal, ...] = ()
        self._genctr = 0
        #: What was told at each of our addresses since it last changed: hosts read it in pieces.
        self._logs: dict[Endpoint, bytes] = {}

    def set_portals(self, portals: Sequence[Portal]) -> None:
        """Replaces what the log tells; the generation counter tells hosts that it changed."""
        self._portals = tuple(portals)
        self._genctr += 1
        self._logs.clear()

    def identify(self, association: "Association", cns: int, nsid: int) -> bytes:
        """Identify; a discovery controller has nothing but itself to show."""
        del nsid
        if cns != Cns.CONTROLLER:
            raise CommandError(INVALID_FIELD.with_dnr())
        return identify_discovery_controller(self, association)

    def log_page(self, association: "Association", request: LogRequest) -> bytes:
        """Get Log Page: the discovery log."""
        match request.lid:
            case LogId.DISCOVERY:
                return self._log(association.local)
            case 0x00:
                return supported_pages(frozenset({LID_SUPPORTED, LogId.DISCOVERY}))
            case _:
                raise CommandError(INVALID_LOG_PAGE.with_dnr())

    def _log(self, reached_at: Endpoint) -> bytes:
        if reached_at not in self._logs:
            self._logs[reached_at] = self._made_log(reached_at)
        return self._logs[reached_at]

    def _made_log(self, reached_at: Endpoint) -> bytes:
        entries = [
            self._entry(number, portal, reached_at)
            for number, portal in enumerate(self._portals, start=1)
            if not _is_wildcard(portal.endpoint) or portal.endpoint.family == reached_at.family
        ]
        header = DiscoveryLogHeader(genctr=self._genctr, numrec=len(entries))
        return b"".join([header.pack(), *(entry.pack() for entry in entries)])

    def _entry(self, number: int, portal: Portal, reached_at: Endpoint) -> DiscoveryLogEntry:
        # A wildcard says where we listen, not where we are: the host knows an address that works.
        at = reached_at if _is_wildcard(portal.endpoint) else portal.endpoint
        return DiscoveryLogEntry(
            trtype=self._trtype,
            adrfam=at.family,
            subtype=SubsystemType.NVM,
            treq=_TREQ,
            portid=number,
            cntlid=CNTLID_DYNAMIC,
            asqsz=ADMIN_QUEUE_ENTRIES,
            trsvcid=str(portal.endpoint.address.port),
            subnqn=portal.subnqn,
            # A zone names an interface of this machine, which means nothing to the host.
            traddr=at.address.host.partition("%")[0],
        )


def _is_wildcard(endpoint: Endpoint) -> bool:
    return endpoint.address.host in _WILDCARDS
