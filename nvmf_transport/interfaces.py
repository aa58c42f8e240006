"""What a transport offers, and the registry of transports.

`HostQueuePair` and `ControllerQueuePair` are the two ends of one qpair; `Transport` makes them.
All of them are protocols: `nvmf_tcp.TcpTransport` and `LoopTransport` have no common base.

Rules that hold for both ends:

- `transmit` only queues, never blocks and never fails on a dead queue: death is told by `receive`.
- One task at a time calls `receive`.  It raises a `TransportError` once the queue is dead, and the
  same error at every later call.
- Leaving the context manager that made the qpair ends the connection; what was queued is still
  sent, within a short limit.
- Cancelling `receive` loses nothing: the next call goes on where it was.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from .address import Address
from .capsule import CommandCapsule, ReceivedCommand, ResponseCapsule
from .errors import UnavailableError
from .fabrics import ADMIN_QUEUE_ENTRIES, AddressFamily, TransportType
from .wire import Buffer

#: In-capsule data that every admin queue takes (NVMe/TCP Transport, section 3.3.1).
ADMIN_IN_CAPSULE_BYTES = 8192


@attrs.frozen
class Endpoint:
    """One end of a connection, as a numeric address (a zone included) and a port."""

    address: Address
    family: AddressFamily

    def __str__(self) -> str:
        return str(self.address)


@attrs.frozen(kw_only=True)
class HostQueueParams:
    """What the host asks of a new qpair."""

    #: Entries of the queue: at most this many commands less one are outstanding.
    entries: int = ADMIN_QUEUE_ENTRIES
    #: Data up to this length goes inside the capsule: 8192 on the admin queue, (IOCCSZ-4)*16 else.
    in_capsule_bytes: int = ADMIN_IN_CAPSULE_BYTES
    header_digest: bool = False
    data_digest: bool = False
    #: Local address and interface to use, None for the system's choice.
    host_traddr: str | None = None
    host_iface: str | None = None
    #: How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, SO_KEEPALIVE); None: system's.
    peer_timeout_s: float | None = None


@attrs.frozen(kw_only=True)
class ControllerQueueParams:
    """What the controller allows on a new qpair, before it knows which queue it is."""

    header_digest: bool = True
    data_digest: bool = True
    #: The most data in one H2CData PDU; a multiple of 4, at least 4096.
    maxh2cdata_bytes: int = 256 * 1024
    #: The most in-capsule data on any queue of this controller.
    in_capsule_bytes: int = ADMIN_IN_CAPSULE_BYTES
    #: The most data one command may move; a longer SGL is a fault of the command.
    max_transfer_bytes: int = 1 << 20
    #: `send_data` and `receive` wait while more than this is queued and unsent.
    max_queued_bytes: int = 4 << 20
    #: The qpair is a `faults.MisbehavingQueuePair`.
    may_misbehave: bool = False


@attrs.frozen(kw_only=True)
class QueuePairLimits:
    """What was agreed, for display and for whoever splits commands."""

    header_digest: bool = False
    data_digest: bool = False
    in_capsule_bytes: int = 0
    #: Transport's own bound on the data of one command, None for none.
    max_transfer_bytes: int | None = None


class HostQueuePair(Protocol):
    """The host's end of a qpair."""

    @property
    def limits(self) -> QueuePairLimits: ...
    @property
    def local(self) -> Endpoint: ...
    @property
    def peer(self) -> Endpoint: ...

    def transmit(self, capsule: CommandCapsule) -> None:
        """Queues the capsule whole, to leave with all others of this turn of the event loop."""

    async def receive(self) -> ResponseCapsule:
        """Returns the next response.  Does not yield where one is at hand."""

    def receive_nowait(self) -> ResponseCapsule | None:
        """Returns the next response if one is at hand, without touching the network."""


class ControllerQueuePair(Protocol):
    """The controller's end of a qpair."""

    @property
    def limits(self) -> QueuePairLimits: ...
    @property
    def local(self) -> Endpoint: ...
    @property
    def peer(self) -> Endpoint: ...

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        """Tells the transport what CONNECT settled, before the response to CONNECT is sent."""

    async def receive(self) -> ReceivedCommand:
        """Returns the next command; takes none while too much is queued for sending.

        Whoever calls this also drives the data of `receive_data`: keep calling.
        """

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        """Returns the whole data of a command: from the capsule, or asked for by R2T.

        The caller bounds the sum of what it asks for at a time.  Raises `DataDigestError` where the
        digest does not match (in a capsule that is a fault of the command), `TransportError` once
        the queue is dead.
        """

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        """Queues the whole data of a command; waits while too much is queued.

        The buffers must not change until they have left: pass what nobody writes to.  With
        `complete` the command has succeeded with a result of zero, and the transport may let the
        data say so (C2HData SUCCESS, only without SQ flow control): then it returns True, and no
        response must be sent.
        """

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool | None:
        """The same without waiting; None where it would have to: then nothing is queued."""

    def transmit(self, capsule: ResponseCapsule) -> None:
        """Queues a response, after all data queued before it."""


class IncomingConnection(Protocol):
    """A connection that was accepted and has not said anything yet."""

    @property
    def local(self) -> Endpoint: ...
    @property
    def peer(self) -> Endpoint: ...

    def establish(
        self, params: ControllerQueueParams, *, timeout_s: float
    ) -> AbstractAsyncContextManager[ControllerQueuePair]:
        """Answers the peer's initialisation; `HandshakeError` where it takes too long."""

    async def aclose(self) -> None:
        """Closes a connection that was not established."""


class Listener(Protocol):
    """A set of listening sockets."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where it listens, with the ports that the system chose for port 0."""

    async def accept(self) -> IncomingConnection:
        """Returns the next connection."""


class Transport(Protocol):
    """A kind of transport."""

    @property
    def name(self) -> str:
        """As in `-t tcp`."""

    @property
    def trtype(self) -> TransportType: ...

    async def resolve(self, address: Address, *, deadline: float) -> Sequence[Endpoint]:
        """Looks a name up, once an attempt; every queue then goes to the endpoint that answered.

        Raises `UnreachableError`.  `deadline` is a time of trio's clock.
        """

    def connect(
        self, endpoint: Endpoint, params: HostQueueParams, *, deadline: float
    ) -> AbstractAsyncContextManager[HostQueuePair]:
        """Connects and initialises one qpair, ready for its CONNECT command.

        Raises `UnreachableError` where no connection is made by the deadline, `HandshakeError`,
        `RemoteProtocolError` or `ConnectionLostError` (with `step`) where the peer then fails.
        """

    def listen(self, address: Address) -> AbstractAsyncContextManager[Listener]:
        """Listens at every address that `address` stands for.  Raises `ConfigError`."""


_registry: dict[str, Transport] = {}


def register(transport: Transport) -> None:
    """Makes a transport known by its name.  Only the entry points of programs do this."""
    _registry[transport.name] = transport


def lookup(name: str) -> Transport:
    """Returns the transport of this name; raises `UnavailableError`."""
    try:
        return _registry[name.lower()]
    except KeyError:
        known = ", ".join(sorted(_registry)) or "none"
        raise UnavailableError(
            f"unknown transport; available: {known}", field="transport", value=name
        ) from None
