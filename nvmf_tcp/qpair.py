"""The two ends of a qpair over a socket, as `nvmf_transport.interfaces` has them."""

import socket
from collections import deque
from collections.abc import Sequence

import trio

from nvmf_transport.capsule import CommandCapsule, ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import DataDigestError, LocalProtocolError
from nvmf_transport.faults import PduFault
from nvmf_transport.interfaces import (
    ControllerQueueParams,
    Endpoint,
    HostQueueParams,
    QueuePairLimits,
)
from nvmf_transport.wire import Buffer

from .controller import ControllerConnection, ControllerEvent
from .driver import Driver
from .host import HostConnection
from .layout import Counters, TcpOptions
from .spoiling import SpoilingConnection
from .transfer import InboundTransfer

#: What `statistics` returns.
QueuePairStatistics = Counters


class TcpHostQueuePair:
    """The host's end: see `HostQueuePair`."""

    def __init__(
        self,
        sock: socket.socket,
        local: Endpoint,
        peer: Endpoint,
        params: HostQueueParams,
        options: TcpOptions,
    ) -> None:
        self._connection = HostConnection(params, options)
        self.driver: Driver[ResponseCapsule] = Driver(sock, self._connection, lingers=False)
        self._local = local
        self._peer = peer
        self._params = params
        self._ready: deque[ResponseCapsule] = deque()

    @property
    def limits(self) -> QueuePairLimits:
        """What was agreed."""
        return QueuePairLimits(
            header_digest=self._connection.header_digest,
            data_digest=self._connection.data_digest,
            in_capsule_bytes=self._params.in_capsule_bytes,
        )

    @property
    def local(self) -> Endpoint:
        """This end's address."""
        return self._local

    @property
    def peer(self) -> Endpoint:
        """The controller's address."""
        return self._peer

    @property
    def statistics(self) -> QueuePairStatistics:
        """PDUs, bytes and digest errors so far."""
        return self._connection.counters

    def transmit(self, capsule: CommandCapsule) -> None:
        """Queues the capsule; it leaves with all others of this turn of the event loop."""
        self._connection.send_command(capsule)
        self.driver.wake()

    async def receive(self) -> ResponseCapsule:
        """Returns the next response; raises the `TransportError` that ended the queue."""
        ready = self._ready
        while not ready:
            ready.extend(await self.driver.receive())
        return ready.popleft()

    def receive_nowait(self) -> ResponseCapsule | None:
        """Returns the next response if one is at hand, without touching the network."""
        return self._ready.popleft() if self._ready else None


class TcpControllerQueuePair:
    """The controller's end: see `ControllerQueuePair`."""

    def __init__(
        self,
        sock: socket.socket,
        local: Endpoint,
        peer: Endpoint,
        params: ControllerQueueParams,
        options: TcpOptions,
    ) -> None:
        kind = SpoilingConnection if params.may_misbehave else ControllerConnection
        self._connection = kind(params, options)
        self.driver: Driver[ControllerEvent] = Driver(sock, self._connection, lingers=True)
        self.driver.on_death = self._wake_waiters
        self._local = local
        self._peer = peer
        self._params = params
        self._max_queued_bytes = params.max_queued_bytes
        self._ready: deque[ReceivedCommand] = deque()
        self._waiters: dict[InboundTransfer, trio.lowlevel.Task] = {}

    @property
    def limits(self) -> QueuePairLimits:
        """What was agreed."""
        return QueuePairLimits(
            header_digest=self._connection.header_digest,
            data_digest=self._connection.data_digest,
            in_capsule_bytes=self._connection.in_capsule_bytes,
            max_transfer_bytes=self._params.max_transfer_bytes,
        )

    @property
    def local(self) -> Endpoint:
        """This end's address."""
        return self._local

    @property
    def peer(self) -> Endpoint:
        """The host's address."""
        return self._peer

    @property
    def statistics(self) -> QueuePairStatistics:
        """PDUs, bytes and digest errors so far."""
        return self._connection.counters

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        """Tells what CONNECT settled, before the response to CONNECT is sent."""
        self._connection.configure(
            entries=entries, sq_flow_control=sq_flow_control, in_capsule_bytes=in_capsule_bytes
        )

    async def receive(self) -> ReceivedCommand:
        """Returns the next command; raises the `TransportError` that ended the queue."""
        ready = self._ready
        while True:
            if self._connection.unsent_bytes > self._max_queued_bytes:
                await self.driver.drained(self._max_queued_bytes)
            if ready:
                return ready.popleft()
            for event in await self.driver.receive():
                if isinstance(event, ReceivedCommand):
                    ready.append(event)
                else:
                    task = self._waiters.pop(event, None)
                    if task is not None:
                        trio.lowlevel.reschedule(task)

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        """Returns the whole data of a command; somebody else must be calling `receive`.

        Raises `DataDigestError` and `TransportError`.  Where it is cancelled, what was asked for
        is swallowed when it comes.
        """
        if command.in_capsule_data is not None:
            return command.in_capsule_data
        if not command.transfer_bytes:
            return b""
        if self._connection.error is not None:
            raise self._connection.error
        transfer = self._connection.request_data(command)
        self.driver.wake()
        self._waiters[transfer] = trio.lowlevel.current_task()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del self._waiters[transfer]
            self._connection.abandon(transfer)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if not transfer.done:
            assert self._connection.error is not None
            raise self._connection.error
        if transfer.digest_error:
            raise DataDigestError(f"data digest of command {command.cid} does not match")
        return transfer.buffer

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        """Queues the whole data of a command; True where it completed the command as well."""
        if self._connection.unsent_bytes > self._max_queued_bytes:
            await self.driver.drained(self._max_queued_bytes)
        completed = self._connection.send_data(command, data, complete=complete)
        self.driver.wake()
        return completed

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool | None:
        """The same, where there is room for it; else None."""
        if self._connection.unsent_bytes > self._max_queued_bytes:
            return None
        completed = self._connection.send_data(command, data, complete=complete)
        self.driver.wake()
        return completed

    def transmit(self, capsule: ResponseCapsule) -> None:
        """Queues a response, after all data queued before it."""
        self._connection.send_response(capsule)
        self.driver.wake()

    def spoil(self, cid: int, fault: PduFault) -> None:
        """See `nvmf_transport.faults.MisbehavingQueuePair`."""
        if not isinstance(self._connection, SpoilingConnection):
            raise LocalProtocolError("made without `may_misbehave`")
        self._connection.spoil(cid, fault)

    def reset(self) -> None:
        """See `nvmf_transport.faults.MisbehavingQueuePair`."""
        self.driver.reset()

    def _wake_waiters(self) -> None:
        for task in self._waiters.values():
            trio.lowlevel.reschedule(task)
        self._waiters.clear()


__all__ = ["QueuePairStatistics", "TcpControllerQueuePair", "TcpHostQueuePair"]
