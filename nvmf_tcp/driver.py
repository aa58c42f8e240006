"""Runs a `TcpConnection` over a socket under trio.

Sending is the business of its `Sender`.  Receiving is done by whoever calls `receive`, with plain
system calls on a non-blocking socket: trio's own socket methods yield twice per call, which at
these rates is most of the work.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

from nvmf_transport.errors import (
    ConnectionLostError,
    HandshakeError,
    RemoteProtocolError,
    TransportError,
)

from .connection import TcpConnection
from .in_place import InPlace
from .sender import Sender
from .sockets import seconds
from .turn import Turn

EventT = TypeVar("EventT")

#: How long the end of a connection may take: sending what is queued, and a TermReq's echo.
FLUSH_S: Final = 1.0
#: System calls and events that come without waiting, before other tasks get a turn.
YIELD_EVERY: Final = 32

#: struct linger: on, no time.
_NO_LINGER: Final = struct.pack("ii", 1, 0)

#: What TIOCOUTQ, which is SIOCOUTQ, answers (tcp(7)).
_INT: Final = struct.Struct("i")

HANDSHAKE_STEP: Final = "ICReq/ICResp"


class Driver(Generic[EventT]):
    """A socket and the connection on it."""

    def __init__(
        self, sock: socket.socket, connection: TcpConnection[EventT], *, lingers: bool
    ) -> None:
        """With `lingers` an end that closes first waits, a little, for the other to follow."""
        self._sock = sock
        self._connection = connection
        self._lingers = lingers
        self._sender = Sender(sock, connection)
        #: Has what is queued sent.
        self.wake = self._sender.wake
        self.drained = self._sender.drained
        self._in_place: InPlace | None = None
        #: What is waited in where the receiver waits in place.
        self._poll = select.poll()
        self._streak = 0
        #: The socket had no more when it was last read.
        self._emptied = False
        #: Told, once, that the connection is dead.
        self.on_death: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends in the background; at the end flushes, and closes the socket."""
        turn = Turn.current()
        self._sender.attach(turn)
        if turn is not None and turn.in_place is not None:
            self._in_place = turn.in_place
            self._poll = self._in_place.poll_of(self._sock.fileno())
        try:
            async with _beside(self._sender.run, self._finish):
                yield
        finally:
            trio.lowlevel.notify_closing(self._sock)
            self._forget_unacknowledged()
            self._sock.close()

    def _forget_unacknowledged(self) -> None:
        """Lets a host's last byte have left when its socket is closed.

        The kernel would go on sending commands that the peer has not acknowledged, long after the
        host has begun to count how long they may take effect.
        """
        if self._lingers:
            return
        with contextlib.suppress(OSError):
            unacknowledged = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
            # One is the end itself.
            if _INT.unpack(unacknowledged)[0] > 1:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    # Receiving.

    async def receive(self) -> list[EventT]:
        """Takes what the socket has, waiting where it has nothing; events may be none.

        It yields, and can be cancelled, only before it takes anything.
        """
        if self._emptied:
            # The last `recv` came up short: there is nothing now, or it has come since.
            self._emptied = False
            if self._sender.error is None:
                await self._readable()
        elif self._streak >= YIELD_EVERY:
            self._streak = 0
            await trio.lowlevel.checkpoint()
        buffer = self._connection.get_buffer()
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            await self._readable()
            return []
        except OSError as error:
            raise self._lost(error) from error
        self._emptied = count < len(buffer)
        if not count and self._sender.error is not None:
            # The kernel tells a reset once: the sender has had it, here it looks like a close.
            raise self._lost(self._sender.error) from self._sender.error
        events = self._received(count)
        self._streak += 1 + len(events)
        return events

    def _received(self, count: int) -> list[EventT]:
        connection = self._connection
        try:
            if not count:
                connection.eof_received()
            events = connection.buffer_updated(count)
        except TransportError:
            self._died()
            raise
        if connection.wants_to_send:
            self.wake()
        if connection.error is not None:
            self._died()
        return events

    async def _readable(self) -> None:
        if self._connection.error is not None:
            # It came with responses, which were handed out first; the peer may say nothing more.
            raise self._connection.error
        if self._sender.error is not None:
            raise self._lost(self._sender.error) from self._sender.error
        self._streak = 0
        if self._in_place is not None and self._in_place.wait(self._poll, self._sock.fileno()):
            return
        # ClosedResourceError: sending has failed, and woke us.
        with contextlib.suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self._sock)

    # The end.

    def _lost(self, error: OSError) -> TransportError:
        lost = ConnectionLostError(_reason(error))
        self._connection.connection_lost(lost)
        # The sender may be waiting for room that will never be.
        trio.lowlevel.notify_closing(self._sock)
        self._died()
        return lost

    def _died(self) -> None:
        """Wakes everybody who waits for something to happen on this connection."""
        self._sender.wake_task()
        self._sender.wake_drained()
        self.on_death()

    def reset(self) -> None:
        """Breaks the connection: what is queued is lost, and the peer sees a reset, not an end."""
        if self._sock.fileno() < 0:
            return
        # A socket closed with a linger time of zero sends RST (socket(7)).
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._sender.abandon()
        self._connection.connection_lost(ConnectionLostError("reset by this side, as asked"))
        trio.lowlevel.notify_closing(self._sock)
        self._died()

    async def _finish(self) -> None:
        """Sends what is queued, and lets the peer read it before the socket goes."""
        self._sender.close()
        with trio.move_on_after(FLUSH_S, shield=True):
            await self._sender.done.wait()
            error = self._connection.error
            told = isinstance(error, RemoteProtocolError) and error.fes is not None
            if told or (error is None and self._lingers and self._connection.established):
                # A socket closed with unread input is reset, and what was sent last is lost with
                # it: a TermReq, or the response that says why there will be no others.
                await self._discard_input()

    async def _discard_input(self) -> None:
        scratch = bytearray(65536)
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            while True:
                try:
                    if not self._sock.recv_into(scratch):
                        return
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)

    async def handshake(self, *, deadline: float, waiting_for: str) -> None:
        """Receives until initialisation is over; the errors say which step failed."""
        started = trio.current_time()
        with trio.move_on_at(deadline):
            try:
                while not self._connection.established:
                    await self.receive()
            except TransportError as error:
                error.step = HANDSHAKE_STEP
                raise
            return
        silent = HandshakeError(
            f"no {waiting_for} within {seconds(deadline - started)}; is that an NVMe/TCP port?"
        )
        silent.step = HANDSHAKE_STEP
        raise silent


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ECONNRESET | errno.EPIPE:
            return "the peer reset the connection"
        case errno.ETIMEDOUT:
            return "the peer does not acknowledge what was sent"
        case code:
            return f"the connection failed: {os.strerror(code) if code else error}"


@contextlib.asynccontextmanager
async def _beside(
    task: Callable[[], Awaitable[None]], finish: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Runs `task` beside the body, then `finish`; the body's error comes out as it is.

    A nursery would wrap it in an ExceptionGroup, which is about the many and not about the one.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            try:
                yield
            except BaseException as error:  # noqa: BLE001  (raised again below)
                raised = error
            await finish()
            nursery.cancel_scope.cancel()
    finally:
        if raised is not None:
            raise raised
