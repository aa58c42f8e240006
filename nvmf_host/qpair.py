"""One qpair of the host: CIDs, the queue's bound, and who waits for which completion.

A CID belongs to the controller until its completion arrives (or the queue is dead): cancelling the
wait for a command frees neither the CID nor the data buffer.  Commands beyond the queue's bound
wait here, in order, and are *not sent* as far as anybody asks.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.errors import (
    CommandError,
    ConnectionLostError,
    DataDigestError,
    NotConnectedError,
    OutcomeUnknownError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.interfaces import HostQueuePair
from nvmf_transport.nvme import AdminOpcode
from nvmf_transport.status import Status
from nvmf_transport.wire import Buffer

_CID: Final = struct.Struct("<H")
_NSID: Final = struct.Struct("<4xI")
_NO_CID: Final = 0xFFFF
_BUSY_COMMANDS: Final = 32


class Command(CommandCapsule):
    """A command on its way.  `done` is called once, when there is a response or never will be.

    Then `response` is None where the queue died first, or the command was withdrawn; `sent` tells
    whether the controller may have received the command (it is *ambiguous*), or cannot have.

    It is its own capsule, whose CID is known once it is sent.
    """

    __slots__ = ("done", "response", "sent", "sent_at")

    def __init__(
        self,
        sqe: bytearray,
        done: Callable[["Command"], None],
        data_out: Buffer | None = None,
        data_in: memoryview | None = None,
    ) -> None:
        self.sqe = sqe
        self.cid = _NO_CID
        self.data_out = data_out
        self.data_in = data_in
        self.done = done
        self.response: ResponseCapsule | None = None
        self.sent = False
        self.sent_at = 0.0


class HostQueue:
    """A qpair after initialisation; `run` must be running for commands to complete."""

    def __init__(
        self,
        qpair: HostQueuePair,
        *,
        qid: int,
        entries: int,
        max_outstanding: int | None = None,
        keep_one: bool = False,
    ) -> None:
        """`entries` is the queue's size; `max_outstanding` a further bound, such as MAXCMD.

        With `keep_one`, one CID is kept for commands submitted as urgent: Keep Alive.
        """
        self.qid = qid
        self.entries = entries
        self.sq_flow_control = False
        self.commands = 0
        #: Commands that are outstanding or wait: what a queue is chosen by.
        self.load = 0
        # trio.current_time() goes through three calls to come here, for every command.
        self._clock = trio.lowlevel.current_clock().current_time
        self.last_submit_at = self.last_completion_at = self._clock()
        self.error: TransportError | None = None
        #: The association is about to end: an error status may come of that alone.
        self.ending = False
        self._qpair = qpair
        slots = entries - 1 if max_outstanding is None else min(entries - 1, max_outstanding)
        self._slots: list[Command | None] = [None] * max(1, slots)
        #: With so many commands it leaves further ones to other queues.
        self.busy_at = min(_BUSY_COMMANDS, len(self._slots))
        self._free = deque(range(len(self._slots)))
        self._keeps_one = keep_one and slots > 1
        self._kept: int | None = self._free.pop() if self._keeps_one else None
        self._waiting: deque[Command] = deque()

    @property
    def qpair(self) -> HostQueuePair:
        """The transport's end."""
        return self._qpair

    @property
    def outstanding(self) -> int:
        """Commands sent and not answered."""
        kept_free = 0 if self._kept is None else 1
        return len(self._slots) - len(self._free) - kept_free

    @property
    def waiting(self) -> int:
        """Commands that wait for a CID."""
        return len(self._waiting)

    def oldest(self) -> Command | None:
        """The command that is unanswered for longest, those that wait for events apart."""
        outstanding = (
            command
            for command in self._slots
            if command is not None
            and (self.qid or command.sqe[0] != AdminOpcode.ASYNC_EVENT_REQUEST)
        )
        return min(outstanding, key=lambda command: command.sent_at, default=None)

    def submit(self, command: Command, *, urgent: bool = False) -> None:
        """Sends a command, or keeps it until a CID is free.  Never blocks.

        On a dead queue `command.done` is called at once, with `sent` False.
        """
        if self.error is not None:
            command.done(command)
            return
        self.load += 1
        if self._free:
            cid = self._free.popleft()
        elif urgent and self._kept is not None:
            cid, self._kept = self._kept, None
        else:
            self._waiting.append(command)
            return
        self._slots[cid] = command
        command.cid = cid
        _CID.pack_into(command.sqe, 2, cid)
        command.sent = True
        self.commands += 1
        command.sent_at = self.last_submit_at = self._clock()
        self._qpair.transmit(command)

    async def execute(
        self,
        sqe: bytearray,
        *,
        data_out: Buffer | None = None,
        data_in: memoryview | None = None,
        name: str = "command",
        urgent: bool = False,
    ) -> ResponseCapsule:
        """Runs one command to its end; the response has status 0.

        Raises `CommandError`, `DataDigestError`, `NotConnectedError` (never sent) or
        `OutcomeUnknownError` (sent, and the queue died).  Cancelling abandons the wait only.
        """
        task = trio.lowlevel.current_task()
        parked = abandoned = False

        def done(_command: Command) -> None:
            if parked and not abandoned:
                trio.lowlevel.reschedule(task)

        def abandon(_raise_cancel: object) -> trio.lowlevel.Abort:
            nonlocal abandoned
            abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        command = Command(sqe, done, data_out, data_in)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.submit(command, urgent=urgent)
        if command.response is None and self.error is None:
            parked = True
            await trio.lowlevel.wait_task_rescheduled(abandon)
        response = command.response
        if response is None:
            if command.sent:
                raise OutcomeUnknownError(f"{name}: outcome unknown: {self.error}")
            why = self.error or "the namespace has changed"
            raise NotConnectedError(f"{name}: not sent: {why}")
        if response.digest_error:
            raise DataDigestError(f"{name}: the data digest does not match")
        if response.status:
            raise CommandError(Status.from_field(response.status), name, result=response.result)
        return response

    async def run(self) -> None:
        """Receives completions until the queue is dead; raises the `TransportError`.

        The owner then calls `kill`, once whoever must know first does.
        """
        receive, receive_nowait = self._qpair.receive, self._qpair.receive_nowait
        complete, clock = self._complete, self._clock
        while True:
            response: ResponseCapsule | None = await receive()
            self.last_completion_at = clock()
            while response is not None:
                complete(response)
                response = receive_nowait()

    def kill(self, error: TransportError | None = None) -> None:
        """Ends every command of a queue that will receive no more, those sent first."""
        if self.error is not None:
            return
        self.error = error or ConnectionLostError("the association was closed")
        ended = [command for command in self._slots if command is not None]
        ended += self._waiting
        self._waiting.clear()
        self._slots = []
        self._free.clear()
        self._kept = None
        self.load = 0
        for command in ended:
            command.done(command)

    def withdraw(self, nsid: int) -> None:
        """Ends the commands to a namespace that wait for a CID: they must not be sent any more."""
        waiting = self._waiting
        withdrawn: list[Command] = []
        for _ in range(len(waiting)):
            command = waiting.popleft()
            mine = _NSID.unpack_from(command.sqe)[0] == nsid
            (withdrawn if mine else waiting).append(command)
        self.load -= len(withdrawn)
        for command in withdrawn:
            command.done(command)

    def _complete(self, response: ResponseCapsule) -> None:
        cid = response.cid
        command = self._slots[cid] if cid < len(self._slots) else None
        if command is None:
            if self.error is not None:
                # Killed from outside; what still arrives is for nobody.
                raise self.error
            raise RemoteProtocolError(
                f"queue {self.qid}: a completion for CID {cid}, which is not outstanding"
            )
        if self.sq_flow_control and response.sqhd is not None and response.sqhd >= self.entries:
            raise RemoteProtocolError(
                f"queue {self.qid}: SQHD {response.sqhd} in a queue of {self.entries} entries"
            )
        data_in = command.data_in
        if (
            data_in is not None
            and not response.status
            and not response.digest_error
            and response.data_bytes != len(data_in)
        ):
            raise RemoteProtocolError(
                f"queue {self.qid}: success with {response.data_bytes} bytes of data, "
                f"{len(data_in)} were asked for"
            )
        self._slots[cid] = None
        self.load -= 1
        if not response.status or not self.ending:
            command.response = response
        if self._keeps_one and self._kept is None:
            self._kept = cid
        else:
            self._free.append(cid)
            if self._waiting:
                # It is part of the load already.
                self.load -= 1
                self.submit(self._waiting.popleft())
        command.done(command)
