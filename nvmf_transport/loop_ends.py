"""The two ends of a connection in memory, and the messages between them; see `loop`."""

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from .capsule import CommandCapsule, ReceivedCommand, ResponseCapsule
from .errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    DataDigestError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from .faults import PduFault, PduKind
from .interfaces import ControllerQueueParams, Endpoint, HostQueueParams, QueuePairLimits
from .loop_faults import place_of, spoil_message
from .loop_pipe import (
    HEAD_BYTES,
    CommandMessage,
    ControllerData,
    Ended,
    HostData,
    Malformed,
    Message,
    Pipe,
    ReadyToTransfer,
)
from .nvme import FLAGS_SGL, SglId, SubmissionEntry
from .status import DATA_SGL_LENGTH_INVALID, INVALID_FIELD, TRANSIENT_TRANSPORT_ERROR, Status
from .wire import Buffer

#: Fatal Error Status: Data Transfer Out of Range, PDU Sequence Error (NVMe/TCP, section 3.6.2.3).
_FES_OUT_OF_RANGE: Final = 4
_FES_SEQUENCE: Final = 2

_FLAGS_AT: Final = SubmissionEntry.offset_of("flags")
_SGL_ADDRESS_AT: Final = SubmissionEntry.offset_of("sgl_address")
_SGL_LENGTH_AT: Final = SubmissionEntry.offset_of("sgl_length")


class _End:
    """What both ends of a qpair have in common."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, local: Endpoint, peer: Endpoint) -> None:
        self._in = incoming
        self._out = outgoing
        self._receiving = False
        self.error: TransportError | None = None
        self.limits = QueuePairLimits()
        self.local = local
        self.peer = peer

    def die(self, error: TransportError) -> None:
        """Ends this end; the first error stays."""
        if self.error is None:
            self.error = error
            self._in.close()
            self._out.drained.unpark_all()

    def leave(self) -> None:
        """The orderly end: the peer learns of it after all that was queued."""
        if self.error is None:
            self._out.send(Ended(ConnectionLostError(f"{self.local} closed the connection")))
        self.die(ConnectionLostError(f"the connection to {self.peer} was closed by this side"))

    def _accuse(self, error: RemoteProtocolError) -> None:
        text = f"{self.local} ended the connection: {error}"
        self._out.send(Ended(ConnectionTerminatedError(text, fes=error.fes or 0, fei=error.fei)))
        self.die(error)

    async def _wait(self, lot: trio.lowlevel.ParkingLot) -> None:
        if self._receiving:
            raise LocalProtocolError("two tasks receive from one qpair")
        self._receiving = True
        try:
            await lot.park()
        finally:
            self._receiving = False


@attrs.define(eq=False)
class _Outstanding:
    capsule: CommandCapsule
    data_bytes: int = 0
    digest_error: bool = False


class LoopHostQueuePair(_End):
    """The host's end; see `interfaces.HostQueuePair`."""

    def __init__(
        self, connection: "LoopConnection", params: HostQueueParams, local: Endpoint, peer: Endpoint
    ) -> None:
        super().__init__(connection.to_host, connection.to_controller, local, peer)
        self._connection = connection
        self._params = params
        self._outstanding: dict[int, _Outstanding] = {}

    def transmit(self, capsule: CommandCapsule) -> None:
        """Queues a command; a write of at most `in_capsule_bytes` takes its data along."""
        if capsule.data_out is not None and capsule.data_in is not None:
            raise LocalProtocolError(f"CID {capsule.cid} has data in both directions")
        if self.error is not None:
            return
        if capsule.cid in self._outstanding:
            raise LocalProtocolError(f"CID {capsule.cid} is in use")
        self._outstanding[capsule.cid] = _Outstanding(capsule)
        data_bytes, in_capsule_data = 0, None
        if capsule.data_in is not None:
            data_bytes = capsule.data_in.nbytes
        elif capsule.data_out is not None:
            data_bytes = memoryview(capsule.data_out).nbytes
            if data_bytes <= self._params.in_capsule_bytes:
                in_capsule_data = bytes(capsule.data_out)
        _write_sgl(capsule.sqe, data_bytes, in_capsule=in_capsule_data is not None)
        spoiled = in_capsule_data is not None and self._connection.spoils_to_controller()
        self._out.send(CommandMessage(bytes(capsule.sqe), capsule.cid, in_capsule_data, spoiled))

    async def receive(self) -> ResponseCapsule:
        """Returns the next response; raises `TransportError` once the connection is dead."""
        while True:
            response = self.receive_nowait()
            if response is not None:
                return response
            if self.error is not None:
                raise self.error
            await self._wait(self._in.arrived)

    def receive_nowait(self) -> ResponseCapsule | None:
        """Returns the next response if one is at hand; None also once the connection is dead."""
        while (message := self._in.take()) is not None:
            try:
                response = self._handle(message)
            except RemoteProtocolError as error:
                self._accuse(error)
                return None
            if response is not None:
                return response
        return None

    def _handle(self, message: Message) -> ResponseCapsule | None:
        match message:
            case ResponseCapsule():
                return self._complete(message)
            case ControllerData():
                self._land(message)
                return self._complete(ResponseCapsule(message.cid)) if message.success else None
            case ReadyToTransfer(cid):
                found = self._outstanding.get(cid)
                if found is None or found.capsule.data_out is None:
                    raise RemoteProtocolError(f"R2T for CID {cid}", fes=_FES_SEQUENCE)
                data = bytes(found.capsule.data_out)
                spoiled = self._connection.spoils_to_controller()
                self._out.send(HostData(cid, data, spoiled), len(data))
            case Malformed(text, fes):
                raise RemoteProtocolError(text, fes=fes)
            case Ended(error):
                self.die(error)
            case _:
                raise AssertionError(message)
        return None

    def _land(self, message: ControllerData) -> None:
        found = self._outstanding.get(message.cid)
        if found is None or found.capsule.data_in is None:
            raise RemoteProtocolError(f"C2HData for CID {message.cid}", fes=_FES_SEQUENCE)
        target = found.capsule.data_in.cast("B")
        for piece in message.data:
            source = memoryview(piece).cast("B")
            end = found.data_bytes + source.nbytes
            if end > target.nbytes:
                raise RemoteProtocolError(
                    f"C2HData for CID {message.cid} reaches byte {end} of {target.nbytes}",
                    fes=_FES_OUT_OF_RANGE,
                )
            target[found.data_bytes : end] = source
            found.data_bytes = end
        found.digest_error |= message.spoiled

    def _complete(self, response: ResponseCapsule) -> ResponseCapsule:
        # Whether the CID stands for a command is for the layer above to judge.
        found = self._outstanding.pop(response.cid, None)
        if found is not None:
            response.data_bytes = found.data_bytes
            response.digest_error = found.digest_error
        return response


@attrs.define(eq=False)
class _DataWait:
    arrived: trio.Event = attrs.field(factory=trio.Event)
    message: HostData | None = None


class LoopControllerQueuePair(_End):
    """The controller's end; see `interfaces.ControllerQueuePair`."""

    def __init__(self, connection: "LoopConnection", local: Endpoint, peer: Endpoint) -> None:
        super().__init__(connection.to_controller, connection.to_host, local, peer)
        self._connection = connection
        self._params = ControllerQueueParams()
        self._sq_flow_control = True
        self._in_capsule_bytes = 0
        self._waits: dict[int, _DataWait] = {}
        self._faults: dict[tuple[int, PduKind], PduFault] = {}

    def spoil(self, cid: int, fault: PduFault) -> None:
        """See `faults.MisbehavingQueuePair`."""
        self._faults[cid, fault.kind] = fault

    def reset(self) -> None:
        """See `faults.MisbehavingQueuePair`."""
        self._connection.cut()

    def _emit(self, message: Message, size_bytes: int = HEAD_BYTES) -> None:
        """Sends a message, after what was to be done to it."""
        if self._faults and (fault := self._faults.pop(place_of(message), None)) is not None:
            spoiled = spoil_message(message, fault, self.limits)
            if spoiled is None:
                self._out.send(Ended(ConnectionLostError("the connection was closed in a PDU")))
                self.die(ConnectionLostError("the connection was closed inside a PDU, as asked"))
                return
            message = spoiled
        self._out.send(message, size_bytes)

    def establish(self, params: ControllerQueueParams, limits: QueuePairLimits) -> None:
        """Takes on what was agreed with the host."""
        self._params = params
        self._in_capsule_bytes = params.in_capsule_bytes
        self.limits = limits

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        """Takes over what CONNECT settled; `entries` binds the layer above, not this one."""
        del entries
        self._sq_flow_control = sq_flow_control
        self._in_capsule_bytes = in_capsule_bytes
        self.limits = attrs.evolve(self.limits, in_capsule_bytes=in_capsule_bytes)

    async def receive(self) -> ReceivedCommand:
        """Returns the next command, and delivers the data that `receive_data` waits for."""
        while True:
            if self.error is None and self._out.queued_bytes > self._params.max_queued_bytes:
                await self._wait(self._out.drained)
                continue
            message = self._in.take()
            match message:
                case None if self.error is not None:
                    raise self.error
                case None:
                    await self._wait(self._in.arrived)
                case CommandMessage():
                    return self._accept(message)
                case HostData(cid):
                    # Nobody waits any more where the caller of receive_data was cancelled.
                    if (wait := self._waits.get(cid)) is not None:
                        wait.message = message
                        wait.arrived.set()
                case Ended(error):
                    self.die(error)
                case _:
                    raise AssertionError(message)

    def _accept(self, message: CommandMessage) -> ReceivedCommand:
        sgl_length = int.from_bytes(message.sqe[_SGL_LENGTH_AT : _SGL_LENGTH_AT + 4], "little")
        command = ReceivedCommand(
            message.sqe, message.cid, sgl_length, message.in_capsule_data, self._connection.fault()
        )
        if message.in_capsule_data is not None:
            if len(message.in_capsule_data) > self._in_capsule_bytes:
                command.fault = DATA_SGL_LENGTH_INVALID.with_dnr()
        elif sgl_length > self._params.max_transfer_bytes:
            # What MDTS asks for (Base 2.1, section 5.1.13).
            command.fault = INVALID_FIELD.with_dnr()
        if command.fault is None and message.spoiled:
            command.fault = TRANSIENT_TRANSPORT_ERROR
        return command

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        """Returns the whole data of a command; another task has to be calling `receive`."""
        if command.in_capsule_data is not None:
            return command.in_capsule_data
        if command.transfer_bytes == 0:
            return b""
        if self.error is not None:
            raise self.error
        wait = self._waits[command.cid] = _DataWait()
        self._emit(ReadyToTransfer(command.cid))
        try:
            await wait.arrived.wait()
        finally:
            del self._waits[command.cid]
        if wait.message is None:
            assert self.error is not None
            raise self.error
        if wait.message.spoiled:
            raise DataDigestError(f"data digest of CID {command.cid} does not match")
        return wait.message.data

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        """Queues data for the host; True where it says that the command has succeeded."""
        while self.error is None and self._out.queued_bytes > self._params.max_queued_bytes:
            await self._out.drained.park()
        return self._send_data(command, data, complete=complete)

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool | None:
        """The same, where there is room for it; else None."""
        if self.error is None and self._out.queued_bytes > self._params.max_queued_bytes:
            return None
        return self._send_data(command, data, complete=complete)

    def _send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        success = complete and not self._sq_flow_control
        data_bytes = sum(memoryview(piece).nbytes for piece in data)
        self._emit(
            ControllerData(command.cid, tuple(data), success, self._connection.spoils_to_host()),
            HEAD_BYTES + data_bytes,
        )
        return success

    def transmit(self, capsule: ResponseCapsule) -> None:
        """Queues a response, after all data queued before it."""
        # A copy: the host's end fills fields in, and the caller may keep its own.
        self._emit(ResponseCapsule(capsule.cid, capsule.status, capsule.result, capsule.sqhd))

    def die(self, error: TransportError) -> None:
        """Ends this end, `receive_data` of all commands included."""
        super().die(error)
        for wait in self._waits.values():
            wait.arrived.set()


def _write_sgl(sqe: bytearray, data_bytes: int, *, in_capsule: bool) -> None:
    """One SGL descriptor, as a host writes it for NVMe/TCP (NVMe/TCP, section 3.3.2)."""
    sgl_id = SglId.DATA_BLOCK_OFFSET if in_capsule else SglId.TRANSPORT_DATA_BLOCK
    sqe[_FLAGS_AT] = sqe[_FLAGS_AT] & 0x3F | FLAGS_SGL
    sqe[_SGL_ADDRESS_AT : _SGL_ADDRESS_AT + 16] = (
        bytes(8) + data_bytes.to_bytes(4, "little") + bytes((0, 0, 0, sgl_id))
    )


class LoopConnection:
    """A connection, and what can be done to it from outside.

    - `cut`: both ends are dead at once, and what was on its way is lost.  A command that the
      controller has received stays with it: executed now, it is a ghost.
    - `freeze`: nothing arrives any more, the end of the connection included, and nobody is told.
      `thaw` delivers what was held: commands that arrive after their host has gone are ghosts too.
    - `spoil_to_host`, `spoil_to_controller`: the data digest of so many next transfers is wrong.
    - `next_fault`: the status that the controller's end finds in the next command.
    """

    def __init__(self, local: Endpoint, peer: Endpoint, params: HostQueueParams) -> None:
        self.to_host = Pipe()
        self.to_controller = Pipe()
        self.params = params
        self.host = LoopHostQueuePair(self, params, local, peer)
        self.controller = LoopControllerQueuePair(self, peer, local)
        self.answered = trio.Event()
        self.spoil_to_host = 0
        self.spoil_to_controller = 0
        self.next_fault: Status | None = None

    @property
    def alive(self) -> bool:
        """False once both ends know that the connection has ended."""
        return self.host.error is None or self.controller.error is None

    def cut(self) -> None:
        """Breaks the connection for both ends, as a reset does; everything on its way is lost."""
        self.to_host.close()
        self.to_controller.close()
        self.host.die(ConnectionLostError(f"the connection to {self.host.peer} was reset"))
        self.controller.die(
            ConnectionLostError(f"the connection to {self.controller.peer} was reset")
        )
        self.answered.set()

    def freeze(self) -> None:
        """Holds all that is sent from now on, in both directions."""
        self.to_host.frozen = self.to_controller.frozen = True

    def thaw(self) -> None:
        """Delivers what `freeze` held."""
        self.to_host.thaw()
        self.to_controller.thaw()

    def spoils_to_host(self) -> bool:
        """Counts one transfer to the host; True where its digest is to be wrong."""
        self.spoil_to_host, spoiled = max(0, self.spoil_to_host - 1), self.spoil_to_host > 0
        return spoiled

    def spoils_to_controller(self) -> bool:
        """Counts one transfer to the controller; True where its digest is to be wrong."""
        count = self.spoil_to_controller
        self.spoil_to_controller = max(0, count - 1)
        return count > 0

    def fault(self) -> Status | None:
        """The fault for the next command, once."""
        fault, self.next_fault = self.next_fault, None
        return fault
