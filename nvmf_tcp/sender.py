"""Sends what a `TcpConnection` queues: at the end of a turn, at once where it is much, by a task.

Whatever was queued in a turn of the event loop leaves in one `sendmsg` at its end (see `turn`).
What the kernel does not take then is sent by a task, and until it has, by nobody else.  It is not
cancelled by callers, so no PDU is ever cut; at the end it has a short time to send what is queued.
"""

import contextlib
import socket
from typing import Any, Final

import trio

from nvmf_transport.wire import Buffer

from .connection import TcpConnection
from .turn import Turn

#: The most buffers that one `sendmsg` takes (Linux: UIO_MAXIOV).
IOV_MAX: Final = 1024
#: As much does not wait for the end of the turn: the peer works on it while this side goes on, and
#: its bytes are still in the processor's cache.
EARLY_BYTES: Final = 512 << 10


class Sender:
    """Sends what a connection has; `run` is the task."""

    def __init__(self, sock: socket.socket, connection: TcpConnection[Any]) -> None:
        self._sock = sock
        self._connection = connection
        self._turn: Turn | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._task: trio.lowlevel.Task | None = None
        self._parked = False
        #: This turn's end will send.
        self._at_end = False
        #: What this turn has sent before its end.
        self._early_bytes = 0
        #: What the kernel did not take.
        self._rest: list[Buffer] = []
        self._drained: trio.Event | None = None
        self._closing = False
        #: Nothing more is sent, not even the end.
        self._silent = False
        #: Why sending, or receiving in its place, has failed: the receiver ends the connection.
        self.error: OSError | None = None
        self.done = trio.Event()

    def attach(self, turn: Turn | None) -> None:
        """Belongs to the running event loop from now on; without `turn` the task sends it all."""
        self._turn = turn
        self._token = trio.lowlevel.current_trio_token()

    def wake(self) -> None:
        """Has what is queued sent at the end of this turn of the event loop, or much at once."""
        if not self._parked:
            return
        if self._turn is None:
            self.wake_task()
            return
        if not self._at_end:
            self._at_end = True
            self._turn.at_end(self._send_at_end)
        if self._connection.unsent_bytes >= EARLY_BYTES and not self._rest:
            self._early_bytes += self._connection.unsent_bytes
            if self._send_now():
                # Perhaps the loop is about to wait: see `_send_at_end`.
                assert self._token is not None
                self._token.run_sync_soon(self.wake_task)

    def wake_task(self) -> None:
        """Has the task look: there is something to send, or an end."""
        if self._parked:
            self._parked = False
            assert self._task is not None
            trio.lowlevel.reschedule(self._task)

    def close(self) -> None:
        """Ends the task once everything is sent."""
        self._closing = True
        self.wake_task()

    def abandon(self) -> None:
        """Sends nothing more, not even the end."""
        self._silent = True
        self._rest.clear()

    async def drained(self, limit_bytes: int) -> None:
        """Waits until no more than `limit_bytes` are unsent, or the connection is dead."""
        while (
            self._connection.unsent_bytes > limit_bytes
            and self._connection.error is None
            and self.error is None
        ):
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def wake_drained(self) -> None:
        """Has whoever waits in `drained` look again."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _send_at_end(self) -> None:
        self._at_end = False
        assert self._turn is not None
        self._turn.sent_bytes += self._early_bytes
        self._early_bytes = 0
        if self._parked and self._send_now():
            # The loop is about to wait: a task that is merely rescheduled now would wait with it.
            assert self._token is not None
            self._token.run_sync_soon(self.wake_task)

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
                self._token.run_sync_soon(self.wake_drained)
        # H2CData is handed out a batch at a time: there may be more.
        return bool(self._rest) or connection.wants_to_send or connection.error is not None

    async def run(self) -> None:
        """Sends what is left to it until the connection is dead, or is closed and all is sent."""
        connection = self._connection
        self._task = trio.lowlevel.current_task()
        try:
            while True:
                if self._rest:
                    rest, self._rest = self._rest, []
                    await self._send(rest)
                elif connection.wants_to_send:
                    await self._send(connection.data_to_send())
                elif self._closing or connection.error is not None:
                    if not self._silent:
                        with contextlib.suppress(OSError):
                            self._sock.shutdown(socket.SHUT_WR)
                    return
                else:
                    self._parked = True
                    await trio.lowlevel.wait_task_rescheduled(self._abort_park)
        except OSError as error:
            # What the peer said last is still to be read, a TermReq perhaps: the receiver ends it.
            self.error = error
            trio.lowlevel.notify_closing(self._sock)
            self.wake_drained()
        except trio.ClosedResourceError:
            # The connection was found dead while this task waited for room.
            self.wake_drained()
        finally:
            self._parked = False
            self.done.set()

    def _abort_park(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._parked = False
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
                    if connection.error is not None or self.error is not None:
                        raise
                    # It was for the receiver.
                continue
            connection.bytes_sent(sent)
            self.wake_drained()
            if batch is not buffers:
                # Only long lists are kept and walked; short ones are cut where the kernel stopped.
                first = _skip(buffers, first, sent)
            else:
                del buffers[: _skip(buffers, 0, sent)]


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
