"""Runs one plan: the whole host against the whole target, in virtual time."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from nvmf_host import by_hand
from nvmf_host.config import ConnectParams
from nvmf_host.controller import Controller
from nvmf_host.host import Host, open_host
from nvmf_host.namespace import Namespace
from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport.errors import NvmfError
from nvmf_transport.interfaces import register
from nvmf_transport.loop import ConnectFault
from nvmf_transport.loop_ends import LoopConnection
from nvmf_transport.status import Status
from tests.host.hosting import IDENTITY

from .history import NEVER, History, Record, content, values_of
from .network import SimNetwork, Trap
from .oracle import find_fault
from .plan import CELL_BYTES, Fault, FaultKind, Op, OpKind, Outage, Plan, Queues
from .target import ADDRESS, SUBNQN, Target

#: Nothing may wait longer than this once the network and the target are well again.
_PATIENCE_S: Final = 120.0
_OUTAGES: Final = {
    Outage.NONE: None,
    Outage.REFUSE: ConnectFault.REFUSE,
    Outage.HANG: ConnectFault.HANG,
    Outage.SILENT: ConnectFault.SILENT,
}
_MAX_SPOILS: Final = 3
#: Command Interrupted: to be tried again.
_INTERRUPTED: Final = Status(0, 0x21)


class SimulationError(AssertionError):
    """A scenario ended in a way that is not allowed; the plan and the reason."""

    def __init__(self, why: str, plan: Plan) -> None:
        super().__init__(why, plan)
        self.why = why
        self.plan = plan

    def __str__(self) -> str:
        return f"{self.why}\n{self.plan}"


@attrs.frozen
class Outcome:
    """What a scenario contained."""

    counts: "Counter[str]"
    virtual_s: float


def run(plan: Plan) -> Outcome:
    """Runs one scenario; raises `SimulationError`."""
    scenario = Scenario(plan)
    # trio's hypothesis plugin makes its scheduler sort, then shuffle: the order is the plan's.
    trio_run._hypothesis_plugin_setup()
    trio_run._r.seed(plan.schedule)
    with _errors_logged() as logged:
        try:
            trio.run(scenario.main, clock=MockClock(autojump_threshold=0))
        except SimulationError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception | BaseExceptionGroup):
                raise
            raise SimulationError(f"it ended with {error!r}", plan) from error
    if logged:
        raise SimulationError(f"logged: {logged[0]}", plan)
    why = find_fault(scenario.history, losses_admitted=not scenario.history.given_up)
    if why is not None:
        raise SimulationError(why, plan)
    return Outcome(scenario.counts, scenario.virtual_s)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


@contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """Warnings are what faults are for; an error in a log is a bug that was survived."""
    handler = _Errors()
    root = logging.getLogger()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    root.addHandler(handler)
    try:
        yield handler.texts
    finally:
        root.removeHandler(handler)
        logging.disable(before)


class Scenario:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.history = History()
        self.counts: Counter[str] = Counter()
        self.virtual_s = 0.0
        self._network = SimNetwork(self.counts)
        self._params = ConnectParams(
            address=ADDRESS,
            subnqn=SUBNQN,
            identity=IDENTITY,
            transport="loop",
            nr_io_queues=plan.io_queues,
            kato_s=plan.kato_s,
            reconnect_delay_s=plan.reconnect_delay_s,
            flow_control=plan.flow_control,
        ).checked()
        self._pending: set[Record] = set()
        self._striking = 0
        self._crashing = False

    async def main(self) -> None:
        """The scenario from its first connection to its last ghost."""
        started = trio.current_time()
        register(self._network)
        async with self._network.listen(ADDRESS) as listener, trio.open_nursery() as world:
            self._listener = listener
            self._world = world
            self._target = Target(self.plan, self._network, world, self.history, self.counts)
            self._target.start(listener)
            async with open_host(identity=IDENTITY) as host:
                controller = await host.connect(self._params)
                # What is random must be the plan's.
                controller.attempts._random = random.Random(self.plan.schedule + 2)
                self._target.pace.host_is_back = lambda: controller.state is ControllerState.LIVE
                await self._live(host, controller)
            world.cancel_scope.cancel()
        self.virtual_s = trio.current_time() - started

    async def _live(self, host: Host, controller: Controller) -> None:
        namespaces = [controller.namespaces[n] for n in sorted(controller.namespaces)]
        self.counts["namespaces"] += len(namespaces)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._operate, host, controller)
            async with trio.open_nursery() as faults:
                for fault in self.plan.faults:
                    faults.start_soon(self._strike, fault)
                async with trio.open_nursery() as workers:
                    for ops in self.plan.workers:
                        workers.start_soon(self._work, namespaces, ops)
                    await self._watch(workers, faults)
            await self._look_at_the_end(namespaces)
            nursery.cancel_scope.cancel()

    async def _watch(self, workers: trio.Nursery, faults: trio.Nursery) -> None:
        """Sees to it that everything ends, once nothing is wrong any more."""
        last = max((fault.at_ms + fault.duration_ms for fault in self.plan.faults), default=0)
        await trio.sleep(last / 1000 + 0.001)
        self._network.traps.clear()
        while self._striking:  # noqa: ASYNC110
            await trio.sleep(0.1)
        with trio.move_on_after(_PATIENCE_S) as scope:
            while self._pending or workers.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.25)
        if scope.cancelled_caught:
            waiting = sorted(self._pending, key=lambda record: record.value)
            self.history.faults.append(f"it waits for ever: {waiting[:3]}")
            workers.cancel_scope.cancel()
        faults.cancel_scope.cancel()

    async def _look_at_the_end(self, namespaces: list[Namespace]) -> None:
        """Reads all, after the last ghost has landed."""
        if self.history.faults:
            return
        await trio.sleep(self._target.pace.fence_s + 2 * self.plan.kato_s)
        for index, namespace in enumerate(namespaces):
            size = namespace.size_bytes // CELL_BYTES
            await self._perform(namespace, Op(OpKind.READ, index, 0, size), {})

    # Callers.

    async def _work(self, namespaces: list[Namespace], ops: tuple[Op, ...]) -> None:
        #: Of each namespace's losses, those that this opener has been told of.
        told: dict[int, int] = {}
        for op in ops:
            await trio.sleep(op.think_ms / 1000)
            await self._perform(namespaces[op.namespace], op, told)

    async def _perform(self, namespace: Namespace, op: Op, told: dict[int, int]) -> None:
        record = self.history.invoke(op)
        self._pending.add(record)
        patience_s = float("inf") if op.patience_ms is None else op.patience_ms / 1000
        scope = trio.move_on_after(patience_s)
        try:
            with scope:
                await self._call(namespace, op, record, told)
                self.history.respond(record)
        except NvmfError as error:
            self.history.faults.append(f"{record} failed: {error!r}")
        if record.returned == NEVER:
            record.cancelled = scope.cancelled_caught
            self.counts["callers killed"] += 1
        self._pending.discard(record)

    async def _call(
        self, namespace: Namespace, op: Op, record: Record, told: dict[int, int]
    ) -> None:
        offset, length = op.start * CELL_BYTES, op.cells * CELL_BYTES
        lba = namespace.lba_bytes
        match record.kind:
            case OpKind.READ:
                data = bytes(await namespace.read(offset, length))
                if len(data) != length:
                    self.history.faults.append(f"{record}: {len(data)} bytes")
                record.values = values_of(op.namespace + 1, data, op.start)
            case OpKind.WRITE:
                if offset % lba or length % lba:
                    self.counts["unaligned writes"] += 1
                data = content(op.namespace + 1, record.value, op.start, op.cells)
                await namespace.write(offset, data, fua=op.fua)
            case OpKind.FLUSH:
                await namespace.flush()
                # An fsync that spans a loss fails, once for each opener; see `fusedev`.
                record.failed = namespace.losses != told.get(op.namespace, 0)
                told[op.namespace] = namespace.losses
            case OpKind.WRITE_ZEROES:
                await namespace.write_zeroes(offset // lba, length // lba, fua=op.fua)
            case OpKind.DEALLOCATE:
                await namespace.deallocate([(offset // lba, length // lba)])

    # Hands.

    async def _operate(self, host: Host, controller: Controller) -> None:
        """Whoever reconnects by hand, and looks after paused namespaces."""
        by_hand = not self.plan.reconnect_delay_s
        while True:
            await trio.sleep((self.plan.by_hand_ms or 500) / 1000)
            if by_hand and controller.state is ControllerState.LOST:
                try:
                    await host.reconnect(controller, self._params)
                except NvmfError:
                    self.counts["failed reconnections by hand"] += 1
                else:
                    self.counts["reconnections by hand"] += 1
            for namespace in list(controller.namespaces.values()):
                if namespace.state is NamespaceState.PAUSED:
                    await self._resume(controller, namespace)

    async def _resume(self, controller: Controller, namespace: Namespace) -> None:
        """Only what was lost is for a hand; another namespace than the one that was is not."""
        if namespace.engine.cause is not PauseCause.UNFLUSHED_LOST:
            return
        self.counts["losses found"] += 1
        accept = self.plan.accept
        before = namespace.losses
        if accept:
            self.history.given_up = True
        try:
            await by_hand.resume(controller, namespace, rewrite_lost=not accept, accept=accept)
        except NvmfError:
            self.counts["failed resumptions"] += 1
        else:
            if accept and namespace.losses == before:
                self.history.faults.append("a loss was given up, and no fsync will say so")
            self.counts["losses given up" if accept else "losses written again"] += 1

    # Faults.

    async def _strike(self, fault: Fault) -> None:
        await trio.sleep(fault.at_ms / 1000)
        if fault.on is None:
            await self._befall(fault, None)
            return

        def spring(connection: LoopConnection) -> None:
            # What strikes a connection strikes now, inside this message; all else a little later.
            if fault.kind in {FaultKind.CUT, FaultKind.DEAF}:
                self._break(fault, [connection])
            self._world.start_soon(self._befall, fault, connection)

        if fault.kind is FaultKind.REMAP:
            for connection in self._network.those(Queues.ALL):
                self._network.cut(connection)
        self._network.traps.append(Trap(fault.on, fault.queues, fault.nth + 1, spring))

    async def _befall(self, fault: Fault, connection: LoopConnection | None) -> None:
        self._striking += 1
        self.counts[fault.kind.value] += 1
        try:
            match fault.kind:
                case FaultKind.CUT | FaultKind.DEAF | FaultKind.FREEZE:
                    await self._break_for_a_while(fault, connection)
                case (
                    FaultKind.CRASH | FaultKind.IMPOSTOR | FaultKind.REMAPPED | FaultKind.OTHER_HOST
                ):
                    await self._crash(fault)
                case FaultKind.REMAP:
                    if not self._crashing and self._target.swap():
                        await trio.sleep(fault.duration_ms / 1000 + 0.1)
                        # It may have been killed and started again in between.
                        if self._target.is_swapped:
                            self._target.swap()
                case FaultKind.SPOIL:
                    # A fourth in a row would rightly fail the command.
                    if self.counts[fault.kind.value] <= _MAX_SPOILS:
                        for each in self._network.those(fault.queues)[-1:]:
                            each.spoil_to_host += 1
                            each.spoil_to_controller += 1
                case FaultKind.STATUS:
                    for each in self._network.those(Queues.IO):
                        each.next_fault = _INTERRUPTED
        finally:
            self._striking -= 1

    def _break(self, fault: Fault, connections: list[LoopConnection]) -> None:
        self._target.linger(fault.linger)
        for connection in connections:
            if fault.kind is FaultKind.CUT:
                self._network.cut(connection)
            elif fault.kind is FaultKind.DEAF:
                self._network.deafen(connection)
            else:
                connection.freeze()

    async def _break_for_a_while(self, fault: Fault, broken: LoopConnection | None) -> None:
        connections = [broken] if broken is not None else self._network.those(fault.queues)
        if broken is None or fault.kind is FaultKind.FREEZE:
            self._break(fault, connections)
        if fault.outage is not Outage.NONE:
            self._network.connect_fault = _OUTAGES[fault.outage]
        await trio.sleep(fault.duration_ms / 1000)
        if self._target.up:
            self._network.connect_fault = None
        if fault.kind is not FaultKind.CUT:
            # What was sent long ago arrives only now: it lands soon, or not at all.
            self._target.pace.thawed_until = trio.current_time() + 2 * self.plan.kato_s
            for connection in connections:
                connection.thaw()

    async def _crash(self, fault: Fault) -> None:
        """Only one crash at a time."""
        if self._crashing:
            return
        self._crashing = True
        self._target.kill()
        self._network.connect_fault = ConnectFault.REFUSE
        pause_s = fault.duration_ms / 1000
        if fault.kind is FaultKind.OTHER_HOST:
            self._write_from_elsewhere()
        elif fault.kind is not FaultKind.CRASH:
            await trio.sleep(pause_s / 4)
            impostor = fault.kind is FaultKind.IMPOSTOR
            self._network.connect_fault = None
            self._target.start(self._listener, impostor=impostor, remapped=not impostor)
            await trio.sleep(pause_s)
            self._target.kill()
            self._network.connect_fault = ConnectFault.REFUSE
        await trio.sleep(pause_s / 2)
        self._network.connect_fault = None
        self._target.start(self._listener)
        self._crashing = False

    def _write_from_elsewhere(self) -> None:
        """Another host writes to LBAs that an unaligned write of ours shares with it.

        Not to the very cells: who shares those has to agree on more than a protocol.  And not where
        any cache is volatile, which a controller says of all its namespaces at once: there the
        hand that looks after losses would take it for one, and write over it.
        """
        if any(medium.volatile for medium in self._target.media):
            return
        per_lba = {medium.number: medium.lba_bytes // CELL_BYTES for medium in self._target.media}
        for record in [each for each in self._pending if each.kind is OpKind.WRITE]:
            medium = self._target.media[record.namespace]
            cells = per_lba[medium.number]
            end = record.start + record.cells
            for start, stop in (
                (record.start - record.start % cells, record.start),
                (end, end + -end % cells),
            ):
                op = Op(OpKind.WRITE, record.namespace, start, stop - start)
                if start == stop:
                    continue
                ours = Record(0, op.kind, op.namespace, start, op.cells, fua=False, invoked=0)
                if any(ours.overlaps(other) for other in self._pending):
                    continue
                theirs = self.history.invoke(op)
                data = content(medium.number, theirs.value, start, op.cells)
                medium.put_cells(start * CELL_BYTES, data)
                self.history.respond(theirs)
                self.counts["writes of another host"] += 1
