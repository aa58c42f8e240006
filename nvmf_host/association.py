"""An association: one admin queue and its I/O queues, which live and die together.

Each queue is one task, that connects it, receives on it and closes it.  The first failure of any
of them, or of Keep Alive, ends the association: `failed` is set once, whoever owns the association
sees to its end.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from nvmf_transport.errors import (
    CommandError,
    ConfigError,
    ConnectionLostError,
    NvmfError,
    TooFewQueuesError,
    TransportError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.fabrics import ADMIN_QUEUE_ENTRIES, DISCOVERY_NQN
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import (
    ADMIN_IN_CAPSULE_BYTES,
    Endpoint,
    HostQueueParams,
    Transport,
)
from nvmf_transport.nvme import ADMIN_QID, Cap, FeatureId, Property, Vs

from . import admin, command_age, events
from . import handshake as hs
from .config import DEFAULT_QUEUE_ENTRIES, ConnectParams
from .cross_reset import is_offered
from .fencing import Fence
from .groups import single_error
from .keepalive import keep_alive
from .qpair import HostQueue
from .verdict import SubsystemIdentity

log = logging.getLogger(__name__)

#: How long a half-made association may take to say good-bye.
_FAREWELL_S: Final = 1.0
_IO_STEP: Final = "connecting the I/O queues"
#: How long a controller may take to stop: at least so long, at most so long, else CAP.TO.
_STOP_AT_LEAST_S, _STOP_AT_MOST_S = 2.0, 15.0


class Association:
    """Made by `open_association`; every attribute is set by then."""

    endpoint: Endpoint
    admin: HostQueue
    cap: Cap
    version: Vs
    cntlid: int
    controller: IdentifyController
    #: Stands while the controller may execute what it was sent.
    fence: Fence

    def __init__(
        self, transport: Transport, params: ConnectParams, on_failed: Callable[[NvmfError], None]
    ) -> None:
        self.params = params
        self.io: tuple[HostQueue, ...] = ()
        #: As granted; 0 where there is no Keep Alive.
        self.kato_s = params.kato_s
        self.error: NvmfError | None = None
        #: True once the controller was seen to be reset or shut down.
        self.stopped = False
        self.failed = trio.Event()
        self._making: trio.CancelScope | None = None
        self._enabled = False
        self._transport = transport
        self._on_failed = on_failed

    @property
    def subsystem(self) -> SubsystemIdentity:
        """What tells this subsystem from another of the same name."""
        return SubsystemIdentity(self.params.subnqn, self.controller.sn, self.controller.mn)

    @property
    def queues(self) -> tuple[HostQueue, ...]:
        """All queues, the admin queue first."""
        return (self.admin, *self.io)

    def fail(self, error: NvmfError) -> None:
        """Ends the association.  Any context may call this, more than once."""
        if self.error is None:
            self.error = error
            # What a command fails with from now on may come of the end alone: it is as good as
            # unanswered, and done again.
            for queue in self.io:
                queue.ending = True
            # Before any command ends: what ends must find its namespace held.
            self._on_failed(error)
            self.failed.set()
            if self._making is not None:
                self._making.cancel()

    async def stop(self, *, orderly: bool) -> str | None:
        """Shuts the controller down, or resets it after a failure, where it still answers.

        Returns what went wrong, None where the controller was seen to do so.  The caller
        shields it from cancellation, with a limit of its own.
        """
        if self.admin.error is not None:
            return f"the controller could not be told: {self.admin.error}"
        limit_s = min(max(self.cap.timeout_s, _STOP_AT_LEAST_S), _STOP_AT_MOST_S)
        step = hs.shut_down if orderly else hs.disable
        what = "shutdown" if orderly else "reset"
        problem = f"{what} of the controller was not seen to complete within {limit_s:g} s"
        with trio.move_on_after(limit_s):
            try:
                await step(self.admin, limit_s)
            except NvmfError as error:
                problem = f"{what} of the controller: {error}"
            else:
                self.stopped = True
                if is_offered(self.controller):
                    # One that can be reset by others knows what it executes.  Linux's target shows
                    # RDY=0 while its disk still has a write: see `fencing`.
                    self.fence.lift(f"{what} of the controller was seen")
                return None
        return problem

    # Making it.

    async def establish(
        self, nursery: trio.Nursery, on_namespaces: Callable[[set[int] | None], None]
    ) -> None:
        """Goes through all steps up to armed events; raises `NvmfError` with the step."""
        handshake = hs.Handshake()
        try:
            with single_error(), trio.CancelScope() as self._making:
                self.endpoint, self.admin = await self._connect_admin(nursery, handshake)
                await self._set_up(nursery, handshake, on_namespaces)
            if self.error is not None:
                raise self.error
        except NvmfError as error:
            if isinstance(error, TransportError):
                error.step = error.step or handshake.step_name
            silent = handshake.expired and handshake.step_name != _IO_STEP
            if self._enabled and not silent:
                with trio.move_on_after(_FAREWELL_S, shield=True):
                    await self._say_farewell()
            raise
        finally:
            self._making = None

    async def _connect_admin(
        self, nursery: trio.Nursery, handshake: hs.Handshake
    ) -> tuple[Endpoint, HostQueue]:
        address = self.params.address
        handshake.step_name = "looking the address up"
        endpoints = await self._transport.resolve(address, deadline=handshake.deadline)
        handshake.step_name = "connecting"
        failure: UnreachableError | None = None
        for index, endpoint in enumerate(endpoints):
            now = trio.current_time()
            share_s = (handshake.deadline - now) / (len(endpoints) - index)
            serve = partial(self._serve_queue, endpoint, deadline=now + share_s, keep_one=True)
            try:
                queue = await nursery.start(
                    serve, ADMIN_QID, ADMIN_QUEUE_ENTRIES, ADMIN_IN_CAPSULE_BYTES
                )
            except UnreachableError as error:
                failure = error
            else:
                return endpoint, queue
        raise failure or UnreachableError(f"{address}: the name stands for no address")

    async def _set_up(
        self,
        nursery: trio.Nursery,
        handshake: hs.Handshake,
        on_namespaces: Callable[[set[int] | None], None],
    ) -> None:
        params, queue = self.params, self.admin
        step = partial(handshake.step, cause=lambda: self.error)
        with step("CONNECT of the admin queue"):
            connected = await self._connect(queue, params.cntlid, int(params.kato_s * 1000))
        self.cntlid = connected.cntlid
        with step("enabling the controller"):
            self._enabled = True
            self.cap = await hs.enable(queue, handshake, io_controller=True)
        with step("Property Get VS"):
            self.version = Vs(await hs.property_get(queue, Property.VS))
        with step("Identify Controller"):
            self.controller = await admin.identify_controller(queue)
        self._refuse_discovery()
        with step("Keep Alive Timer"):
            await self._read_kato()
        self.fence = Fence(
            cntlid=self.cntlid,
            ciu=self.controller.ciu,
            cirn=self.controller.cirn,
            kato_s=self.kato_s,
            traffic_based=bool(self.controller.tbkas),
            cqt_s=self.controller.cqt / 1000,
        )
        if self.kato_s:
            nursery.start_soon(self._keep_alive)
        nursery.start_soon(self._watch_age)
        with step("Number of Queues"):
            count = await self._queue_count()
        with step(_IO_STEP):
            self.io = await self._connect_io(nursery, handshake, count)
        with step("Asynchronous Event Configuration"):
            for _ in range(events.aer_count(self.controller)):
                # Not `start_soon`: they are to be armed before anything else is said.
                await nursery.start(events.listen, queue, self.controller, on_namespaces)
            await events.configure(queue, self.controller)

    def _refuse_discovery(self) -> None:
        # Controllers before 1.4 do not tell their type.
        kind = self.controller.cntrltype
        named = self.params.subnqn == DISCOVERY_NQN
        if kind == IdentifyController.TYPE_DISCOVERY or (named and not kind):
            raise UnavailableError(
                "a discovery subsystem, which has no namespaces; `nvmecontrol discover` lists the "
                "subsystems it knows",
                field="subnqn",
                value=self.params.subnqn,
            )

    async def _connect(self, queue: HostQueue, cntlid: int, kato_ms: int) -> hs.Connected:
        params = self.params
        return await hs.connect_queue(
            queue,
            subnqn=params.subnqn,
            hostnqn=params.identity.nqn,
            hostid=params.identity.hostid,
            cntlid=cntlid,
            kato_ms=kato_ms,
            sq_flow_control=params.flow_control,
        )

    async def _read_kato(self) -> None:
        try:
            granted_ms = await admin.get_features(self.admin, FeatureId.KEEP_ALIVE_TIMER)
        except CommandError as error:
            log.info("KATO is taken to be granted as asked: %s", error)
        else:
            # The controller rounds up to its granularity; a shorter time is not believed.
            if granted_ms and self.params.kato_s:
                self.kato_s = max(self.params.kato_s, granted_ms / 1000)

    async def _queue_count(self) -> int:
        wanted = self.params.wanted_io_queues
        granted = await admin.set_number_of_queues(self.admin, wanted)
        if granted < wanted and self.params.nr_io_queues is not None:
            raise TooFewQueuesError(
                f"the controller grants {granted} I/O queues; ask for no more, or leave it out",
                field="nr_io_queues",
                value=wanted,
            )
        return min(wanted, granted)

    async def _connect_io(
        self, nursery: trio.Nursery, handshake: hs.Handshake, count: int
    ) -> tuple[HostQueue, ...]:
        entries = self._io_entries()
        # IOCCSZ counts 16-byte units and includes the SQE; 0 is not valid for TCP.
        in_capsule_bytes = max(0, self.controller.ioccsz - 4) * 16
        bound = self.controller.maxcmd or None
        queues: dict[int, HostQueue] = {}

        async def connect(qid: int) -> None:
            serve = partial(
                self._serve_queue, self.endpoint, deadline=handshake.deadline, bound=bound
            )
            queue = await nursery.start(serve, qid, entries, in_capsule_bytes)
            await self._connect(queue, self.cntlid, 0)
            queues[qid] = queue

        with single_error():
            async with trio.open_nursery() as starters:
                for qid in range(1, count + 1):
                    starters.start_soon(connect, qid)
        return tuple(queues[qid] for qid in sorted(queues))

    def _io_entries(self) -> int:
        most = self.cap.mqes + 1
        asked = self.params.queue_size
        if asked > most:
            raise ConfigError(
                f"the controller allows {most} entries (CAP.MQES); give at most that",
                field="queue_size",
                value=asked,
            )
        return asked or max(2, min(most, DEFAULT_QUEUE_ENTRIES))

    async def _serve_queue(
        self,
        endpoint: Endpoint,
        qid: int,
        entries: int,
        in_capsule_bytes: int,
        *,
        deadline: float,
        bound: int | None = None,
        keep_one: bool = False,
        task_status: trio.TaskStatus[HostQueue],
    ) -> None:
        """One queue from its connection to its end."""
        params = self.params
        queue_params = HostQueueParams(
            entries=entries,
            in_capsule_bytes=in_capsule_bytes,
            header_digest=params.header_digests,
            data_digest=params.data_digests,
            host_traddr=params.host_traddr,
            host_iface=params.host_iface,
            peer_timeout_s=self.kato_s or None,
        )
        queue: HostQueue | None = None
        try:
            async with self._transport.connect(endpoint, queue_params, deadline=deadline) as qpair:
                queue = HostQueue(
                    qpair, qid=qid, entries=entries, max_outstanding=bound, keep_one=keep_one
                )
                task_status.started(queue)
                try:
                    await queue.run()
                except TransportError as error:
                    self.fail(error)
                    queue.kill(error)
                finally:
                    queue.kill()
        except TransportError as error:
            if queue is None:
                raise
            log.debug("closing queue %d: %s", qid, error)

    async def _watch_age(self) -> None:
        text = await command_age.watch(
            self.params.subnqn, lambda: self.queues, lambda: self.params.command_age_s
        )
        self.fail(ConnectionLostError(text))

    async def _keep_alive(self) -> None:
        await keep_alive(
            self.admin,
            lambda: self.queues,
            kato_s=self.kato_s,
            traffic_based=bool(self.controller.tbkas),
        )
        error = ConnectionLostError(
            f"no proof of life from the controller for {self.kato_s:g} s (KATO)"
        )
        self.fail(error)
        # Silent as it is, there is no point in telling it anything more.
        self.admin.kill(error)

    async def _say_farewell(self) -> None:
        if self.admin.error is None:
            try:
                await hs.shut_down(self.admin, _FAREWELL_S)
            except NvmfError as error:
                log.debug("leaving a half-made association: %s", error)


@asynccontextmanager
async def open_association(
    transport: Transport,
    params: ConnectParams,
    *,
    on_failed: Callable[[NvmfError], None],
    on_namespaces: Callable[[set[int] | None], None],
) -> AsyncIterator[Association]:
    """Makes an association up to armed events; leaving the block closes its sockets.

    The caller watches `failed`, and calls `stop` before it leaves.  `on_failed` is called once,
    synchronously, before any command ends because of it; `on_namespaces` with the NSIDs whose
    attributes changed, None for "any".
    """
    association = Association(transport, params, on_failed)
    with single_error():
        async with trio.open_nursery() as nursery:
            await association.establish(nursery, on_namespaces)
            try:
                yield association
            finally:
                nursery.cancel_scope.cancel()
