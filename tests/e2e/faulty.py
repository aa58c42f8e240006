"""A real controller with one fault: it closes, falls silent or says something else at one step.

The controller is `nvmf_controller`'s; between it and the transport a queue pair sits that knows
the steps of a host's way to its namespaces, and does at one of them what it was told to.
"""

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from nvmf_tcp import TcpTransport
from nvmf_transport.address import Address
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import ConnectionLostError
from nvmf_transport.fabrics import (
    ConnectCommand,
    FabricsType,
    PropertyGetCommand,
    PropertySetCommand,
    TransportType,
)
from nvmf_transport.interfaces import (
    ControllerQueuePair,
    ControllerQueueParams,
    Endpoint,
    HostQueuePair,
    HostQueueParams,
    IncomingConnection,
    Listener,
    QueuePairLimits,
)
from nvmf_transport.nvme import AdminOpcode, Cns, FeatureId, Property, SubmissionEntry
from nvmf_transport.status import Status
from nvmf_transport.wire import Buffer

_SILENCE_S = 30.0


class Step(enum.Enum):
    """Where a host is on its way."""

    ICREQ = "ICReq"
    CONNECT = "CONNECT"
    CAP = "Property Get CAP"
    CC = "Property Set CC"
    CSTS = "Property Get CSTS"
    VS = "Property Get VS"
    IDENTIFY = "Identify Controller"
    KATO = "Get Features, Keep Alive Timer"
    QUEUES = "Set Features, Number of Queues"
    IO_ICREQ = "ICReq of an I/O queue"
    IO_CONNECT = "CONNECT of an I/O queue"
    SCAN = "Identify, active namespaces"
    NAMESPACE = "Identify Namespace"
    OTHER = "anything else"


class Behaviour(enum.Enum):
    """What happens to the connection at the step."""

    CLOSE = enum.auto()
    SILENT = enum.auto()


@attrs.frozen
class Fault:
    """What goes wrong at `step`: a behaviour, another status or result, or other data."""

    step: Step
    behaviour: Behaviour | None = None
    status: Status | None = None
    result: int | None = None
    data: Callable[[bytes], bytes] | None = None


def step_of(sqe: bytes) -> Step:
    """The step that a command belongs to."""
    opcode = sqe[0]
    if opcode == AdminOpcode.FABRICS:
        match sqe[4]:
            case FabricsType.CONNECT:
                return Step.IO_CONNECT if ConnectCommand.unpack(sqe).qid else Step.CONNECT
            case FabricsType.PROPERTY_GET:
                wanted = {Property.CAP: Step.CAP, Property.CSTS: Step.CSTS, Property.VS: Step.VS}
                return wanted.get(Property(PropertyGetCommand.unpack(sqe).ofst), Step.OTHER)
            case FabricsType.PROPERTY_SET if PropertySetCommand.unpack(sqe).ofst == Property.CC:
                return Step.CC
            case _:
                return Step.OTHER
    entry = SubmissionEntry.unpack(sqe)
    match opcode, entry.cdw10 & 0xFF:
        case AdminOpcode.IDENTIFY, Cns.CONTROLLER:
            return Step.IDENTIFY
        case AdminOpcode.IDENTIFY, Cns.ACTIVE_NAMESPACES:
            return Step.SCAN
        case AdminOpcode.IDENTIFY, Cns.NAMESPACE:
            return Step.NAMESPACE
        case AdminOpcode.SET_FEATURES, FeatureId.NUMBER_OF_QUEUES:
            return Step.QUEUES
        case AdminOpcode.GET_FEATURES, FeatureId.KEEP_ALIVE_TIMER:
            return Step.KATO
        case _:
            return Step.OTHER


@attrs.define(eq=False)
class FaultyQueuePair:
    """A `ControllerQueuePair` that commits the fault."""

    _qpair: ControllerQueuePair
    _fault: Fault
    _spoilt: set[int] = attrs.field(factory=set)

    @property
    def limits(self) -> QueuePairLimits:
        return self._qpair.limits

    @property
    def local(self) -> Endpoint:
        return self._qpair.local

    @property
    def peer(self) -> Endpoint:
        return self._qpair.peer

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        self._qpair.configure(
            entries=entries, sq_flow_control=sq_flow_control, in_capsule_bytes=in_capsule_bytes
        )

    async def receive(self) -> ReceivedCommand:
        while True:
            command = await self._qpair.receive()
            self._spoilt.discard(command.cid)
            if step_of(command.sqe) is not self._fault.step:
                return command
            match self._fault.behaviour:
                case Behaviour.CLOSE:
                    raise ConnectionLostError("the fault")
                case Behaviour.SILENT:
                    # Longer than the host waits, and than the server would for CONNECT.
                    with trio.CancelScope(shield=True):
                        await trio.sleep(_SILENCE_S)
                    raise ConnectionLostError("the fault")
                case None:
                    self._spoilt.add(command.cid)
                    return command

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        return await self._qpair.receive_data(command)

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        if command.cid in self._spoilt and self._fault.data is not None:
            data = [self._fault.data(b"".join(data))]
        elif command.cid in self._spoilt and self._fault.status is not None:
            self.transmit(ResponseCapsule(command.cid, sqhd=0xFFFF))
            return True
        return await self._qpair.send_data(command, data, complete=complete)

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> None:
        """Never: see `send_data`."""

    def transmit(self, capsule: ResponseCapsule) -> None:
        if capsule.cid in self._spoilt:
            self._spoilt.discard(capsule.cid)
            if self._fault.status is not None:
                capsule.status = self._fault.status.to_field()
            if self._fault.result is not None:
                capsule.result = self._fault.result
        self._qpair.transmit(capsule)


@attrs.define(eq=False)
class _Incoming:
    _incoming: IncomingConnection
    _fault: Fault
    _is_first: bool

    @property
    def local(self) -> Endpoint:
        return self._incoming.local

    @property
    def peer(self) -> Endpoint:
        return self._incoming.peer

    @asynccontextmanager
    async def establish(
        self, params: ControllerQueueParams, *, timeout_s: float
    ) -> AsyncIterator[ControllerQueuePair]:
        if self._fault.step is (Step.ICREQ if self._is_first else Step.IO_ICREQ):
            if self._fault.behaviour is Behaviour.SILENT:
                await trio.sleep(_SILENCE_S)
            await self._incoming.aclose()
            raise ConnectionLostError("the fault")
        async with self._incoming.establish(params, timeout_s=timeout_s) as qpair:
            yield FaultyQueuePair(qpair, self._fault)

    async def aclose(self) -> None:
        await self._incoming.aclose()


@attrs.define(eq=False)
class _Listener:
    _listener: Listener
    _fault: Fault
    _accepted: int = 0

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        return self._listener.endpoints

    async def accept(self) -> IncomingConnection:
        incoming = await self._listener.accept()
        self._accepted += 1
        # One host at a time: its admin queue comes first.
        return _Incoming(incoming, self._fault, self._accepted == 1)


@attrs.define(eq=False)
class FaultyTransport:
    """TCP whose listeners commit the fault on every connection."""

    fault: Fault
    name: str = "tcp"
    trtype: TransportType = TransportType.TCP
    _tcp: TcpTransport = attrs.field(factory=TcpTransport)

    async def resolve(self, address: Address, *, deadline: float) -> Sequence[Endpoint]:
        return await self._tcp.resolve(address, deadline=deadline)

    def connect(
        self, endpoint: Endpoint, params: HostQueueParams, *, deadline: float
    ) -> AbstractAsyncContextManager[HostQueuePair]:
        return self._tcp.connect(endpoint, params, deadline=deadline)

    @asynccontextmanager
    async def listen(self, address: Address) -> AsyncIterator[Listener]:
        async with self._tcp.listen(address) as listener:
            yield _Listener(listener, self.fault)
