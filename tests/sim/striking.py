"""What goes wrong in a scenario: connections, targets, namespaces, another host."""

from collections import Counter
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
import trio

from nvmf_transport.interfaces import Listener
from nvmf_transport.loop import ConnectFault
from nvmf_transport.loop_ends import LoopConnection
from nvmf_transport.status import Status

from .history import History, Record, content
from .network import SimNetwork, Trap
from .plan import CELL_BYTES, GROWTH_LBAS, Fault, FaultKind, Op, OpKind, Outage, Plan, Queues
from .target import Target

_OUTAGES: Final = {
    Outage.NONE: None,
    Outage.REFUSE: ConnectFault.REFUSE,
    Outage.HANG: ConnectFault.HANG,
    Outage.SILENT: ConnectFault.SILENT,
}
_MAX_SPOILS: Final = 3
#: Command Interrupted: to be tried again.
_INTERRUPTED: Final = Status(0, 0x21)


@attrs.define(eq=False, kw_only=True)
class Striking:
    """Lets the faults of a plan strike."""

    plan: Plan
    network: SimNetwork
    target: Target
    listener: Listener
    #: Where what a message sets off goes on.
    world: trio.Nursery
    history: History
    counts: "Counter[str]"
    #: The calls that have not returned.
    pending: AbstractSet[Record]
    #: Uses LBAs of a namespace that it did not have before.
    use_growth: Callable[[int, Op], Awaitable[None]]
    #: Faults that are under way.
    striking: int = 0
    _crashing: bool = False
    _shrunk: int = 0

    async def strike(self, fault: Fault) -> None:
        """One fault, at its time."""
        await trio.sleep(fault.at_ms / 1000)
        if fault.on is None:
            await self._befall(fault, None)
            return

        def spring(connection: LoopConnection) -> None:
            # What strikes a connection strikes now, inside this message; all else a little later.
            if fault.kind in {FaultKind.CUT, FaultKind.DEAF}:
                self._break(fault, [connection])
            self.world.start_soon(self._befall, fault, connection)

        if fault.kind is FaultKind.REMAP:
            for connection in self.network.those(Queues.ALL):
                self.network.cut(connection)
        self.network.traps.append(Trap(fault.on, fault.queues, fault.nth + 1, spring))

    async def _befall(self, fault: Fault, connection: LoopConnection | None) -> None:
        self.striking += 1
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
                    if not self._crashing and self.target.swap():
                        await trio.sleep(fault.duration_ms / 1000 + 0.1)
                        # It may have been killed and started again in between.
                        if self.target.is_swapped:
                            self.target.swap()
                case FaultKind.SPOIL:
                    # A fourth in a row would rightly fail the command.
                    if self.counts[fault.kind.value] <= _MAX_SPOILS:
                        for each in self.network.those(fault.queues)[-1:]:
                            each.spoil_to_host += 1
                            each.spoil_to_controller += 1
                case FaultKind.STATUS:
                    for each in self.network.those(Queues.IO):
                        each.next_fault = _INTERRUPTED
                case FaultKind.GROW:
                    await self._grow()
                case FaultKind.SHRINK:
                    await self._shrink(fault)
        finally:
            self.striking -= 1

    def _break(self, fault: Fault, connections: list[LoopConnection]) -> None:
        self.target.linger(fault.linger)
        for connection in connections:
            if fault.kind is FaultKind.CUT:
                self.network.cut(connection)
            elif fault.kind is FaultKind.DEAF:
                self.network.deafen(connection)
            else:
                connection.freeze()

    async def _break_for_a_while(self, fault: Fault, broken: LoopConnection | None) -> None:
        connections = [broken] if broken is not None else self.network.those(fault.queues)
        if broken is None or fault.kind is FaultKind.FREEZE:
            self._break(fault, connections)
        if fault.outage is not Outage.NONE:
            self.network.connect_fault = _OUTAGES[fault.outage]
        await trio.sleep(fault.duration_ms / 1000)
        if self.target.up:
            self.network.connect_fault = None
        if fault.kind is not FaultKind.CUT:
            # What was sent long ago arrives only now: it lands soon, or not at all.
            self.target.pace.thawed_until = trio.current_time() + 2 * self.plan.kato_s
            # Without TBKAS the controller has noticed by then.
            late = not self.plan.tbkas and fault.duration_ms > 1000 * (self.plan.kato_s or 7)
            for connection in connections:
                if late:
                    connection.cut()
                connection.thaw()

    async def _crash(self, fault: Fault) -> None:
        """Only one crash at a time."""
        if self._crashing:
            return
        self._crashing = True
        self.target.kill()
        self.network.connect_fault = ConnectFault.REFUSE
        pause_s = fault.duration_ms / 1000
        if fault.kind is FaultKind.OTHER_HOST:
            self._write_from_elsewhere()
        elif fault.kind is not FaultKind.CRASH:
            await trio.sleep(pause_s / 4)
            impostor = fault.kind is FaultKind.IMPOSTOR
            self.network.connect_fault = None
            self.target.start(self.listener, impostor=impostor, remapped=not impostor)
            await trio.sleep(pause_s)
            self.target.kill()
            self.network.connect_fault = ConnectFault.REFUSE
        await trio.sleep(pause_s / 2)
        self.network.connect_fault = None
        self.target.start(self.listener)
        self._crashing = False

    def _write_from_elsewhere(self) -> None:
        """Another host writes to LBAs that an unaligned write of ours shares with it.

        Not to the very cells: who shares those has to agree on more than a protocol.  And not where
        any cache is volatile, which a controller says of all its namespaces at once: there the
        hand that looks after losses would take it for one, and write over it.
        """
        if any(medium.volatile for medium in self.target.media):
            return
        per_lba = {medium.number: medium.lba_bytes // CELL_BYTES for medium in self.target.media}
        for record in [each for each in self.pending if each.kind is OpKind.WRITE]:
            medium = self.target.media[record.namespace]
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
                if any(ours.overlaps(other) for other in self.pending):
                    continue
                theirs = self.history.invoke(op)
                data = content(medium.number, theirs.value, start, op.cells)
                medium.put_cells(start * CELL_BYTES, data)
                self.history.respond(theirs)
                self.counts["writes of another host"] += 1

    async def _grow(self) -> None:
        """Whoever has waited for the room uses it at once."""
        self.target.grow()
        async with trio.open_nursery() as nursery:
            for medium in self.target.media:
                cells = GROWTH_LBAS * medium.lba_bytes // CELL_BYTES
                start = medium.size_bytes // CELL_BYTES - cells
                for kind in (OpKind.WRITE, OpKind.READ):
                    op = Op(kind, medium.number - 1, start, cells)
                    nursery.start_soon(self.use_growth, medium.size_bytes, op)

    async def _shrink(self, fault: Fault) -> None:
        self._shrunk += 1
        self.target.shrink(small=True)
        await trio.sleep(fault.duration_ms / 1000 + 0.02)
        self._shrunk -= 1
        self.target.shrink(small=self._shrunk > 0)
