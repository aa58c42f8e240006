"""The transport in memory: both ends of a qpair in one process, without a socket.

One `LoopTransport` is a network of its own: what listens on it is reached through it alone.  Two
queues of messages stand for the two directions of a connection, and the messages are those of
NVMe/TCP: a command with or without in-capsule data, R2T, H2CData, C2HData with or without SUCCESS,
a response.  As on a socket, nothing moves unless the end that it goes to calls `receive`.  Time
does not pass here, so everything is exact under trio's mock clock.

`LoopTransport.connections`, `on_connection` and `connect_fault` are for those who test what happens
when a network breaks; see `LoopConnection` in `loop_ends`.
"""

import enum
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from .address import Address
from .errors import (
    ConfigError,
    ConnectionLostError,
    HandshakeError,
    TransportError,
    UnreachableError,
)
from .fabrics import AddressFamily, TransportType
from .interfaces import ControllerQueueParams, Endpoint, HostQueueParams, QueuePairLimits
from .loop_ends import LoopConnection, LoopControllerQueuePair, LoopHostQueuePair

_FIRST_FREE_PORT: Final = 49152
_STEP: Final = "initialisation"


class LoopIncomingConnection:
    """See `interfaces.IncomingConnection`."""

    def __init__(self, connection: LoopConnection) -> None:
        self._connection = connection
        self.local = connection.controller.local
        self.peer = connection.controller.peer

    @asynccontextmanager
    async def establish(
        self, params: ControllerQueueParams, *, timeout_s: float
    ) -> AsyncIterator[LoopControllerQueuePair]:
        """Answers the host; `ConnectionLostError` where it has gone.  Takes no time."""
        del timeout_s
        connection = self._connection
        if connection.controller.error is not None or connection.host.error is not None:
            error = ConnectionLostError(f"{self.peer} closed the connection")
            error.step = _STEP
            connection.controller.die(error)
            raise error
        agreed = QueuePairLimits(
            header_digest=params.header_digest and connection.params.header_digest,
            data_digest=params.data_digest and connection.params.data_digest,
        )
        connection.host.limits = attrs.evolve(
            agreed, in_capsule_bytes=connection.params.in_capsule_bytes
        )
        connection.controller.establish(
            params, attrs.evolve(agreed, in_capsule_bytes=params.in_capsule_bytes)
        )
        connection.answered.set()
        try:
            yield connection.controller
        finally:
            connection.controller.leave()

    async def aclose(self) -> None:
        """Closes the connection without an answer."""
        self._connection.controller.leave()
        self._connection.answered.set()
        await trio.lowlevel.checkpoint()


class LoopListener:
    """See `interfaces.Listener`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoints: Sequence[Endpoint] = (endpoint,)
        self._push, self._pull = trio.open_memory_channel[LoopConnection](math.inf)

    def offer(self, connection: LoopConnection) -> None:
        """Puts a new connection into the backlog."""
        self._push.send_nowait(connection)

    async def accept(self) -> LoopIncomingConnection:
        """Returns the next connection."""
        return LoopIncomingConnection(await self._pull.receive())

    def close(self) -> None:
        """Resets the connections that nobody has accepted."""
        self._push.close()
        while self._pull.statistics().current_buffer_used:
            self._pull.receive_nowait().cut()
        self._pull.close()


class ConnectFault(enum.Enum):
    """What happens to a new connection."""

    #: Refused at once.
    REFUSE = enum.auto()
    #: No answer until the deadline.
    HANG = enum.auto()
    #: The connection is made; then the peer says nothing until the deadline.
    SILENT = enum.auto()


class LoopTransport:
    """A network in memory, and the transport on it.

    `connect_fault` says how new connections fail.  The parameters that only a kernel could obey
    (`host_iface`, `peer_timeout_s`) have no effect.
    """

    name = "loop"
    trtype = TransportType.LOOP

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, int], LoopListener] = {}
        self._connections: list[LoopConnection] = []
        self._host_ports = 0
        self.connect_fault: ConnectFault | None = None
        #: Called with every new connection, before anything is sent over it.
        self.on_connection: Callable[[LoopConnection], None] | None = None

    @property
    def connections(self) -> list[LoopConnection]:
        """The connections that have not ended at both ends, oldest first."""
        self._connections = [c for c in self._connections if c.alive]
        return list(self._connections)

    async def resolve(self, address: Address, *, deadline: float) -> Sequence[Endpoint]:
        """Every name stands for itself."""
        del deadline
        await trio.lowlevel.checkpoint()
        return (Endpoint(address, AddressFamily.INTRA_HOST),)

    @asynccontextmanager
    async def connect(
        self, endpoint: Endpoint, params: HostQueueParams, *, deadline: float
    ) -> AsyncIterator[LoopHostQueuePair]:
        """Connects to a listener of this transport; waits until it establishes the connection."""
        await trio.lowlevel.checkpoint()
        fault = self.connect_fault
        if fault is ConnectFault.HANG:
            await trio.sleep_until(deadline)
            raise UnreachableError(f"{endpoint}: no answer in time")
        listener = self._listeners.get(_key(endpoint.address))
        if listener is None or fault is ConnectFault.REFUSE:
            raise UnreachableError(f"{endpoint}: connection refused")
        self._host_ports += 1
        local = Address(params.host_traddr or "host", self._host_ports)
        connection = LoopConnection(Endpoint(local, AddressFamily.INTRA_HOST), endpoint, params)
        self._connections.append(connection)
        if self.on_connection is not None:
            self.on_connection(connection)
        try:
            if fault is not ConnectFault.SILENT:
                listener.offer(connection)
            with trio.move_on_at(deadline):
                await connection.answered.wait()
            _check_answer(connection)
            yield connection.host
        finally:
            connection.host.leave()
            if not connection.answered.is_set():
                # The controller never got to see it; nobody else will end its side.
                connection.controller.die(ConnectionLostError("the host gave up"))
            self._connections = [c for c in self._connections if c.alive]

    @asynccontextmanager
    async def listen(self, address: Address) -> AsyncIterator[LoopListener]:
        """Listens at exactly this host and port; port 0 takes a free one."""
        await trio.lowlevel.checkpoint()
        host, port = _key(address)
        if port == 0:
            port = _FIRST_FREE_PORT
            while (host, port) in self._listeners:
                port += 1
        if (host, port) in self._listeners:
            raise ConfigError("in use; choose another port", field="address", value=address)
        listener = LoopListener(Endpoint(Address(host, port), AddressFamily.INTRA_HOST))
        self._listeners[host, port] = listener
        try:
            yield listener
        finally:
            del self._listeners[host, port]
            listener.close()


def _key(address: Address) -> tuple[str, int]:
    if address.port is None:
        raise ConfigError(
            "explicit port required; write ADDRESS:PORT", field="address", value=address
        )
    return address.host, address.port


def _check_answer(connection: LoopConnection) -> None:
    error: TransportError
    if not connection.answered.is_set():
        error = HandshakeError(f"{connection.host.peer}: no answer in time")
    elif connection.host.error is not None or connection.controller.error is not None:
        error = ConnectionLostError(f"{connection.host.peer} closed the connection")
    else:
        return
    error.step = _STEP
    raise error
