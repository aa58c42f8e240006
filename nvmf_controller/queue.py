"""What admin and I/O queues have in common: taking commands, answering, and ending safely.

Every command that must wait is a task of its own; `hold_commands` returns when all of them have
ended, and a task in a thread cannot be cancelled.  That is how "no command of this queue can touch
the medium any more" is known.
"""

import abc
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import (
    CommandError,
    DataDigestError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.interfaces import ControllerQueuePair
from nvmf_transport.nvme import CompletionEntry
from nvmf_transport.status import (
    COMMAND_ID_CONFLICT,
    INTERNAL_ERROR,
    TRANSIENT_TRANSPORT_ERROR,
    Status,
)
from nvmf_transport.wire import Buffer

from .association import Association

_log = logging.getLogger(__name__)

#: Completion queue entries and SQ heads count modulo the queue's entries.
CQE_BYTES: Final = CompletionEntry.SIZE


class Queue(abc.ABC):
    """One connected queue of an association."""

    def __init__(
        self,
        association: Association,
        qpair: ControllerQueuePair,
        *,
        qid: int,
        entries: int,
        sq_flow_control: bool,
    ) -> None:
        self.association = association
        self.qpair = qpair
        self.qid = qid
        self.entries = entries
        self.sq_flow_control = sq_flow_control
        self.debug = _log.isEnabledFor(logging.DEBUG)
        self.statistics = association.subsystem.statistics
        #: Nothing is begun any more, whatever is at hand: a command that is taken without a wait
        #: would not notice that it is cancelled.
        self.stopped = False
        self._taking = trio.CancelScope()
        self._commands = trio.CancelScope()
        #: Commands that run as tasks, by CID; a scope where Abort may still stop them.
        self._running: dict[int, trio.CancelScope | None] = {}
        # CONNECT was the first entry of the queue.
        self._taken = 1

    @abc.abstractmethod
    async def _serve(self, nursery: trio.Nursery) -> None:
        """Takes commands until the queue is dead."""

    def stop(self) -> None:
        """Takes no further command and begins nothing; those in threads run to their end."""
        self.stopped = True
        self._taking.cancel()
        self._commands.cancel()

    async def run(self, nursery: trio.Nursery) -> None:
        """Takes commands until the connection is lost or `stop`; `nursery` is `hold_commands`'."""
        reason = "stopped"
        with self._taking:
            try:
                # It may have been stopped before it began.
                await trio.lowlevel.checkpoint_if_cancelled()
                await self._serve(nursery)
            except TransportError as error:
                reason = str(error)
            finally:
                self.stop()
                self.association.queue_lost(self, reason)

    async def hold_commands(
        self, *, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Owns the tasks of commands until the last of them has ended.

        Beside the connection, not around it: a dead connection is closed at once, so that the host
        learns of it, whatever a thread still waits for.
        """
        try:
            with self._commands:
                async with trio.open_nursery() as nursery:
                    task_status.started(nursery)
                    await trio.sleep_forever()
        finally:
            self.stopped = True
            self.association.queue_ended(self)

    @property
    def sqhd(self) -> int:
        """SQ Head Pointer of a response; reserved without SQ flow control."""
        return self._taken % self.entries if self.sq_flow_control else 0

    def respond(self, cid: int, *, result: int = 0) -> None:
        """Completes a command successfully."""
        self.qpair.transmit(ResponseCapsule(cid, 0, result, self.sqhd))

    def fail(self, command: ReceivedCommand, status: Status, result: int = 0) -> None:
        """Completes a command with an error."""
        self.statistics.errors += 1
        self.association.errors.add(self.qid, command, status)
        if self.debug:
            _log.debug("queue %d, CID %d: %s", self.qid, command.cid, status)
        self.qpair.transmit(ResponseCapsule(command.cid, status.to_field(), result, self.sqhd))

    def fail_cid(self, cid: int, status: Status) -> None:
        """Completes a command with an error that is not worth an entry in the log."""
        self.qpair.transmit(ResponseCapsule(cid, status.to_field(), 0, self.sqhd))

    async def send(self, command: ReceivedCommand, data: Buffer) -> None:
        """Completes a command successfully with its data, all of what it asked for."""
        if not await self.qpair.send_data(command, (data,), complete=True):
            self.respond(command.cid)

    def start(
        self,
        nursery: trio.Nursery,
        command: ReceivedCommand,
        call: Callable[..., Awaitable[None]],
        *args: object,
    ) -> bool:
        """Runs a command that may have to wait as a task; False where it is not to run."""
        if self.stopped:
            return False
        if self.is_outstanding(command.cid):
            self.fail(command, COMMAND_ID_CONFLICT.with_dnr())
            return False
        if len(self._running) >= self.entries:
            # A full queue has one entry less; whoever sends more would have our memory.
            raise RemoteProtocolError(f"more commands at a time than {self.entries} entries")
        self._running[command.cid] = None
        nursery.start_soon(self._run, command, call, args)
        return True

    async def _run(
        self,
        command: ReceivedCommand,
        call: Callable[..., Awaitable[None]],
        args: tuple[object, ...],
    ) -> None:
        try:
            await self.guard(command, call(command, *args))
        finally:
            self._running.pop(command.cid, None)

    async def guard(self, command: ReceivedCommand, running: Awaitable[None]) -> None:
        """Turns what a command raises into its status; the one place that does."""
        try:
            await running
        except CommandError as error:
            self.fail(command, error.status)
        except DataDigestError as error:
            _log.info("%s, queue %d: %s", self.association, self.qid, error)
            self.fail(command, TRANSIENT_TRANSPORT_ERROR)
        except TransportError:
            pass  # The loop that takes commands hears of it as well, and ends the queue.
        except Exception:  # noqa: BLE001 - a bug fails one command, not the queue.
            _log.exception("queue %d, command %s", self.qid, bytes(command.sqe).hex())
            self.fail(command, INTERNAL_ERROR)

    def is_outstanding(self, cid: int) -> bool:
        """True while a command with this CID is not completed."""
        return cid in self._running

    def forget_running(self) -> None:
        """For a copy of a queue: what runs there is none of its business."""
        self._running = {}

    def abort(self, cid: int) -> bool:
        """Keeps a command from starting; False where it is running, done or was never here."""
        scope = self._running.get(cid)
        if scope is None:
            return False
        scope.cancel()
        return True

    def set_abortable(self, cid: int, scope: trio.CancelScope | None) -> None:
        """Says whether Abort may still cancel this command, and how."""
        self._running[cid] = scope
