"""Listeners and connections: every connection is a task, until its last command."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs
import trio

from nvmf_transport.address import Address
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import (
    CommandError,
    DataDigestError,
    NvmfError,
    RemoteProtocolError,
    TransportError,
)
from nvmf_transport.fabrics import ConnectData
from nvmf_transport.interfaces import (
    ADMIN_IN_CAPSULE_BYTES,
    ControllerQueuePair,
    ControllerQueueParams,
    Endpoint,
    IncomingConnection,
    Listener,
    Transport,
)
from nvmf_transport.nvme import ADMIN_QID
from nvmf_transport.status import DATA_TRANSFER_ERROR
from nvmf_transport.wire import Buffer

from .admin import AdminQueue
from .association import Association
from .connect import (
    ConnectRefusedError,
    ConnectRequest,
    check_command,
    check_data,
    claim_controller,
    find_association,
    find_subsystem,
)
from .discovery import DiscoverySubsystem, Portal
from .faults import FaultPlan, Faults
from .io_commands import IoQueue
from .misbehaviour import FaultyQueuePair, keep_time, meet
from .queue import Queue
from .statistics import StatisticsSnapshot
from .subsystem import NvmSubsystem, Subsystem

_log = logging.getLogger(__name__)

#: For each of: the transport's initialisation, and the CONNECT command after it.
_HANDSHAKE_S: Final = 10.0
#: How long a host that was refused may take to close its connection.
_REFUSED_LINGER_S: Final = 1.0
#: Descriptors or memory ran out: wait, or accept spins.
_ACCEPT_RETRY_S: Final = 0.1
#: How long commands under way may take when the server ends.
_END_S: Final = 8.0


@attrs.frozen(kw_only=True)
class ServerConfig:
    """What the server allows on new connections."""

    header_digest: bool = True
    data_digest: bool = True
    #: The most data in one H2CData PDU.
    maxh2cdata_bytes: int = 256 * 1024


class Server:
    """A subsystem and the discovery subsystem, served over one transport.  Made by `serve`."""

    def __init__(
        self,
        transport: Transport,
        subsystem: NvmSubsystem,
        config: ServerConfig,
        faults: Faults | None = None,
    ) -> None:
        self.subsystem = subsystem
        #: The fault plan at work.
        self.faults = faults
        self.discovery = DiscoverySubsystem(transport.trtype)
        #: Where the subsystem is served, and where discovery alone was asked for.
        self.endpoints: tuple[Endpoint, ...] = ()
        self.discovery_endpoints: tuple[Endpoint, ...] = ()
        limits = subsystem.config
        self._params = ControllerQueueParams(
            header_digest=config.header_digest,
            data_digest=config.data_digest,
            maxh2cdata_bytes=config.maxh2cdata_bytes,
            in_capsule_bytes=max(ADMIN_IN_CAPSULE_BYTES, limits.in_capsule_bytes),
            max_transfer_bytes=limits.max_transfer_bytes,
            may_misbehave=faults is not None,
        )

    @property
    def statistics(self) -> StatisticsSnapshot:
        """What the subsystem has served."""
        return self.subsystem.statistics.snapshot()

    @property
    def associations(self) -> list[Association]:
        """All associations, those that are draining and those with discovery included."""
        return self.subsystem.associations + self.discovery.associations

    def find(self, nqn: str) -> Subsystem | None:
        """The subsystem of this name."""
        return next((s for s in (self.subsystem, self.discovery) if s.nqn == nqn), None)

    async def accept_from(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Serves every connection of a listener; a task that ends only by being cancelled."""
        while True:
            try:
                connection = await listener.accept()
            except OSError as error:
                _log.error("accept: %s", error)
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: IncomingConnection) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await self._serve_queue(connection, nursery)
        except Exception:  # noqa: BLE001 - one connection's bug must not end the others.
            _log.exception("%s", connection.peer)

    async def _serve_queue(self, connection: IncomingConnection, nursery: trio.Nursery) -> None:
        faults = self.faults
        try:
            if faults is not None and not await meet(connection, self.subsystem, faults):
                return
            async with connection.establish(self._params, timeout_s=_HANDSHAKE_S) as qpair:
                if faults is not None:
                    await self._serve_faulty(qpair, faults, nursery)
                    return
                queue = await self._connect(qpair)
                if queue is not None:
                    await queue.run(await nursery.start(queue.hold_commands))
        except TransportError as error:
            _log.info("%s: %s", connection.peer, error)
        except (NvmfError, OSError) as error:
            _log.error("%s: %s", connection.peer, error)

    async def _serve_faulty(
        self, qpair: ControllerQueuePair, faults: Faults, nursery: trio.Nursery
    ) -> None:
        faulty = FaultyQueuePair(qpair, faults, nursery)
        try:
            queue = await self._connect(faulty)
            if queue is not None:
                faulty.bind(queue)
                await queue.run(await nursery.start(queue.hold_commands))
        finally:
            faulty.close()

    async def _connect(self, qpair: ControllerQueuePair) -> Queue | None:
        with trio.move_on_after(_HANDSHAKE_S) as waiting:
            command = await qpair.receive()
        if waiting.cancelled_caught:
            _log.info("%s: no CONNECT in %.0f s", qpair.peer, _HANDSHAKE_S)
            return None
        try:
            return await self._answer_connect(qpair, command)
        except ConnectRefusedError as error:
            _log.warning("%s: CONNECT refused: %s", qpair.peer, error)
            status = error.status.to_field()
            qpair.transmit(ResponseCapsule(command.cid, status, error.result, sqhd=1))
        with trio.move_on_after(_REFUSED_LINGER_S):
            await qpair.receive()
        return None

    async def _answer_connect(self, qpair: ControllerQueuePair, command: ReceivedCommand) -> Queue:
        fields = check_command(command)
        data = ConnectData.unpack(await _data_of_connect(qpair, command))
        request = check_data(fields, data)
        subsystem = find_subsystem(request, self.find)
        if fields.qid == ADMIN_QID:
            queue = await self._admin_queue(qpair, request, subsystem)
        else:
            queue = IoQueue(
                find_association(request, subsystem),
                qpair,
                qid=fields.qid,
                entries=request.entries,
                sq_flow_control=request.sq_flow_control,
            )
            queue.association.add_queue(queue)
        qpair.configure(
            entries=request.entries,
            sq_flow_control=request.sq_flow_control,
            in_capsule_bytes=(
                ADMIN_IN_CAPSULE_BYTES
                if fields.qid == ADMIN_QID
                else subsystem.config.in_capsule_bytes
            ),
        )
        association = queue.association
        _log.info(
            "%s: queue %d of %s to %s, %d entries",
            qpair.peer,
            fields.qid,
            association,
            subsystem.nqn,
            request.entries,
        )
        sqhd = queue.sqhd if request.sq_flow_control else 0xFFFF
        qpair.transmit(ResponseCapsule(command.cid, 0, association.cntlid, sqhd))
        return queue

    async def _admin_queue(
        self, qpair: ControllerQueuePair, request: ConnectRequest, subsystem: Subsystem
    ) -> Queue:
        association = await claim_controller(
            request,
            subsystem,
            lambda cntlid: Association(
                subsystem,
                cntlid,
                hostid=request.data.hostid,
                hostnqn=request.data.hostnqn,
                kato_ms=request.command.kato,
                local=qpair.local,
                peer=qpair.peer,
            ),
        )
        queue = AdminQueue(
            association,
            qpair,
            qid=ADMIN_QID,
            entries=request.entries,
            sq_flow_control=request.sq_flow_control,
        )
        association.add_queue(queue)
        return queue

    async def end(self) -> None:
        """Ends every association and waits for its commands, within a limit; then flushes."""
        for association in self.associations:
            association.end("the server ends")
        with trio.move_on_after(_END_S, shield=True):
            for association in self.associations:
                await association.ended.wait()
        with trio.move_on_after(_END_S, shield=True):
            await self.subsystem.flush()


async def _data_of_connect(qpair: ControllerQueuePair, command: ReceivedCommand) -> Buffer:
    try:
        if command.in_capsule_data is not None:
            return await qpair.receive_data(command)
        # Hosts send it in the capsule.  One that does not is asked for it, and `receive` drives
        # that transfer; no other command may come before the answer.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refuse_commands, qpair)
            with trio.fail_after(_HANDSHAKE_S):
                data = await qpair.receive_data(command)
            nursery.cancel_scope.cancel()
            return data
    except (DataDigestError, CommandError) as error:
        raise ConnectRefusedError(DATA_TRANSFER_ERROR, f"data: {error}") from None
    except BaseExceptionGroup as group:
        # Not `except*`: CPython before 3.11.4 wraps what is raised there in a group again.
        refused, others = group.split((DataDigestError, CommandError))
        if refused is not None and others is None:
            why = f"data: {refused.exceptions[0]}"
            raise ConnectRefusedError(DATA_TRANSFER_ERROR, why) from None
        lost, others = group.split((trio.TooSlowError, TransportError))
        if lost is None or others is not None:
            raise
        raise RemoteProtocolError(f"CONNECT: {lost.exceptions[0]!r}") from group


async def _refuse_commands(qpair: ControllerQueuePair) -> None:
    command = await qpair.receive()
    raise RemoteProtocolError(f"opcode {command.sqe[0]:#x} before CONNECT was answered")


@asynccontextmanager
async def serve(
    transport: Transport,
    subsystem: NvmSubsystem,
    addresses: Sequence[Address],
    *,
    discovery_addresses: Sequence[Address] = (),
    config: ServerConfig | None = None,
    faults: FaultPlan | None = None,
) -> AsyncIterator[Server]:
    """Serves `subsystem` at `addresses`, and the discovery subsystem there and at its own.

    With `faults` it misbehaves as the plan says, over any transport whose controller's end can.

    Yields the `Server` once it accepts connections.  Leaving ends every association: commands that
    were accepted finish, then volatile caches are flushed.  The stores stay the caller's to close.
    Raises `ConfigError` where it cannot listen.
    """
    server = Server(
        transport,
        subsystem,
        config or ServerConfig(),
        None if faults is None else Faults(faults, started_at=trio.current_time()),
    )
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(transport.listen(a)) for a in addresses]
        for_discovery = [
            await stack.enter_async_context(transport.listen(a)) for a in discovery_addresses
        ]
        server.endpoints = tuple(e for one in listeners for e in one.endpoints)
        server.discovery_endpoints = tuple(e for one in for_discovery for e in one.endpoints)
        server.discovery.set_portals([Portal(subsystem.nqn, e) for e in server.endpoints])
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as accepting:
                if server.faults is not None:
                    for moment in server.faults.moments():
                        accepting.start_soon(keep_time, moment, subsystem, server.faults)
                for listener in (*listeners, *for_discovery):
                    accepting.start_soon(server.accept_from, listener, nursery)
                try:
                    yield server
                finally:
                    accepting.cancel_scope.cancel()
                    await server.end()
            nursery.cancel_scope.cancel()
