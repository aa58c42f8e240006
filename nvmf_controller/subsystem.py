"""Subsystems: what a host names by SUBNQN, with the controllers that hosts have there.

The dynamic controller model: every admin CONNECT makes a new controller, which is one association
and ends with it.
"""

import abc
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import attrs
import trio

from nvmf_transport.errors import BusyError, CommandError, ConfigError, NoSuchDeviceError
from nvmf_transport.fabrics import CNTLID_MAX
from nvmf_transport.identify import IDENTIFY_BYTES, MAX_ACTIVE_NAMESPACES, pack_namespace_list
from nvmf_transport.logs import LogId
from nvmf_transport.nqn import check_nqn
from nvmf_transport.nvme import AEC_NAMESPACE_ATTRIBUTE, NSID_ALL, Cns
from nvmf_transport.status import INVALID_FIELD, INVALID_LOG_PAGE, INVALID_NAMESPACE

from .association import Association, State
from .backing import BackingStore
from .cross_reset import log_page as cross_reset_log
from .identify import ERROR_LOG_ENTRIES, identify_io_controller
from .logs import (
    NVM_LOG_PAGES,
    LogRequest,
    command_effects,
    firmware_slots,
    health,
    supported_pages,
)
from .namespace import Namespace
from .statistics import Statistics

_log = logging.getLogger(__name__)

MODEL: Final = "nvmfd userland controller"
FIRMWARE_REVISION: Final = "1"
MAX_NAMESPACES: Final = 1024
#: The unit of CAP.TO.
_TO_UNIT_S: Final = 0.5


@attrs.frozen(kw_only=True)
class ControllerConfig:
    """What the controllers of a subsystem grant."""

    #: Entries of the largest queue; CAP.MQES is one less.
    max_queue_entries: int = attrs.field(
        default=1024, validator=attrs.validators.in_(range(2, 65537))
    )
    max_io_queues: int = attrs.field(default=64, validator=attrs.validators.in_(range(1, 65535)))
    #: CAP.TO: how long a host waits for CSTS.RDY, and CONNECT for a predecessor's commands.
    ready_timeout_s: float = attrs.field(default=5.0, validator=attrs.validators.le(127.5))
    #: The most data of one command, 4 KiB times a power of two: MDTS, of which 0 means no limit.
    max_transfer_bytes: int = attrs.field(default=1 << 20, validator=attrs.validators.ge(8192))
    #: In-capsule data of I/O queues: IOCCSZ is this and the 64 bytes of the command.  By default
    #: all that a command may have: an R2T costs a round trip and turns of either end's event loop.
    in_capsule_bytes: int = attrs.field(
        default=attrs.Factory(lambda config: config.max_transfer_bytes, takes_self=True),
        validator=attrs.validators.ge(0),
    )
    #: Data that an association may have asked its host for, or be reading, at a time; and as much
    #: again that came in capsules, besides those on their way or waiting for room, two a queue.
    memory_bytes: int = attrs.field(default=32 << 20, validator=attrs.validators.ge(1 << 16))

    def __attrs_post_init__(self) -> None:
        if self.in_capsule_bytes % 16:
            raise ConfigError(
                "no multiple of 16 bytes; round it",
                field="in_capsule_bytes",
                value=self.in_capsule_bytes,
            )
        if self.max_transfer_bytes != 4096 << self.mdts:
            raise ConfigError(
                "not 4096 times a power of two; round it",
                field="max_transfer_bytes",
                value=self.max_transfer_bytes,
            )

    @property
    def mdts(self) -> int:
        """Maximum Data Transfer Size as a power of two of 4 KiB (CAP.MPSMIN)."""
        return (self.max_transfer_bytes // 4096).bit_length() - 1

    @property
    def cap_to(self) -> int:
        """CAP.TO."""
        return math.ceil(self.ready_timeout_s / _TO_UNIT_S)

    @property
    def ioccsz(self) -> int:
        """I/O Queue Command Capsule Supported Size, in 16-byte units."""
        return (64 + self.in_capsule_bytes) // 16


class Subsystem(abc.ABC):
    """What discovery and NVM subsystems have in common: an NQN and associations."""

    #: How long a controller without a keep alive timer may be silent.
    idle_limit_s: float = math.inf
    has_io_queues: bool = True
    #: OAES: the asynchronous events that hosts can ask for.
    events_offered: int = 0
    firmware_revision: str = FIRMWARE_REVISION

    def __init__(
        self, nqn: str, *, model: str = MODEL, config: ControllerConfig | None = None
    ) -> None:
        self.nqn = check_nqn(nqn, "subsystem NQN")
        self.model = model
        self.config = config or ControllerConfig()
        self.serial = serial_of(nqn)
        self.statistics = Statistics()
        self.started_at = time.monotonic()
        self._associations: dict[int, Association] = {}
        self._last_cntlid = 0

    @property
    def associations(self) -> list[Association]:
        """All that are not over, those that only wait for their commands included."""
        return list(self._associations.values())

    def find(self, cntlid: int) -> Association | None:
        """The association that holds this CNTLID."""
        return self._associations.get(cntlid)

    async def wait_for_lost(self, hostid: bytes) -> bool:
        """Waits until no command of this host's lost associations can touch the medium any more.

        False where one still could after CAP.TO.  An association without one of its I/O queues is
        lost; the host may just be later in telling so.
        """
        with trio.move_on_after(self.config.ready_timeout_s):
            while True:
                lost = [
                    a
                    for a in self._associations.values()
                    if a.hostid == hostid and a.is_lost and not a.haunted
                ]
                if not lost:
                    return True
                lost[0].end("its host connects anew")
                await lost[0].ended.wait()
        return False

    def admit(self, make: Callable[[int], Association]) -> Association | None:
        """Makes an association with the next free CNTLID; None where all are taken.

        They go round, and one stays taken while any command of its holder lives, so that a late
        host cannot meet another's controller.
        """
        for step in range(CNTLID_MAX):
            cntlid = (self._last_cntlid + step) % CNTLID_MAX + 1
            if cntlid not in self._associations:
                break
        else:
            return None
        self._last_cntlid = cntlid
        association = make(cntlid)
        self._associations[cntlid] = association
        self.statistics.associations += 1
        return association

    def forget(self, association: Association) -> None:
        """The association is over: its CNTLID may be used again."""
        assert association.state is State.ENDED
        del self._associations[association.cntlid]

    @property
    def volatile_cache(self) -> bool:
        """True where some namespace has a cache that Flush empties: VWC."""
        return False

    async def flush(self) -> None:  # noqa: B027 - a subsystem without namespaces has none.
        """Brings volatile state to the medium, before a shutdown is reported complete."""

    @abc.abstractmethod
    def identify(self, association: Association, cns: int, nsid: int) -> bytes:
        """The 4096 bytes of an Identify data structure; raises `CommandError`."""

    @abc.abstractmethod
    def log_page(self, association: Association, request: LogRequest) -> bytes:
        """A whole log page; raises `CommandError`."""


class NvmSubsystem(Subsystem):
    """The NVM subsystem: namespaces, which every controller has."""

    events_offered = AEC_NAMESPACE_ATTRIBUTE

    def __init__(
        self, nqn: str, *, model: str = MODEL, config: ControllerConfig | None = None
    ) -> None:
        super().__init__(nqn, model=model, config=config)
        #: Read by whoever serves I/O; changed only here.
        self.namespaces: dict[int, Namespace] = {}
        self._retired: list[BackingStore] = []

    def __iter__(self) -> Iterator[Namespace]:
        return iter(sorted(self.namespaces.values(), key=lambda namespace: namespace.nsid))

    @property
    def volatile_cache(self) -> bool:
        """True where some namespace has a cache."""
        return any(namespace.store.volatile_cache for namespace in self.namespaces.values())

    def add_namespace(self, namespace: Namespace) -> None:
        """Adds a namespace and tells all hosts.  Raises `ConfigError`, `BusyError`."""
        nsid = namespace.nsid
        if not 1 <= nsid <= MAX_NAMESPACES:
            raise ConfigError(
                f"not an NSID; give one from 1 to {MAX_NAMESPACES}", field="nsid", value=nsid
            )
        if nsid in self.namespaces:
            raise BusyError("this NSID is in use", field="nsid", value=nsid)
        self.namespaces[nsid] = namespace
        self._changed(nsid)

    def remove_namespace(self, nsid: int) -> Namespace:
        """Removes a namespace and tells all hosts.

        Commands under way finish; the caller closes the store.  Raises `NoSuchDeviceError`.
        """
        namespace = self.namespace(nsid)
        del self.namespaces[nsid]
        self._changed(nsid)
        return namespace

    def replace_store(self, nsid: int, store: BackingStore) -> None:
        """Puts another store of the same size behind a namespace, and tells nobody."""
        namespace = self.namespace(nsid)
        self._retired.append(namespace.store)
        namespace.store = store

    def set_uuid(self, nsid: int, uuid: UUID) -> None:
        """Gives a namespace another identity, and tells all hosts."""
        self.namespace(nsid).uuid = uuid
        self._changed(nsid)

    def remap_namespace(self, nsid: int, to: int) -> None:
        """Gives a namespace another NSID, and tells all hosts; whoever has it gets the old one."""
        moved, other = self.namespace(nsid), self.namespaces.pop(to, None)
        del self.namespaces[nsid]
        for namespace, at in ((moved, to), (other, nsid)):
            if namespace is not None:
                namespace.nsid = at
                self.namespaces[at] = namespace
        self._changed(nsid)
        self._changed(to)

    def resize_namespace(self, nsid: int, size_lbas: int) -> None:
        """Changes the size, up to what the store holds, and tells all hosts."""
        namespace = self.namespace(nsid)
        most = namespace.store.size_bytes >> namespace.lba_shift
        if not 1 <= size_lbas <= most:
            raise ConfigError(
                f"not a size; the store holds 1 to {most} blocks", field="size", value=size_lbas
            )
        namespace.size_lbas = size_lbas
        self._changed(nsid)

    def identify(self, association: Association, cns: int, nsid: int) -> bytes:
        """Identify CNS 00h to 03h."""
        match cns:
            case Cns.CONTROLLER:
                return identify_io_controller(self, association, namespaces=MAX_NAMESPACES)
            case Cns.ACTIVE_NAMESPACES:
                if nsid >= NSID_ALL - 1:
                    raise CommandError(INVALID_NAMESPACE.with_dnr())
                later = [namespace.nsid for namespace in self if namespace.nsid > nsid]
                return pack_namespace_list(later[:MAX_ACTIVE_NAMESPACES])
            case Cns.NAMESPACE | Cns.NAMESPACE_DESCRIPTORS:
                if not 1 <= nsid <= MAX_NAMESPACES:
                    raise CommandError(INVALID_NAMESPACE.with_dnr())
                namespace = self.namespaces.get(nsid)
                if cns == Cns.NAMESPACE:
                    return namespace.identify() if namespace else bytes(IDENTIFY_BYTES)
                if namespace is None:
                    raise CommandError(INVALID_NAMESPACE.with_dnr())
                return namespace.descriptors()
            case _:
                raise CommandError(INVALID_FIELD.with_dnr())

    def log_page(self, association: Association, request: LogRequest) -> bytes:
        """Get Log Page 00h to 05h."""
        match request.lid:
            case 0x00:
                return supported_pages(NVM_LOG_PAGES)
            case LogId.ERROR:
                return association.errors.pack(ERROR_LOG_ENTRIES)
            case LogId.HEALTH:
                if request.nsid not in {0, NSID_ALL}:  # LPA: not per namespace.
                    raise CommandError(INVALID_FIELD.with_dnr())
                return health(self.statistics, self.started_at)
            case LogId.FIRMWARE_SLOT:
                return firmware_slots(self.firmware_revision)
            case LogId.CHANGED_NAMESPACES:
                return association.events.changed_list()
            case LogId.COMMAND_EFFECTS:
                return command_effects()
            case LogId.CROSS_CONTROLLER_RESET:
                return cross_reset_log()
            case _:
                raise CommandError(INVALID_LOG_PAGE.with_dnr())

    async def flush(self) -> None:
        """Flushes every namespace that has a volatile cache."""
        for namespace in self:
            if namespace.store.volatile_cache:
                try:
                    await namespace.store.flush()
                except OSError as error:
                    _log.error("namespace %d: flush: %s", namespace.nsid, error)

    def close(self) -> None:
        """Closes every store."""
        for store in (*self._retired, *(namespace.store for namespace in self)):
            store.close()

    def namespace(self, nsid: int) -> Namespace:
        """The namespace of this NSID; raises `NoSuchDeviceError`."""
        try:
            return self.namespaces[nsid]
        except KeyError:
            raise NoSuchDeviceError("no such namespace", field="nsid", value=nsid) from None

    def _changed(self, nsid: int) -> None:
        for association in self.associations:
            association.events.namespace_changed(nsid)


def serial_of(nqn: str) -> str:
    """The serial number of a subsystem: 20 digits that are the same at every start."""
    return hashlib.sha256(nqn.encode()).hexdigest()[:20].upper()
