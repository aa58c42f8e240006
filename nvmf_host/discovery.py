"""Asking a discovery controller what there is (NVMe Base 2.1, sections 3.1.3.3 and 5.1.12.3.1).

`discover` asks one, `discover_all` also those that it refers to.  Each makes a connection of its
own and ends it in order; nothing is connected to, and nothing is kept.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio

from nvmf_transport.address import Address
from nvmf_transport.errors import (
    CommandError,
    HandshakeError,
    NvmfError,
    RemoteProtocolError,
    TransportError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.fabrics import (
    ADMIN_QUEUE_ENTRIES,
    CNTLID_DYNAMIC,
    DISCOVERY_NQN,
    DiscoveryLogEntry,
    DiscoveryLogHeader,
    SubsystemType,
)
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import Endpoint, HostQueuePair, HostQueueParams, Transport
from nvmf_transport.logs import LogId
from nvmf_transport.nqn import check_nqn
from nvmf_transport.status import DISCOVERY_RESTART

from . import admin
from .handshake import HANDSHAKE_S, Handshake, connect_queue, enable, shut_down
from .identity import HostIdentity
from .qpair import HostQueue

DISCOVERY_PORT: Final = 8009
#: A log with more records is refused: 10 MB, several times what anybody is known to have.
MAX_RECORDS: Final = 10_000
#: How often a log that changes while it is read is read again.
MAX_ATTEMPTS: Final = 8
#: How far referrals are followed, and to how many discovery controllers in all.
MAX_REFERRAL_DEPTH: Final = 4
MAX_CONTROLLERS: Final = 64
_RESTART_PAUSE_S: Final = 0.05
_SHUTDOWN_S: Final = 2.0
#: What a connection to a discovery controller is made with.
ADMIN_PARAMS: Final = HostQueueParams(entries=ADMIN_QUEUE_ENTRIES)

_Answer = tuple[int, tuple[DiscoveryLogEntry, ...], IdentifyController]


@attrs.frozen(kw_only=True)
class DiscoveryLog:
    """What one discovery controller said."""

    address: Address
    #: The address that answered, where `address` is a name.
    endpoint: Endpoint
    subnqn: str
    genctr: int
    entries: tuple[DiscoveryLogEntry, ...]
    controller: IdentifyController


@attrs.frozen
class ReferralFailure:
    """A referral that could not be followed."""

    address: str
    error: NvmfError


@attrs.frozen(kw_only=True)
class Discovery:
    """The logs of a discovery controller and of those that it refers to, the first one first."""

    logs: tuple[DiscoveryLog, ...]
    failures: tuple[ReferralFailure, ...]

    @property
    def subsystems(self) -> tuple[DiscoveryLogEntry, ...]:
        """The entries of NVM subsystems, each once, in the order in which they were found."""
        found = (entry for log in self.logs for entry in log.entries)
        return tuple(dict.fromkeys(e for e in found if e.subtype == SubsystemType.NVM))


async def discover(
    transport: Transport,
    address: Address,
    *,
    identity: HostIdentity,
    timeout_s: float = HANDSHAKE_S,
    params: HostQueueParams = ADMIN_PARAMS,
    subnqn: str = DISCOVERY_NQN,
) -> DiscoveryLog:
    """Reads the discovery log of the controller at `address` (port 8009 where there is none).

    `timeout_s` bounds the handshake, CAP.TO apart, and each piece of the log; `params` has digests
    and the host's own address.

    Raises `TransportError` with `step` (`UnreachableError` where nothing answers),
    `ConnectRejectedError`, `CommandError`; `RemoteProtocolError` also for a log in an unknown
    format or with more than `MAX_RECORDS` records, `HandshakeError` also for one that never stands
    still.
    """
    check_nqn(subnqn, "subnqn")
    if address.port is None:
        address = attrs.evolve(address, port=DISCOVERY_PORT)
    handshake = Handshake(timeout_s)
    with handshake.step("resolve"):
        endpoints = await transport.resolve(address, deadline=handshake.deadline)
    failure: TransportError = UnreachableError(f"{address}: no address found")
    for tried, endpoint in enumerate(endpoints):
        # A first address that swallows everything must leave time for the others.
        left_s = handshake.deadline - trio.current_time()
        deadline = trio.current_time() + left_s / (len(endpoints) - tried)
        try:
            async with transport.connect(endpoint, params, deadline=deadline) as qpair:
                answer = await _ask_over(qpair, params.entries, handshake, identity, subnqn)
        except UnreachableError as error:
            failure = error
        except TransportError as error:
            if error.field is None:
                error.field, error.value = "address", str(address)
            raise
        else:
            genctr, entries, controller = answer
            return DiscoveryLog(
                address=address,
                endpoint=endpoint,
                subnqn=subnqn,
                genctr=genctr,
                entries=entries,
                controller=controller,
            )
    raise failure


async def discover_all(
    transport: Transport,
    address: Address,
    *,
    identity: HostIdentity,
    timeout_s: float = HANDSHAKE_S,
    params: HostQueueParams = ADMIN_PARAMS,
    max_depth: int = MAX_REFERRAL_DEPTH,
    max_controllers: int = MAX_CONTROLLERS,
) -> Discovery:
    """Reads the log at `address`, then those of its referrals, and so on, each once.

    Raises what `discover` raises for `address` itself; what goes wrong with a referral is in
    `failures`.
    """
    ask = partial(discover, transport, identity=identity, timeout_s=timeout_s, params=params)
    logs = [await ask(address)]
    failures: list[ReferralFailure] = []
    seen = {(logs[0].address, logs[0].subnqn), (logs[0].endpoint.address, logs[0].subnqn)}
    to_read = deque((entry, 1) for entry in _referrals(logs[0]))
    asked = 1
    while to_read:
        entry, depth = to_read.popleft()
        try:
            target = _referral_target(transport, entry)
            if target in seen:
                continue
            seen.add(target)
            _check_reach(depth, max_depth, asked, max_controllers)
            asked += 1
            log = await ask(target[0], subnqn=target[1])
        except NvmfError as error:
            failures.append(ReferralFailure(f"{entry.traddr}:{entry.trsvcid}", error))
            continue
        logs.append(log)
        seen.add((log.endpoint.address, log.subnqn))
        to_read.extend((each, depth + 1) for each in _referrals(log))
    return Discovery(logs=tuple(logs), failures=tuple(failures))


def entry_address(entry: DiscoveryLogEntry, default_port: int | None = None) -> Address:
    """TRADDR and TRSVCID of an entry; raises `ConfigError` where they are not an address."""
    host = f"[{entry.traddr}]" if ":" in entry.traddr else entry.traddr
    text = f"{host}:{entry.trsvcid}" if entry.trsvcid else host
    return Address.parse(text, default_port=default_port, field="traddr")


def _referrals(log: DiscoveryLog) -> list[DiscoveryLogEntry]:
    return [entry for entry in log.entries if entry.subtype == SubsystemType.REFERRAL]


def _referral_target(transport: Transport, entry: DiscoveryLogEntry) -> tuple[Address, str]:
    if entry.trtype != transport.trtype:
        raise UnavailableError(
            f"a referral to transport type {entry.trtype}; only {transport.name} is followed",
            field="trtype",
            value=entry.trtype,
        )
    return entry_address(entry, DISCOVERY_PORT), entry.subnqn or DISCOVERY_NQN


def _check_reach(depth: int, max_depth: int, asked: int, max_controllers: int) -> None:
    if depth > max_depth:
        raise UnavailableError(
            f"not followed: {depth} referrals away, {max_depth} are followed; ask it directly"
        )
    if asked >= max_controllers:
        raise UnavailableError(
            f"not followed: {max_controllers} discovery controllers were asked; ask it directly"
        )


async def _ask_over(
    qpair: HostQueuePair, entries: int, handshake: Handshake, identity: HostIdentity, subnqn: str
) -> _Answer:
    queue = HostQueue(qpair, qid=0, entries=entries)
    answer: _Answer | None = None
    failure: NvmfError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, queue)
        # Carried past the nursery by hand, which would wrap it into a group.
        try:
            answer = await _ask(queue, handshake, identity, subnqn)
        except NvmfError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert answer is not None
    return answer


async def _run(queue: HostQueue) -> None:
    try:
        await queue.run()
    except TransportError as error:
        queue.kill(error)


async def _ask(
    queue: HostQueue, handshake: Handshake, identity: HostIdentity, subnqn: str
) -> _Answer:
    """One association with the discovery controller, start to end, on a fresh queue."""
    with handshake.step("CONNECT", cause=lambda: queue.error):
        # KATO 0: this takes seconds, and then nobody is there to keep anything alive.
        await connect_queue(
            queue,
            subnqn=subnqn,
            hostnqn=identity.nqn,
            hostid=identity.hostid,
            cntlid=CNTLID_DYNAMIC,
        )
    with handshake.step("enable", cause=lambda: queue.error):
        cap = await enable(queue, handshake, io_controller=False)
    with handshake.step("Identify Controller", cause=lambda: queue.error):
        controller = await admin.identify_controller(queue)
    reader = _LogReader(queue, handshake, _piece_bytes(controller, cap.mpsmin))
    genctr, entries = await reader.read()
    with suppress(NvmfError), trio.move_on_after(_SHUTDOWN_S):
        # The log is at hand: a controller that cannot be shut down in order is not worth an error.
        await shut_down(queue, _SHUTDOWN_S)
    return genctr, entries, controller


def _piece_bytes(controller: IdentifyController, mpsmin: int) -> int:
    """The most to read at a time: what MDTS allows (0: anything), in whole entries."""
    if controller.mdts == 0:
        return admin.LOG_PIECE_BYTES
    return min(admin.LOG_PIECE_BYTES, 1 << (12 + mpsmin + min(controller.mdts, 20)))


@attrs.frozen
class _LogReader:
    """Reads the log until GENCTR is the same before and after."""

    _queue: HostQueue = attrs.field(alias="queue")
    _handshake: Handshake = attrs.field(alias="handshake")
    _piece_bytes: int = attrs.field(alias="piece_bytes")

    async def read(self) -> tuple[int, tuple[DiscoveryLogEntry, ...]]:
        """Returns GENCTR and the entries."""
        why = ""
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                await trio.sleep(_RESTART_PAUSE_S * attempt)
            try:
                header = await self._header()
                entries = await self._entries(header.numrec)
                again = await self._header(last=True)
            except CommandError as error:
                if error.status.code != DISCOVERY_RESTART.code:
                    raise
                why = str(error)
                continue
            if again.genctr == header.genctr:
                return header.genctr, entries
            why = f"GENCTR went from {header.genctr} to {again.genctr}"
        failure = HandshakeError(
            f"the discovery log changed during each of {MAX_ATTEMPTS} attempts to read it ({why}); "
            "try again later"
        )
        failure.step = "discovery log"
        raise failure

    async def _header(self, *, last: bool = False) -> DiscoveryLogHeader:
        header = DiscoveryLogHeader.unpack(
            await self._get(0, DiscoveryLogHeader.SIZE, rae=not last)
        )
        if header.recfmt != 0:
            raise _broken(f"the discovery log has record format {header.recfmt}, only 0 is known")
        if header.numrec > MAX_RECORDS:
            raise _broken(
                f"a discovery log of {header.numrec} records; at most {MAX_RECORDS} are read"
            )
        return header

    async def _entries(self, count: int) -> tuple[DiscoveryLogEntry, ...]:
        entries: list[DiscoveryLogEntry] = []
        total_bytes = count * DiscoveryLogEntry.SIZE
        for start in range(0, total_bytes, self._piece_bytes):
            length_bytes = min(self._piece_bytes, total_bytes - start)
            piece = await self._get(DiscoveryLogHeader.SIZE + start, length_bytes, rae=True)
            entries += _unpacked(piece)
        return tuple(entries)

    async def _get(self, offset_bytes: int, length_bytes: int, *, rae: bool) -> bytearray:
        handshake = self._handshake
        handshake.deadline = max(handshake.deadline, trio.current_time() + handshake.limit_s)
        with handshake.step("discovery log", cause=lambda: self._queue.error):
            return await admin.get_log_page(
                self._queue,
                LogId.DISCOVERY,
                length_bytes,
                offset_bytes=offset_bytes,
                nsid=0,
                rae=rae,
            )


def _unpacked(piece: bytearray) -> Sequence[DiscoveryLogEntry]:
    size = DiscoveryLogEntry.SIZE
    return [DiscoveryLogEntry.unpack(piece, at) for at in range(0, len(piece), size)]


def _broken(text: str) -> RemoteProtocolError:
    error = RemoteProtocolError(text)
    error.step = "discovery log"
    return error
