"""A qpair between a queue and its transport that does to commands what a fault plan says.

The queue above and the transport below know nothing of it, and without a plan it is not there.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import attrs
import trio

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import ConnectionLostError, TransportError
from nvmf_transport.faults import MisbehavingQueuePair, PduKind
from nvmf_transport.interfaces import (
    ControllerQueuePair,
    Endpoint,
    IncomingConnection,
    QueuePairLimits,
)
from nvmf_transport.nvme import ADMIN_QID
from nvmf_transport.wire import Buffer

from .association import Association
from .fault_actions import (
    Action,
    Answer,
    Close,
    Delay,
    Drop,
    Ghost,
    GrantQueues,
    LoseCache,
    NewIdentity,
    OtherData,
    Remap,
    Reset,
    Resize,
    Scope,
    When,
)
from .faults import Faults, Moment, qid_of
from .ghosts import execute_unseen, has_data_of_host
from .queue import Queue
from .subsystem import NvmSubsystem, Subsystem
from .subsystem_faults import change_subsystem

_log = logging.getLogger(__name__)

_BY_PLAN: Final = "by the fault plan"
#: How long a connection is held without a word.
_SILENT_S: Final = 120.0


@attrs.define(eq=False)
class _Held:
    """The answer to a command, kept back until it is whole."""

    action: Delay | Drop | Answer | Close | Reset
    data: list[tuple[ReceivedCommand, Sequence[Buffer], bool]] = attrs.field(factory=list)


class FaultyQueuePair:
    """A `ControllerQueuePair` around another."""

    def __init__(self, inner: ControllerQueuePair, faults: Faults, nursery: trio.Nursery) -> None:
        """`nursery` is where ghosts live: it outlives the connection and the queue."""
        self._inner = cast(MisbehavingQueuePair, inner)
        self._faults = faults
        self._nursery = nursery
        self._queue: Queue | None = None
        self._error: TransportError | None = None
        self._due: deque[ReceivedCommand] = deque()
        self._held: dict[int, _Held] = {}
        #: Commands whose completion must be a response, because that is what goes wrong.
        self._respond: set[int] = set()
        self._receiving: trio.CancelScope | None = None
        self._background: set[trio.CancelScope] = set()

    def bind(self, queue: Queue) -> None:
        """CONNECT has succeeded: this is the queue."""
        self._queue = queue

    def close(self) -> None:
        """The connection is over, and with it whatever was to happen to it later."""
        for scope in self._background:
            scope.cancel()

    # What a `ControllerQueuePair` is.

    @property
    def limits(self) -> QueuePairLimits:
        """The transport's."""
        return self._inner.limits

    @property
    def local(self) -> Endpoint:
        """The transport's."""
        return self._inner.local

    @property
    def peer(self) -> Endpoint:
        """The transport's."""
        return self._inner.peer

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        """Passes on what CONNECT settled."""
        self._inner.configure(
            entries=entries, sq_flow_control=sq_flow_control, in_capsule_bytes=in_capsule_bytes
        )

    async def receive(self) -> ReceivedCommand:
        """Returns the next command that is to be executed."""
        while True:
            if self._error is not None:
                raise self._error
            if self._due:
                return self._due.popleft()
            # A delayed command that is due cuts this short; nothing is lost by it.
            with trio.CancelScope() as self._receiving:
                command = await self._inner.receive()
                self._receiving = None
                if self._pass(command):
                    return command

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        """Returns the data of a command."""
        return await self._inner.receive_data(command)

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        """Sends the data, or keeps it back with the rest of the answer."""
        held = self._held.get(command.cid)
        if held is not None:
            held.data.append((command, tuple(data), complete))
            return False
        if command.cid in self._respond:
            complete = False
        return await self._inner.send_data(command, data, complete=complete)

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> None:
        """Never: what is to be done to data is done in `send_data`."""

    def transmit(self, capsule: ResponseCapsule) -> None:
        """Sends the response, or does what was to be done to it."""
        self._respond.discard(capsule.cid)
        held = self._held.pop(capsule.cid, None)
        if held is None:
            self._inner.transmit(capsule)
            return
        match held.action:
            case Delay(seconds=seconds):
                self._later(seconds, self._play, held, capsule)
            case Answer(status=status):
                self._inner.transmit(
                    ResponseCapsule(capsule.cid, status.to_field(), 0, capsule.sqhd)
                )
            case Close(when=When.ANSWERED) | Reset(when=When.ANSWERED):
                self._later(0, self._play, held, capsule)
            case Close() | Reset():
                self._cut(held.action)
            case Drop():
                pass

    async def _play(self, held: _Held, capsule: ResponseCapsule) -> None:
        completed = False
        for command, data, complete in held.data:
            completed = await self._inner.send_data(command, data, complete=complete)
        if not completed:
            self._inner.transmit(capsule)
        if isinstance(held.action, Close | Reset):
            self._cut(held.action)

    # What happens to a command.

    def _pass(self, command: ReceivedCommand) -> bool:
        """Does what the plan says; False where the queue is not to see the command (yet)."""
        qid = self._queue.qid if self._queue is not None else qid_of(command.sqe) or ADMIN_QID
        actions = self._faults.of_command(qid, command.sqe, trio.current_time())
        passed = True
        for action in actions:
            _log.info("queue %d, CID %d: %s", qid, command.cid, action)
            passed = self._do(action, command) and passed
        return passed

    def _do(self, action: Action, command: ReceivedCommand) -> bool:
        match action:
            case Delay(when=When.BEFORE, seconds=seconds):
                self._later(seconds, self._deliver, command)
            case Drop(when=When.BEFORE):
                pass
            case Answer(when=When.BEFORE, status=status):
                sqhd = 0 if self._queue is None else self._queue.sqhd
                self._inner.transmit(ResponseCapsule(command.cid, status.to_field(), 0, sqhd))
            case Close(when=When.BEFORE) | Reset(when=When.BEFORE):
                self._cut(action)
            case Delay() | Drop() | Answer() | Close() | Reset():
                self._held[command.cid] = _Held(action)
                return True
            case Ghost():
                if self._queue is None or self._queue.qid == ADMIN_QID:
                    _log.warning("no ghost: not a command of an I/O queue")
                    return True
                self._nursery.start_soon(self._haunt, self._queue, action, command)
            case GrantQueues(queues=queues):
                if self._queue is not None:
                    self._queue.association.max_io_queues = queues
                return True
            case LoseCache() | OtherData() | NewIdentity() | Remap() | Resize():
                if self._queue is not None:
                    change_subsystem(self._queue.association.subsystem, action, self._faults.chance)
                return True
            case spoiling:
                self._inner.spoil(command.cid, spoiling.fault)
                if spoiling.fault.kind is PduKind.RESPONSE:
                    self._respond.add(command.cid)
                return True
        return False

    async def _deliver(self, command: ReceivedCommand) -> None:
        self._due.append(command)
        self._wake()

    def _wake(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()

    def _cut(self, action: Close | Reset | Ghost) -> None:
        reset = not isinstance(action, Close)
        if self._queue is not None and action.scope is Scope.ASSOCIATION:
            cut_association(self._queue.association, reset=reset)
        else:
            self.break_off(reset=reset)

    def break_off(self, *, reset: bool) -> None:
        """Ends the connection: at once, or as soon as what is queued has left."""
        if self._error is None:
            self._error = ConnectionLostError(f"{'reset' if reset else 'closed'} {_BY_PLAN}")
            if reset:
                self._inner.reset()
            self._wake()

    async def _haunt(self, queue: Queue, action: Ghost, command: ReceivedCommand) -> None:
        data: Buffer = b""
        if has_data_of_host(command):
            try:
                data = await self._inner.receive_data(command)
            except TransportError as error:
                _log.info("no ghost: %s", error)
                return
        with queue.association.ghost():
            self._cut(action)
            await trio.sleep(action.seconds)
            _log.info("a ghost of queue %d, CID %d", queue.qid, command.cid)
            await execute_unseen(queue, command, data)

    def _later(self, seconds: float, call: Callable[..., Awaitable[None]], *args: object) -> None:
        scope = trio.CancelScope()
        self._background.add(scope)
        self._nursery.start_soon(self._in_background, scope, seconds, call, args)

    async def _in_background(
        self,
        scope: trio.CancelScope,
        seconds: float,
        call: Callable[..., Awaitable[None]],
        args: tuple[object, ...],
    ) -> None:
        try:
            with scope:
                await trio.sleep(seconds)
                await call(*args)
        except TransportError as error:
            _log.info("too late: %s", error)
        finally:
            self._background.discard(scope)


def cut_association(association: Association, *, reset: bool) -> None:
    """Ends every connection of an association, and with them the association."""
    for queue in (association.admin_queue, *association.io_queues):
        if queue is not None and isinstance(queue.qpair, FaultyQueuePair):
            queue.qpair.break_off(reset=reset)
    association.end(_BY_PLAN)


async def keep_time(moment: Moment, subsystem: NvmSubsystem, faults: Faults) -> None:
    """Carries a rule of time out, until it has no more turns."""
    for at in moment.times():
        await trio.sleep_until(at)
        action = moment.strike()
        match action:
            case None:
                pass
            case Close() | Reset():
                for association in subsystem.associations:
                    cut_association(association, reset=isinstance(action, Reset))
            case LoseCache() | OtherData() | NewIdentity() | Remap() | Resize():
                change_subsystem(subsystem, action, faults.chance)
            case _:
                raise AssertionError(action)


async def meet(connection: IncomingConnection, subsystem: Subsystem, faults: Faults) -> bool:
    """What the plan has for a new connection; False where it is not to be served."""
    for action in faults.of_connection(trio.current_time()):
        _log.info("%s: %s", connection.peer, action)
        match action:
            case Delay(seconds=seconds):
                await trio.sleep(seconds)
            case Drop():
                await trio.sleep(_SILENT_S)
                await connection.aclose()
                return False
            case Close():
                await connection.aclose()
                return False
            case LoseCache() | OtherData() | NewIdentity() | Remap() | Resize():
                change_subsystem(subsystem, action, faults.chance)
            case _:
                raise AssertionError(action)
    return True
