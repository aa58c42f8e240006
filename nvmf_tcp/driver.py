"""Runs a `TcpConnection` over a socket under trio.

Whatever was queued in a turn of the event loop leaves in one `sendmsg` at its end (see `turn`).
What the kernel does not take then is sent by a task, and until it has, by nobody else.  It is not
cancelled by callers, so no PDU is ever cut; at the end it has a short time to send what is queued.
Receiving is done by whoever calls `receive`, with plain system calls on a non-blocking socket:
trio's own socket methods yield twice per call, which at these rates is most of the work.
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
from nvmf_transport.wire import Buffer

from .connection import TcpConnection
from .sockets import seconds
from .turn import Turn

EventT = TypeVar("EventT")

#: The most buffers that one `sendmsg` takes (Linux: UIO_MAXIOV).
IOV_MAX: Final = 1024
#: How long the end of a connection may take: sending what is queued, and a TermReq's echo.
FLUSH_S: Final = 1.0
#: As much does not wait for the end of the turn: the peer works on it while this side goes on, and
#: its bytes are still in the processor's cache.
EARLY_BYTES: Final = 1 << 20
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
        self._sender: trio.lowlevel.Task | None = None
        self._sender_parked = False
        self._turn: Turn | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        #: This turn's end will send.
        self._at_end = False
        #: What this turn has sent before its end.
        self._early_bytes = 0
        #: What the kernel did not take at a turn's end.
        self._rest: list[Buffer] = []
        self._closing = False
        self._resetting = False
        self._sender_done = trio.Event()
        self._drained: trio.Event | None = None
        self._send_error: OSError | None = None
        #: What is waited in where the receiver waits in place, and where somebody does for it.
        self._poll: select.poll | None = None
        self._poll_of_all: select.poll | None = None
        #: The receiver waits for the socket, by way of trio.
        self._receiver_parked = False
        #: It was woken by hand: there may be nothing in the socket.
        self._woken = False
        self._streak = 0
        #: The socket had no more when it was last read.
        self._emptied = False
        #: Told, once, that the connection is dead.
        self.on_death: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends in the background; at the end flushes, and closes the socket."""
        self._turn = Turn.current()
        self._token = trio.lowlevel.current_trio_token()
        if self._turn is not None and self._turn.in_place is not None:
            self._poll = self._turn.in_place.poll_of(self._sock.fileno())
            self._poll_of_all = self._turn.in_place.poll_of()
        try:
            async with _beside(self._send_all, self._finish):
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

    # Sending.

    def wake(self) -> None:
        """Has what is queued sent at the end of this turn of the event loop, or much at once."""
        if not self._sender_parked:
            return
        if self._turn is None:
            self._wake_sender()
            return
        if not self._at_end:
            self._at_end = True
            self._turn.at_end(self._send_at_end)
        if self._connection.unsent_bytes >= EARLY_BYTES and not self._rest:
            self._early_bytes += self._connection.unsent_bytes
            if self._send_now():
                self._wake_sender()

    def _wake_sender(self) -> None:
        if self._sender_parked:
            self._sender_parked = False
            assert self._sender is not None
            trio.lowlevel.reschedule(self._sender)

    def _send_at_end(self) -> None:
        self._at_end = False
        assert self._turn is not None
        self._turn.sent_bytes += self._early_bytes
        self._early_bytes = 0
        if self._sender_parked and self._send_now():
            # The loop is about to wait: a task that is merely rescheduled now would wait with it.
            assert self._token is not None
            self._token.run_sync_soon(self._wake_sender)

    def _send_now(self) -> bool:
        """Sends what the kernel takes at once; the rest, every error and the end are the task's.

        Returns whether the task has something to do.
        """
        connection = self._connection
        if connection.error is None and connection.wants_to_send and not self._rest:
            buffers = connection.data_to_send()
            assert self._turn is not None
            assert self._token is not None
            self._turn.sent_buffers += len(buffers)
            self._turn.sent_bytes += connection.unsent_bytes
            try:
                sent = self._sock.sendmsg(buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX])
            except OSError:
                sent = 0
            connection.bytes_sent(sent)
            del buffers[: _skip(buffers, 0, sent)]
            self._rest = buffers
            if self._drained is not None:
                self._token.run_sync_soon(self._wake_drained)
        # H2CData is handed out a batch at a time: there may be more.
        return bool(self._rest) or connection.wants_to_send or connection.error is not None

    async def drained(self, limit_bytes: int) -> None:
        """Waits until no more than `limit_bytes` are unsent, or the connection is dead."""
        while (
            self._connection.unsent_bytes > limit_bytes
            and self._connection.error is None
            and self._send_error is None
        ):
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def _send_all(self) -> None:
        connection = self._connection
        self._sender = trio.lowlevel.current_task()
        try:
            while True:
                if self._rest:
                    rest, self._rest = self._rest, []
                    await self._send(rest)
                elif connection.wants_to_send:
                    await self._send(connection.data_to_send())
                elif self._closing or connection.error is not None:
                    if not self._resetting:
                        with contextlib.suppress(OSError):
                            self._sock.shutdown(socket.SHUT_WR)
                    return
                else:
                    self._sender_parked = True
                    await trio.lowlevel.wait_task_rescheduled(self._abort_park)
        except OSError as error:
            # What the peer said last is still to be read, a TermReq perhaps: the receiver ends it.
            self._send_error = error
            trio.lowlevel.notify_closing(self._sock)
            self._wake_drained()
        except trio.ClosedResourceError:
            # The connection was found dead while this task waited for room.
            self._wake_drained()
        finally:
            self._sender_parked = False
            self._sender_done.set()

    def _abort_park(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._sender_parked = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _send(self, buffers: list[Buffer]) -> None:
        sock, connection = self._sock, self._connection
        first = 0
        while first < len(buffers):
            batch = buffers if len(buffers) <= IOV_MAX else buffers[first : first + IOV_MAX]
            try:
                sent = sock.sendmsg(batch)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_writable(sock)
                except trio.ClosedResourceError:
                    if connection.error is not None or self._send_error is not None:
                        raise
                    # It was for the receiver.
                continue
            connection.bytes_sent(sent)
            self._wake_drained()
            if batch is not buffers:
                # Only long lists are kept and walked; short ones are cut where the kernel stopped.
                first = _skip(buffers, first, sent)
            else:
                del buffers[: _skip(buffers, 0, sent)]

    # Receiving.

    async def receive(self) -> list[EventT]:
        """Takes what the socket has, waiting where it has nothing; events may be none.

        It yields, and can be cancelled, only before it takes anything.
        """
        if self._emptied:
            # The last `recv` came up short: there is nothing now, or it has come since.
            self._emptied = False
            if self._send_error is None:
                await self._readable()
        elif self._streak >= YIELD_EVERY:
            self._streak = 0
            await trio.lowlevel.checkpoint()
        buffer = self._connection.get_buffer()
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            if self._woken:
                self._woken = False
            else:
                await self._readable()
            return []
        except OSError as error:
            raise self._lost(error) from error
        self._emptied = count < len(buffer)
        if not count and self._send_error is not None:
            # The kernel tells a reset once: the sender has had it, here it looks like a close.
            raise self._lost(self._send_error) from self._send_error
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

    def receive_in_place(self) -> list[EventT] | None:
        """Waits a moment in place, and receives for the receiver; None where it has to itself.

        Nothing is taken between two steps of the receiver, which is parked: it finds the connection
        as this leaves it.  Every error, and the end, are left to it.
        """
        if not self._receiver_parked or self._poll_of_all is None or self._send_error is not None:
            return None
        assert self._turn is not None
        assert self._turn.in_place is not None
        connection = self._connection
        if not self._turn.in_place.wait(self._poll_of_all) or connection.error is not None:
            return None
        try:
            count = self._sock.recv_into(connection.get_buffer())
            if not count:
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            # As where sending fails: the kernel tells it once.
            self._send_error = error
            self.wake_receiver()
            return None
        try:
            events = self._received(count)
        except TransportError:
            events = None
        if connection.error is not None:
            self.wake_receiver()
        return events

    def wake_receiver(self) -> None:
        """Has `receive` return, or raise what there is to raise."""
        self._woken = True
        trio.lowlevel.notify_closing(self._sock)

    async def _readable(self) -> None:
        if self._send_error is not None:
            raise self._lost(self._send_error) from self._send_error
        self._streak = 0
        if self._poll is not None:
            assert self._turn is not None
            assert self._turn.in_place is not None
            if self._turn.in_place.wait(self._poll, self._sock.fileno()):
                return
        self._receiver_parked = True
        try:
            # ClosedResourceError: sending has failed, and woke us.
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._sock)
        finally:
            self._receiver_parked = False

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
        self._wake_sender()
        self._wake_drained()
        self.on_death()

    def _wake_drained(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def reset(self) -> None:
        """Breaks the connection: what is queued is lost, and the peer sees a reset, not an end."""
        if self._sock.fileno() < 0:
            return
        # A socket closed with a linger time of zero sends RST (socket(7)).
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._resetting = True
        self._rest.clear()
        self._connection.connection_lost(ConnectionLostError("reset by this side, as asked"))
        trio.lowlevel.notify_closing(self._sock)
        self._died()

    async def _finish(self) -> None:
        """Sends what is queued, and lets the peer read it before the socket goes."""
        self._closing = True
        self._wake_sender()
        with trio.move_on_after(FLUSH_S, shield=True):
            await self._sender_done.wait()
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


def _skip(buffers: list[Buffer], first: int, sent: int) -> int:
    """The index of the first buffer not sent in full, which is cut to what is left of it."""
    while sent:
        length = len(buffers[first])
        if sent < length:
            buffers[first] = memoryview(buffers[first])[sent:]
            break
        sent -= length
        first += 1
    return first


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
