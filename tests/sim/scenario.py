"""Runs one plan: the whole host against the whole target, in virtual time."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import attrs
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from nvmf_host.config import ConnectParams
from nvmf_host.host import open_host
from nvmf_host.launch import Launch
from nvmf_host.namespace import Namespace
from nvmf_host.state import ControllerState
from nvmf_transport import status as st
from nvmf_transport.errors import (
    CommandError,
    NamespaceGoneError,
    NotConnectedError,
    NvmfError,
)
from nvmf_transport.interfaces import register
from nvmf_transport.wire import Buffer
from tests.host.hosting import IDENTITY

from .flight import Flight
from .hands import Hands
from .history import NEVER, History, Record, content, values_of
from .network import SimNetwork
from .oracle import find_fault
from .plan import CELL_BYTES, SMALL_LBAS, FaultKind, Op, OpKind, Plan
from .striking import Striking
from .target import ADDRESS, SUBNQN, Target

#: Nothing may wait longer than this once the network and the target are well again.
_PATIENCE_S: Final = 120.0
#: What the log may say of errors, where a plan has them.
_LOSS_TIMEOUT: Final = "(controller loss timeout)"


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
    if plan.loss_timeout_ms is not None:
        logged = [text for text in logged if _LOSS_TIMEOUT not in text]
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
            fast_io_fail_s=_seconds(plan.fast_io_fail_ms),
            ctrl_loss_tmo_s=_seconds(plan.loss_timeout_ms),
            replay_limit_s=_seconds(plan.replay_limit_ms) or 600.0,
        ).checked()
        self._pending: set[Record] = set()
        self._answered_at: dict[int, float] = {}
        self._shrinks = any(fault.kind is FaultKind.SHRINK for fault in plan.faults)

    async def main(self) -> None:
        """The scenario from its first connection to its last ghost."""
        started = trio.current_time()
        register(self._network)
        async with self._network.listen(ADDRESS) as listener, trio.open_nursery() as world:
            target = Target(self.plan, self._network, world, self.history, self.counts)
            target.start(listener)
            self._target = target
            self._strikes = Striking(
                plan=self.plan,
                network=self._network,
                target=target,
                listener=listener,
                world=world,
                history=self.history,
                counts=self.counts,
                pending=self._pending,
                use_growth=self._use_growth,
            )
            async with open_host(identity=IDENTITY) as host:
                hands = self._hands = Hands(
                    plan=self.plan,
                    params=self._params,
                    network=self._network,
                    target=target,
                    history=self.history,
                    counts=self.counts,
                    host=host,
                )
                await hands.connect()
                host.subscribe(hands.watch)
                target.pace.host_is_back = lambda: hands.controller.state is ControllerState.LIVE
                target.pace.refusal = hands.refusal
                await self._live()
            world.cancel_scope.cancel()
        self.virtual_s = trio.current_time() - started

    async def _live(self) -> None:
        self.counts["namespaces"] += len(self._hands.controller.namespaces)
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            nursery.start_soon(self._hands.operate)
            async with trio.open_nursery() as faults:
                for fault in self.plan.faults:
                    faults.start_soon(self._strikes.strike, fault)
                async with trio.open_nursery() as workers:
                    for ops in self.plan.workers:
                        workers.start_soon(self._work, ops)
                    await self._watch(workers, faults)
            await self._look_at_the_end()
            nursery.cancel_scope.cancel()

    async def _watch(self, workers: trio.Nursery, faults: trio.Nursery) -> None:
        """Sees to it that everything ends, once nothing is wrong any more."""
        last = max((fault.at_ms + fault.duration_ms for fault in self.plan.faults), default=0)
        await trio.sleep(last / 1000 + 0.001)
        self._network.traps.clear()
        with trio.move_on_after(last / 1000 + _PATIENCE_S) as scope:
            while self._strikes.striking:  # noqa: ASYNC110
                await trio.sleep(0.1)
        with trio.move_on_after(_PATIENCE_S) as scope:
            while self._pending or workers.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.25)
        if scope.cancelled_caught:
            waiting = sorted(self._pending, key=lambda record: record.value)
            self.history.faults.append(f"it waits for ever: {waiting[:3]}")
            workers.cancel_scope.cancel()
        faults.cancel_scope.cancel()

    async def _look_at_the_end(self) -> None:
        """Reads all, after the last ghost has landed."""
        if self.history.faults:
            return
        await trio.sleep(self._target.pace.fence_s + 2 * self.plan.kato_s)
        for index, medium in enumerate(self._target.media):
            size = medium.size_bytes // CELL_BYTES
            await self._perform(Op(OpKind.READ, index, 0, size), {})

    # Callers.

    async def _present(self, index: int) -> Namespace:
        """The namespace; a controller that was given up is connected again by a hand."""
        while True:
            namespace = self._hands.controller.namespaces.get(index + 1)
            if namespace is not None:
                return namespace
            await trio.sleep(0.05)

    async def _work(self, ops: tuple[Op, ...]) -> None:
        #: Of each namespace's losses, those that this opener has been told of.
        told: dict[Namespace, int] = {}
        for op in ops:
            await trio.sleep(op.think_ms / 1000)
            await self._perform(op, told)

    async def _use_growth(self, size_bytes: int, op: Op) -> None:
        """The host must find the growth by itself, and then use all of it."""
        with trio.move_on_after(_PATIENCE_S):
            while True:
                namespace = await self._present(op.namespace)
                if namespace.size_bytes >= size_bytes:
                    self.counts["growth used"] += 1
                    await self._perform(op, {})
                    return
                await trio.sleep(0.05)
        self.history.faults.append("a growth was not noticed")

    async def _perform(self, op: Op, told: dict[Namespace, int]) -> None:
        namespace = await self._present(op.namespace)
        record = self.history.invoke(op)
        record.invoked_at = trio.current_time()
        self._pending.add(record)
        patience_s = float("inf") if op.patience_ms is None else op.patience_ms / 1000
        scope = trio.move_on_after(patience_s)
        try:
            with scope:
                await self._call(namespace, op, record, told)
                if record.returned == NEVER:
                    self._respond(record)
        except NvmfError as error:
            if not self._may_fail(record, namespace, error):
                self.history.faults.append(f"{record} failed: {error!r}")
        if record.returned == NEVER:
            self.history.leave(record)
            record.cancelled = scope.cancelled_caught
            self.counts["callers killed"] += record.cancelled
        self._pending.discard(record)

    def _respond(self, record: Record) -> None:
        self.history.respond(record)
        self._answered_at[record.namespace] = trio.current_time()

    def _may_fail(self, record: Record, namespace: Namespace, error: NvmfError) -> bool:
        """What a failed change has done is unknown: it may land now, later, or never."""
        plan = self.plan
        # Whoever was answered saw the namespace live: its outage is no older than that.  Another
        # one may be live while this one, which came back with another identity, fails as before.
        answered_at = self._answered_at.get(record.namespace, 0.0)
        lasted_ms = 1000 * (trio.current_time() - answered_at) + 0.001
        match error:
            case NotConnectedError() if plan.fast_io_fail_ms is not None:
                self.counts["failed fast"] += 1
                return lasted_ms >= plan.fast_io_fail_ms
            case NamespaceGoneError() if plan.loss_timeout_ms is not None:
                self.counts["failed by the loss timeout"] += 1
                return lasted_ms >= plan.loss_timeout_ms
            case CommandError() if self._shrinks and error.status.code == st.LBA_OUT_OF_RANGE.code:
                end = (record.start + record.cells) * CELL_BYTES
                self.counts["beyond the end"] += 1
                return end > SMALL_LBAS * namespace.lba_bytes
            case _:
                return False

    async def _call(
        self, namespace: Namespace, op: Op, record: Record, told: dict[Namespace, int]
    ) -> None:
        offset, length = op.start * CELL_BYTES, op.cells * CELL_BYTES
        lba = namespace.lba_bytes
        match record.kind:
            case OpKind.READ:
                launch = namespace.launch_read(offset, length, None) if op.launched else None
                if launch is not None:
                    self.counts["reads launched"] += 1
                    await self._fly(namespace, launch, op, record)
                    return
                self.counts["reads by a task"] += 1
                self._has_read(record, await namespace.read(offset, length))
            case OpKind.WRITE:
                if offset % lba or length % lba:
                    self.counts["unaligned writes"] += 1
                data = content(op.namespace + 1, record.value, op.start, op.cells)
                launch = None
                if op.launched:
                    launch = namespace.launch_write(offset, data, None, fua=op.fua)
                if launch is not None:
                    self.counts["writes launched"] += 1
                    await self._fly(namespace, launch, op, record)
                    return
                self.counts["writes by a task"] += 1
                await namespace.write(offset, data, fua=op.fua)
            case OpKind.FLUSH:
                await namespace.flush()
                # An fsync that spans a loss fails, once for each opener; see `fusedev`.
                record.failed = namespace.losses != told.get(namespace, 0)
                told[namespace] = namespace.losses
            case OpKind.WRITE_ZEROES:
                await namespace.write_zeroes(offset // lba, length // lba, fua=op.fua)
            case OpKind.DEALLOCATE:
                await namespace.deallocate([(offset // lba, length // lba)])

    async def _fly(self, namespace: Namespace, launch: Launch, op: Op, record: Record) -> None:
        await Flight(
            namespace=namespace,
            launch=launch,
            tasks=self._tasks,
            late_s=op.late_ms / 1000,
            answer=partial(self._has_landed, record, launch),
            accuse=self.history.faults.append,
            counts=self.counts,
        ).end()

    def _has_landed(self, record: Record, launch: Launch) -> None:
        if record.kind is OpKind.READ:
            self._has_read(record, launch.data)
        self._respond(record)

    def _has_read(self, record: Record, read: Buffer) -> None:
        data = bytes(read)
        if len(data) != record.cells * CELL_BYTES:
            self.history.faults.append(f"{record}: {len(data)} bytes")
        record.values = values_of(record.namespace + 1, data, record.start)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
