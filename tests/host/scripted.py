"""An I/O controller that does as it is told: refuse, close or fall silent at any command.

What a test does not set is well-behaved.  `seen` has every command and every lost connection with
the time, in the order in which they came.
"""

import enum
import struct
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from nvmf_transport import status as st
from nvmf_transport.address import Address
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import TransportError, UnreachableError
from nvmf_transport.fabrics import (
    SQHD_DISABLED,
    ConnectCommand,
    ConnectData,
    FabricsType,
    PropertyGetCommand,
    PropertySetCommand,
)
from nvmf_transport.identify import (
    DescriptorType,
    IdentifyController,
    IdentifyNamespace,
    LbaFormat,
    pack_namespace_descriptors,
    pack_namespace_list,
)
from nvmf_transport.interfaces import ControllerQueuePair, ControllerQueueParams, Endpoint
from nvmf_transport.loop import LoopIncomingConnection, LoopTransport
from nvmf_transport.nvme import (
    AEC_NAMESPACE_ATTRIBUTE,
    AdminOpcode,
    AsyncEvent,
    AsyncEventType,
    Cap,
    Cc,
    Cns,
    Csts,
    FeatureId,
    NvmOpcode,
    Property,
    SubmissionEntry,
)
from nvmf_transport.status import Status

SUBNQN = "nqn.2020-01.com.example:scripted"
ADDRESS = Address("target", 4420)


class Fate(enum.Enum):
    """What becomes of a command instead of an answer."""

    SILENT = enum.auto()
    CLOSE = enum.auto()


@attrs.frozen
class Answer:
    """An answer other than the usual one."""

    status: Status = st.SUCCESS
    result: int = 0
    #: None: as SQ flow control has it.
    sqhd: int | None = None


@attrs.frozen
class Seen:
    at: float
    qid: int
    what: str
    sqe: bytes = b""


@attrs.define(eq=False)
class Disk:
    """A namespace."""

    size_lbas: int = 64
    uuid: bytes | None = bytes(range(16))
    data: bytearray = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.data = bytearray(self.size_lbas * 512)


class Network(LoopTransport):
    """A loop transport with names that may fail to be looked up, or stand for several endpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.lookup_hangs = False
        self.lookup_error: str | None = None
        self.endpoints: Sequence[Address] | None = None
        #: When each attempt began.
        self.lookups: list[float] = []

    async def resolve(self, address: Address, *, deadline: float) -> Sequence[Endpoint]:
        self.lookups.append(trio.current_time())
        if self.lookup_hangs:
            await trio.sleep_until(deadline)
            raise UnreachableError(f"{address}: no answer to the look-up")
        if self.lookup_error is not None:
            raise UnreachableError(self.lookup_error)
        (one,) = await super().resolve(address, deadline=deadline)
        if self.endpoints is None:
            return (one,)
        return tuple(Endpoint(each, one.family) for each in self.endpoints)


@attrs.define(eq=False)
class Queue:
    qid: int
    qpair: ControllerQueuePair
    scope: trio.CancelScope
    sqhd: int = SQHD_DISABLED


@attrs.define(eq=False)
class Scripted:
    """Serves one association at a time; `queues` are those of the present one, by QID."""

    network: Network = attrs.field(factory=Network)
    disks: dict[int, Disk] = attrs.field(factory=lambda: {1: Disk()})
    #: By the name of the command, as `seen` has it: a `Fate`, an `Answer`, or what gives one.
    faults: MutableMapping[str, Any] = attrs.field(factory=dict)
    #: How long the answers to these commands take.
    delays: dict[str, float] = attrs.field(factory=dict)
    cap_to: int = 4
    mqes: int = 127
    max_queues: int = 4
    cntlid: int = 7
    tbkas: bool = False
    kato_ms: int | None = None
    aerl: int = 3
    oaes: int = AEC_NAMESPACE_ATTRIBUTE
    mdts: int = 5
    vwc: int = 0
    ciu: int = 0
    cirn: int = 0
    cqt_ms: int = 0
    nmic: int = 0
    serial: str = "S1"
    model: str = "scripted"
    #: CSTS follows CC so much later; None: never.
    ready_after_s: float | None = 0.0
    reset_after_s: float | None = 0.0
    shutdown_after_s: float | None = 0.0
    cfs: bool = False

    seen: list[Seen] = attrs.field(factory=list)
    connects: list[tuple[ConnectCommand, ConnectData]] = attrs.field(factory=list)
    queues: dict[int, Queue] = attrs.field(factory=dict)
    cc: Cc = attrs.field(factory=Cc)
    cc_changed_at: float = 0
    aers: list[int] = attrs.field(factory=list)
    changed: set[int] = attrs.field(factory=set)
    asked_kato_ms: int = 0

    def names(self, qid: int | None = None) -> list[str]:
        return [seen.what for seen in self.seen if qid is None or seen.qid == qid]

    def at(self, what: str) -> list[float]:
        """The times of all commands of this name."""
        return [seen.at for seen in self.seen if seen.what == what]

    def close_queue(self, qid: int) -> None:
        self.queues[qid].scope.cancel()

    def event(self, *nsids: int, info: int = 0, page: int = 4) -> None:
        """Reports that namespaces have changed (or another notice)."""
        self.changed |= set(nsids)
        event = AsyncEvent.of(event_type=AsyncEventType.NOTICE, info=info, log_page=page)
        self.complete_aer(st.SUCCESS, event.value)

    def complete_aer(self, status: Status, result: int = 0) -> None:
        cid = self.aers.pop(0)
        queue = self.queues[0]
        queue.qpair.transmit(ResponseCapsule(cid, status.to_field(), result, queue.sqhd))

    async def serve(
        self,
        address: Address = ADDRESS,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as nursery, self.network.listen(address) as listener:
            task_status.started()
            while True:
                nursery.start_soon(self._converse, await listener.accept())

    async def _converse(self, incoming: LoopIncomingConnection) -> None:
        queue: Queue | None = None
        with trio.CancelScope() as scope:
            try:
                async with incoming.establish(ControllerQueueParams(), timeout_s=1) as qpair:
                    queue = Queue(-1, qpair, scope)
                    async with trio.open_nursery() as nursery:
                        while True:
                            command = await qpair.receive()
                            if queue.qid < 0:
                                queue.qid = ConnectCommand.unpack(command.sqe).qid
                                self.queues[queue.qid] = queue
                                if queue.qid == 0:
                                    self.cc, self.cc_changed_at = Cc(), 0
                                    self.aers.clear()
                            entry = SubmissionEntry.unpack(command.sqe)
                            what = name_of(queue.qid, command.sqe, entry)
                            self.seen.append(
                                Seen(trio.current_time(), queue.qid, what, bytes(command.sqe))
                            )
                            nursery.start_soon(self._answer, queue, command, entry, what)
            except* TransportError:
                pass
        qid = -1 if queue is None else queue.qid
        self.seen.append(Seen(trio.current_time(), qid, "closed"))

    async def _answer(
        self, queue: Queue, command: ReceivedCommand, entry: SubmissionEntry, what: str
    ) -> None:
        fault = self.faults.get(what)
        if callable(fault):
            fault = fault()
        if what in self.delays:
            await trio.sleep(self.delays[what])
        if fault is Fate.SILENT:
            return
        if fault is Fate.CLOSE:
            queue.scope.cancel()
            return
        if isinstance(fault, Answer):
            if what.startswith("CONNECT") or fault.status.ok:
                await self._usual(queue, command, entry, what)
            answer = fault
        else:
            answer_or_none = await self._usual(queue, command, entry, what)
            if answer_or_none is None:
                return
            answer = answer_or_none
        sqhd = queue.sqhd if answer.sqhd is None else answer.sqhd
        queue.qpair.transmit(
            ResponseCapsule(command.cid, answer.status.to_field(), answer.result, sqhd)
        )

    async def _usual(
        self, queue: Queue, command: ReceivedCommand, entry: SubmissionEntry, what: str
    ) -> Answer | None:
        qpair = queue.qpair
        if queue.qid and not what.startswith("CONNECT"):
            return await self._io(qpair, command, entry)
        match entry.opc:
            case AdminOpcode.FABRICS:
                return await self._fabrics(queue, command)
            case AdminOpcode.IDENTIFY:
                await qpair.send_data(command, [self._identify(entry)], complete=False)
            case AdminOpcode.GET_LOG_PAGE:
                data = bytes(command.transfer_bytes)
                if entry.cdw10 & 0xFF == 4:
                    data = pack_namespace_list(sorted(self.changed))
                    self.changed.clear()
                await qpair.send_data(command, [data], complete=False)
            case AdminOpcode.GET_FEATURES:
                granted = self.asked_kato_ms if self.kato_ms is None else self.kato_ms
                return Answer(result=granted)
            case AdminOpcode.SET_FEATURES if entry.cdw10 == FeatureId.NUMBER_OF_QUEUES:
                granted = min(entry.cdw11 & 0xFFFF, self.max_queues - 1)
                return Answer(result=granted | granted << 16)
            case AdminOpcode.ASYNC_EVENT_REQUEST:
                if len(self.aers) > self.aerl:
                    return Answer(st.AER_LIMIT_EXCEEDED.with_dnr())
                self.aers.append(command.cid)
                return None
            case _:
                pass
        return Answer()

    async def _fabrics(self, queue: Queue, command: ReceivedCommand) -> Answer:
        match command.sqe[4]:
            case FabricsType.CONNECT:
                fields = ConnectCommand.unpack(command.sqe)
                data = ConnectData.unpack(await queue.qpair.receive_data(command))
                self.connects.append((fields, data))
                if fields.qid == 0:
                    self.asked_kato_ms = fields.kato
                queue.sqhd = SQHD_DISABLED if fields.disable_sqflow else 1
                queue.qpair.configure(
                    entries=fields.sqsize + 1,
                    sq_flow_control=not fields.disable_sqflow,
                    in_capsule_bytes=8192,
                )
                return Answer(result=self.cntlid)
            case FabricsType.PROPERTY_SET:
                self.cc = Cc(PropertySetCommand.unpack(command.sqe).value)
                self.cc_changed_at = trio.current_time()
                return Answer()
            case _:
                return Answer(result=self._property(PropertyGetCommand.unpack(command.sqe).ofst))

    def _property(self, offset: int) -> int:
        match offset:
            case Property.CAP:
                return Cap.of(to=self.cap_to, css=Cap.CSS_NVM, mqes=self.mqes).value
            case Property.VS:
                return 0x00010400
            case Property.CC:
                return self.cc.value
            case _:
                rdy = (
                    self._past(self.ready_after_s)
                    if self.cc.en
                    else not self._past(self.reset_after_s)
                )
                shst = Csts.SHST_NORMAL
                if self.cc.shn:
                    done = self._past(self.shutdown_after_s)
                    shst = Csts.SHST_COMPLETE if done else Csts.SHST_OCCURRING
                return Csts.of(rdy=rdy, shst=shst, cfs=self.cfs).value

    def _past(self, delay_s: float | None) -> bool:
        return delay_s is not None and trio.current_time() >= self.cc_changed_at + delay_s

    def _identify(self, entry: SubmissionEntry) -> bytes:
        match entry.cdw10 & 0xFF:
            case Cns.CONTROLLER:
                return IdentifyController(
                    sn=self.serial,
                    mn=self.model,
                    fr="1",
                    cntlid=self.cntlid,
                    mdts=self.mdts,
                    ctratt=IdentifyController.CTRATT_TBKAS if self.tbkas else 0,
                    aerl=self.aerl,
                    oaes=self.oaes,
                    vwc=self.vwc,
                    ciu=self.ciu,
                    cirn=self.cirn,
                    cqt=self.cqt_ms,
                    nn=1024,
                    ioccsz=516,
                    oncs=IdentifyController.ONCS_DSM | IdentifyController.ONCS_WRITE_ZEROES,
                ).pack()
            case Cns.ACTIVE_NAMESPACES:
                return pack_namespace_list(n for n in sorted(self.disks) if n > entry.nsid)
            case Cns.NAMESPACE:
                disk = self.disks.get(entry.nsid)
                if disk is None:
                    return bytes(4096)
                size = disk.size_lbas
                lbaf = (LbaFormat(0, 9).to_word(), *(0,) * 63)
                return IdentifyNamespace(
                    nsze=size, ncap=size, nuse=size, nmic=self.nmic, lbaf=lbaf
                ).pack()
            case _:
                disk = self.disks.get(entry.nsid)
                ids = [(DescriptorType.UUID, disk.uuid)] if disk and disk.uuid else []
                return pack_namespace_descriptors(ids)

    async def _io(
        self, qpair: ControllerQueuePair, command: ReceivedCommand, entry: SubmissionEntry
    ) -> Answer | None:
        disk = self.disks.get(entry.nsid)
        if disk is None:
            return Answer(st.INVALID_NAMESPACE.with_dnr())
        start, end = entry.slba * 512, (entry.slba + (entry.cdw12 & 0xFFFF) + 1) * 512
        match entry.opc:
            case NvmOpcode.READ:
                await qpair.send_data(command, [bytes(disk.data[start:end])], complete=False)
            case NvmOpcode.WRITE:
                disk.data[start:end] = await qpair.receive_data(command)
            case _:
                pass
        return Answer()


_NAMES = {
    AdminOpcode.IDENTIFY: "IDENTIFY {:02X}h",
    AdminOpcode.GET_LOG_PAGE: "Get Log Page {:02X}h",
    AdminOpcode.GET_FEATURES: "Get Features {:02X}h",
    AdminOpcode.SET_FEATURES: "Set Features {:02X}h",
    AdminOpcode.ASYNC_EVENT_REQUEST: "AER",
    AdminOpcode.KEEP_ALIVE: "Keep Alive",
    AdminOpcode.CROSS_CONTROLLER_RESET: "Cross-Controller Reset",
}


def name_of(qid: int, sqe: bytes, entry: SubmissionEntry) -> str:
    """What `faults` and `seen` call a command."""
    if entry.opc != AdminOpcode.FABRICS:
        if qid:
            return NvmOpcode(entry.opc).name
        return _NAMES[AdminOpcode(entry.opc)].format(entry.cdw10 & 0xFF)
    match sqe[4]:
        case FabricsType.CONNECT:
            return f"CONNECT {ConnectCommand.unpack(sqe).qid}"
        case FabricsType.PROPERTY_SET:
            (value,) = struct.unpack_from("<I", sqe, PropertySetCommand.offset_of("value"))
            cc = Cc(value)
            return "CC.SHN" if cc.shn else f"CC.EN={cc.en}"
        case _:
            return f"Property Get {Property(PropertyGetCommand.unpack(sqe).ofst).name}"


@asynccontextmanager
async def scripted(controller: Scripted, *addresses: Address) -> AsyncIterator[Scripted]:
    """Serves a scripted controller at these addresses, or at `ADDRESS`."""
    async with trio.open_nursery() as nursery:
        for address in addresses or (ADDRESS,):
            await nursery.start(controller.serve, address)
        yield controller
        nursery.cancel_scope.cancel()
