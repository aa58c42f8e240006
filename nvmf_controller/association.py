"""One controller, which is one association: its state, its queues, its timers.

The states and what they mean to a host (CC and CSTS, Base 2.1, section 3.1.4; the keep alive timer
is section 3.9, what a lost queue means section 3.3.2):

    DISABLED -> ENABLED -> RESETTING -> DISABLED       CC.EN
                  |-> SHUTTING_DOWN -> SHUT_DOWN       CC.SHN
    any -> ENDING -> ENDED                             a lost connection, no keep alive

A state that waits (RESETTING, SHUTTING_DOWN, ENDING) is left only when every command that was
accepted has finished, or can no longer touch the medium.
"""

import enum
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from nvmf_transport.interfaces import Endpoint
from nvmf_transport.nvme import Cc, Csts

from .budget import MemoryBudget
from .error_log import ErrorLog
from .events import AsyncEvents
from .instance import Instance

if TYPE_CHECKING:
    from .queue import Queue
    from .subsystem import Subsystem

_log = logging.getLogger(__name__)

#: KATO is granted in units of KAS, 1 s.
KATO_UNIT_MS: Final = 1000
KAS_UNITS: Final = KATO_UNIT_MS // 100
#: How long a controller may stay disabled or shut down (what Base 2.1, 3.3.2.1, has for CC.EN).
_IDLE_LIMIT_S: Final = 120.0
#: How long the admin queue outlives an I/O queue: a host that tears down closes those first, and
#: then resets or shuts down over the admin queue.
_LOST_QUEUE_GRACE_S: Final = 2.0


class State(enum.Enum):
    """Where a controller is in its life."""

    DISABLED = enum.auto()
    ENABLED = enum.auto()
    RESETTING = enum.auto()
    SHUTTING_DOWN = enum.auto()
    SHUT_DOWN = enum.auto()
    ENDING = enum.auto()
    ENDED = enum.auto()


TRANSITIONS: Final = {
    State.DISABLED: frozenset({State.ENABLED, State.SHUTTING_DOWN, State.ENDING}),
    State.ENABLED: frozenset({State.RESETTING, State.SHUTTING_DOWN, State.ENDING}),
    State.RESETTING: frozenset({State.DISABLED, State.ENDING}),
    State.SHUTTING_DOWN: frozenset({State.SHUT_DOWN, State.RESETTING, State.ENDING}),
    State.SHUT_DOWN: frozenset({State.RESETTING, State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset[State](),
}
_READY: Final = frozenset({State.ENABLED, State.RESETTING, State.SHUTTING_DOWN, State.SHUT_DOWN})
#: No I/O command is begun any more.
_STOPPING: Final = frozenset({State.RESETTING, State.SHUTTING_DOWN, State.ENDING})


class Association:
    """A controller as one host has it."""

    def __init__(
        self,
        subsystem: "Subsystem",
        cntlid: int,
        *,
        hostid: bytes,
        hostnqn: str,
        kato_ms: int,
        local: Endpoint,
        peer: Endpoint,
    ) -> None:
        self.subsystem = subsystem
        self.cntlid = cntlid
        self.hostid = hostid
        self.hostnqn = hostnqn
        #: The address that the host came to, and its own.
        self.local = local
        self.peer = peer
        self.kato_ms = 0
        self.set_kato(kato_ms)
        self.state = State.DISABLED
        self.ended = trio.Event()
        self.cc = Cc()
        self.instance = Instance()
        #: Set by every command: traffic restarts the keep alive timer (CTRATT.TBKAS).
        self.traffic = False
        #: I/O queues granted by Number of Queues, 0 before.
        self.granted_io_queues = 0
        #: The most that Number of Queues grants.
        self.max_io_queues = subsystem.config.max_io_queues
        self.write_cache_enabled = True
        #: For commands that ask for their data, or read.
        self.budget = MemoryBudget(subsystem.config.memory_bytes)
        #: For commands that came with their data.
        self.capsules = MemoryBudget(subsystem.config.memory_bytes)
        self.events = AsyncEvents(self._complete_event)
        self.errors = ErrorLog()
        self._admin: Queue | None = None
        self._io_queues: dict[int, Queue] = {}
        self._io_gone = trio.Event()
        self._lost_queue = trio.Event()
        #: A fault plan lets the host in again while commands of this association run.
        self.haunted = False
        self._ghosts = 0
        self._changed = trio.Event()

    def __str__(self) -> str:
        return f"controller {self.cntlid:#06x} of {self.hostnqn}"

    @property
    def is_lost(self) -> bool:
        """True where the host has lost a queue of it: it is ending, or will."""
        return self.state is State.ENDING or self._lost_queue.is_set()

    @property
    def admin_queue(self) -> "Queue | None":
        """The admin queue, until its last command has ended."""
        return self._admin

    @property
    def io_queues(self) -> list["Queue"]:
        """The I/O queues, those included that only wait for their commands."""
        return list(self._io_queues.values())

    @property
    def csts(self) -> Csts:
        """Controller Status, which follows from the state."""
        # After CC.EN=0 the controller stays ready until it is idle.
        rdy = self.state in _READY and bool(self.cc.en or self.state is State.RESETTING)
        shst = {
            State.SHUTTING_DOWN: Csts.SHST_OCCURRING,
            State.SHUT_DOWN: Csts.SHST_COMPLETE,
        }.get(self.state, Csts.SHST_NORMAL)
        return Csts.of(rdy=int(rdy), shst=shst)

    def set_kato(self, kato_ms: int) -> None:
        """Grants a Keep Alive Timeout, rounded up to its unit; 0 is none."""
        rounded = -(-kato_ms // KATO_UNIT_MS) * KATO_UNIT_MS
        # Get Features answers with 32 bits.
        self.kato_ms = min(rounded, 0xFFFFFFFF // KATO_UNIT_MS * KATO_UNIT_MS)

    def set_state(self, state: State) -> None:
        """The only place where the state changes."""
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        _log.debug("%s: %s -> %s", self, self.state.name, state.name)
        self.state = state
        if state in _STOPPING:
            for queue in self.io_queues:
                queue.stop()
        self._changed.set()
        self._changed = trio.Event()

    def add_queue(self, queue: "Queue") -> None:
        """A queue is connected."""
        if queue.qid == 0:
            self._admin = queue
        else:
            self._io_queues[queue.qid] = queue

    def io_queue(self, qid: int) -> "Queue | None":
        """This I/O queue, while it is connected or a command of it lives."""
        return self._io_queues.get(qid)

    def queue_ended(self, queue: "Queue") -> None:
        """A queue is gone and its last command with it."""
        if queue.qid == 0:
            self._admin = None
            self.end("the admin queue is gone")
        else:
            del self._io_queues[queue.qid]
        self._settle()

    @contextmanager
    def ghost(self) -> Iterator[None]:
        """A command that a fault plan has torn from its queue runs inside the block.

        It keeps the association, a reset and a shutdown waiting, as every command does; only a new
        association of the same host does not wait for it, unlike what is right.
        """
        self.haunted = True
        self._ghosts += 1
        try:
            yield
        finally:
            self._ghosts -= 1
            self._settle()

    def _settle(self) -> None:
        if self._io_queues or self._ghosts:
            return
        self._io_gone.set()
        self._io_gone = trio.Event()
        if self.state is State.ENDING and self._admin is None:
            self.set_state(State.ENDED)
            self.subsystem.forget(self)
            self.ended.set()

    def queue_lost(self, queue: "Queue", reason: str) -> None:
        """The connection of a queue is dead; commands of it may live."""
        if queue.qid == 0:
            self.end(f"admin queue: {reason}")
        elif self.state is State.ENABLED:
            _log.info("%s: I/O queue %d: %s", self, queue.qid, reason)
            self._lost_queue.set()

    def end(self, reason: str) -> None:
        """Ends the association: no command is taken any more; `ended` follows the last one."""
        if self.state in {State.ENDING, State.ENDED}:
            return
        _log.info("%s ends: %s", self, reason)
        self.set_state(State.ENDING)
        if self._admin is not None:
            self._admin.stop()

    def enable(self) -> None:
        """CC.EN was set: there is nothing to get ready."""
        self.set_state(State.ENABLED)

    async def run(self) -> None:
        """Keeps the timers and carries out resets and shutdowns, until the association ends.

        A task of the admin queue.
        """
        while True:
            changed = self._changed
            match self.state:
                case State.RESETTING:
                    await self._drain(changed)
                    if not changed.is_set():
                        self._reset()
                case State.SHUTTING_DOWN:
                    await self._drain(changed)
                    if not changed.is_set():
                        await self.subsystem.flush()
                    if not changed.is_set():
                        self.set_state(State.SHUT_DOWN)
                case State.ENABLED:
                    await self._watch_enabled(changed)
                case State.DISABLED | State.SHUT_DOWN:
                    with trio.move_on_after(_IDLE_LIMIT_S):
                        await changed.wait()
                    if not changed.is_set():
                        self.end(f"not enabled for {_IDLE_LIMIT_S:.0f} s")
                case State.ENDING | State.ENDED:
                    return

    async def _drain(self, changed: trio.Event) -> None:
        while (self._io_queues or self._ghosts) and not changed.is_set():
            await self._io_gone.wait()

    def _reset(self) -> None:
        """What a controller level reset leaves behind (Base 2.1, section 3.7.2)."""
        self.granted_io_queues = 0
        self.write_cache_enabled = True
        self.haunted = False
        self.events.reset()
        self._lost_queue = trio.Event()
        self.instance = self.instance.next()
        self.set_state(State.DISABLED)

    async def _watch_enabled(self, changed: trio.Event) -> None:
        # Not per command: a flag, looked at once a KATO (Base 2.1, section 3.9.2).
        self.traffic = False
        kato_s = self.kato_ms / 1000 or self.subsystem.idle_limit_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_queues, changed)
            with trio.move_on_after(kato_s) as timer:
                await changed.wait()
            nursery.cancel_scope.cancel()
        if timer.cancelled_caught and not changed.is_set() and not self.traffic:
            self.end(f"nothing heard for {kato_s:g} s (keep alive timeout)")

    async def _watch_queues(self, changed: trio.Event) -> None:
        await self._lost_queue.wait()
        with trio.move_on_after(_LOST_QUEUE_GRACE_S):
            await changed.wait()
        if not changed.is_set():
            self.end("an I/O queue's connection is gone")

    def kato_changed(self) -> None:
        """Starts the keep alive timer anew."""
        self._changed.set()
        self._changed = trio.Event()

    def _complete_event(self, cid: int, result: int) -> None:
        if self._admin is not None:
            self._admin.respond(cid, result=result)
