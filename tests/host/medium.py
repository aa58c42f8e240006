"""A controller's I/O side for tests: queue pairs whose peer is the test, and a medium."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.fencing import Fence
from nvmf_host.io_path import IoPath
from nvmf_host.namespace import Namespace
from nvmf_host.qpair import HostQueue
from nvmf_host.scan import NamespaceDescription
from nvmf_host.state import NamespaceState
from nvmf_transport.address import Address
from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.errors import ConnectionLostError, TransportError
from nvmf_transport.fabrics import AddressFamily
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import Endpoint, QueuePairLimits
from nvmf_transport.nvme import DsmRange, NvmOpcode, SubmissionEntry
from nvmf_transport.status import Status

LBA_BYTES = 512
CHANGING = frozenset({NvmOpcode.WRITE, NvmOpcode.WRITE_ZEROES, NvmOpcode.DATASET_MANAGEMENT})
_ANY_END = Endpoint(Address("test", 1), AddressFamily.INTRA_HOST)


class FakeQueuePair:
    """The host's end of a qpair; what it transmits is in `sent` until it is answered."""

    def __init__(
        self,
        entries: int,
        max_transfer_bytes: int | None = None,
        arrived: trio.lowlevel.ParkingLot | None = None,
    ) -> None:
        self.limits = QueuePairLimits(max_transfer_bytes=max_transfer_bytes)
        self.local = self.peer = _ANY_END
        self.sent: list[CommandCapsule] = []
        #: Every capsule ever, in order.
        self.log: list[CommandCapsule] = []
        #: What each command was to write when it was sent.
        self._data: dict[CommandCapsule, bytes] = {}
        self._entries = entries
        self._arrived = trio.lowlevel.ParkingLot() if arrived is None else arrived
        self._push, self._pull = trio.open_memory_channel[ResponseCapsule | TransportError](1 << 20)

    def transmit(self, capsule: CommandCapsule) -> None:
        entry = SubmissionEntry.unpack(capsule.sqe)
        assert entry.cid == capsule.cid
        assert capsule.cid not in {other.cid for other in self.sent}, "a CID was used twice"
        assert len(self.sent) < self._entries - 1, "more commands than the queue holds"
        self.sent.append(capsule)
        self.log.append(capsule)
        if capsule.data_out is not None:
            self._data[capsule] = bytes(capsule.data_out)
        self._arrived.unpark_all()

    async def transmitted(self) -> None:
        """Waits until there is a command without an answer."""
        while not self.sent:
            await self._arrived.park()

    async def receive(self) -> ResponseCapsule:
        item = await self._pull.receive()
        if isinstance(item, TransportError):
            self._push.send_nowait(item)
            raise item
        return item

    def receive_nowait(self) -> ResponseCapsule | None:
        return None

    def answer(
        self,
        capsule: CommandCapsule | None = None,
        status: Status | None = None,
        *,
        digest_error: bool = False,
        data_bytes: int | None = None,
        result: int = 0,
        sqhd: int | None = None,
    ) -> None:
        """Completes a command (the oldest), as if all its data had been moved."""
        capsule = capsule or self.sent[0]
        self.sent.remove(capsule)
        written = self._data.pop(capsule, None)
        if written is not None:
            assert written == capsule.data_out, "the data changed before the completion"
        field = 0 if status is None else status.to_field()
        if data_bytes is None:
            data_bytes = len(capsule.data_in) if capsule.data_in is not None and not field else 0
        self.put(
            ResponseCapsule(
                capsule.cid,
                field,
                result,
                sqhd,
                data_bytes=data_bytes,
                digest_error=digest_error,
            )
        )

    def put(self, response: ResponseCapsule | TransportError) -> None:
        """Lets the host receive this."""
        self._push.send_nowait(response)


def lbas_of(capsule: CommandCapsule) -> list[tuple[int, int]]:
    """What a command touches, as (SLBA, LBAs)."""
    entry = SubmissionEntry.unpack(capsule.sqe)
    if entry.opc == NvmOpcode.DATASET_MANAGEMENT:
        assert capsule.data_out is not None
        ranges = memoryview(capsule.data_out)
        assert len(ranges) == DsmRange.SIZE * ((entry.cdw10 & 0xFF) + 1)
        found = [
            DsmRange.unpack(ranges[at : at + DsmRange.SIZE])
            for at in range(0, len(ranges), DsmRange.SIZE)
        ]
        return [(each.slba, each.length_lbas) for each in found]
    return [] if entry.opc == NvmOpcode.FLUSH else [(entry.slba, (entry.cdw12 & 0xFFFF) + 1)]


def opcode(capsule: CommandCapsule) -> NvmOpcode:
    return NvmOpcode(capsule.sqe[0])


class Medium:
    """LBAs in memory that commands are executed against."""

    def __init__(self, size_lbas: int, lba_bytes: int = LBA_BYTES) -> None:
        self.lba_bytes = lba_bytes
        self.size_lbas = size_lbas
        self.data = bytearray(size_lbas * lba_bytes)

    def execute(self, capsule: CommandCapsule) -> None:
        size = self.lba_bytes
        for slba, nlb in lbas_of(capsule):
            assert slba + nlb <= self.size_lbas, "past the end"
            there = slice(slba * size, (slba + nlb) * size)
            match opcode(capsule):
                case NvmOpcode.READ:
                    assert capsule.data_in is not None
                    assert len(capsule.data_in) == nlb * size
                    capsule.data_in[:] = self.data[there]
                case NvmOpcode.WRITE:
                    assert capsule.data_out is not None
                    assert len(capsule.data_out) == nlb * size
                    self.data[there] = capsule.data_out
                case NvmOpcode.WRITE_ZEROES | NvmOpcode.DATASET_MANAGEMENT:
                    self.data[there] = bytes(nlb * size)
                case other:
                    raise AssertionError(other)


def controller_data(**fields: int) -> IdentifyController:
    """A controller that offers everything; MDTS 0: no bound."""
    everything = IdentifyController.ONCS_DSM | IdentifyController.ONCS_WRITE_ZEROES
    return IdentifyController(**{"oncs": everything, "vwc": 1} | fields)  # type: ignore[arg-type]


def describe(nsid: int = 1, size_lbas: int = 64, **fields: object) -> NamespaceDescription:
    values: dict[str, object] = {
        "nsid": nsid,
        "lba_bytes": LBA_BYTES,
        "size_lbas": size_lbas,
        "uuid": bytes([nsid]) * 16,
    }
    return NamespaceDescription(**values | fields)  # type: ignore[arg-type]


@attrs.define(eq=False)
class Link:
    """The I/O queues of one association, and what the controller does with their commands."""

    queues: tuple[HostQueue, ...]
    pairs: tuple[FakeQueuePair, ...]
    arrived: trio.lowlevel.ParkingLot
    receiving: trio.CancelScope
    #: Lifted, so that nothing is left in quarantine; a test of that gives one that stands.
    fence: Fence = attrs.field(factory=lambda: Fence(1, lifted="the controller was reset"))

    @property
    def sent(self) -> list[CommandCapsule]:
        """Commands without an answer."""
        return [capsule for pair in self.pairs for capsule in pair.sent]

    async def transmitted(self) -> None:
        """Waits until there is a command without an answer, on any queue."""
        while not self.sent:
            await self.arrived.park()

    def path(
        self, controller: IdentifyController | None = None, *, noiob_lbas: int = 0, nsid: int = 1
    ) -> IoPath:
        return IoPath.make(
            self.queues,
            nsid,
            fence=self.fence,
            controller=controller or controller_data(),
            mpsmin=0,
            lba_bytes=LBA_BYTES,
            noiob_lbas=noiob_lbas,
        )

    def answer(
        self, capsule: CommandCapsule | None = None, status: Status | None = None, **fields: bool
    ) -> None:
        """Completes a command, the oldest of the first queue that has one."""
        capsule = capsule or self.sent[0]
        pair = next(pair for pair in self.pairs if capsule in pair.sent)
        pair.answer(capsule, status, **fields)

    def settle(self, medium: "Medium") -> None:
        """Executes and answers what has no answer, oldest first on each queue."""
        for capsule in self.sent:
            medium.execute(capsule)
            self.answer(capsule)

    def lose(self, namespace: Namespace) -> list[CommandCapsule]:
        """Ends the association in the order in which a controller does; returns what had no
        answer, for a ghost."""
        left = self.sent
        error = ConnectionLostError("the connection was cut")
        namespace.engine.hold(f"connection lost: {error}")
        # An answer that was not received yet is lost.
        self.receiving.cancel()
        for queue in self.queues:
            queue.kill(error)
        namespace.engine.lose_path()
        return left


@asynccontextmanager
async def open_link(
    queues: int = 1, entries: int = 32, max_transfer_bytes: int | None = None
) -> AsyncIterator[Link]:
    """Queues whose completions are received until the block ends."""
    arrived = trio.lowlevel.ParkingLot()
    pairs = tuple(FakeQueuePair(entries, max_transfer_bytes, arrived) for _ in range(queues))
    host = tuple(
        HostQueue(pair, qid=qid, entries=entries) for qid, pair in enumerate(pairs, start=1)
    )
    receiving = trio.CancelScope()

    async def receive(queue: HostQueue) -> None:
        try:
            await queue.run()
        except ConnectionLostError:
            assert queue.error is not None

    async def receive_all() -> None:
        with receiving:
            async with trio.open_nursery() as receivers:
                for queue in host:
                    receivers.start_soon(receive, queue)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all)
        yield Link(host, pairs, arrived, receiving)
        receiving.cancel()


def open_namespace(
    description: NamespaceDescription | None = None,
    *,
    read_only: bool = False,
    on_recheck: Callable[[Namespace, str], None] = lambda _namespace, _reason: None,
) -> Namespace:
    return Namespace(
        "nvme0ns1", description or describe(), read_only=read_only, on_recheck=on_recheck
    )


def pattern(value: int, length: int) -> bytes:
    return bytes([value]) * length


@attrs.define(eq=False)
class Outcome:
    """How a call ended, for a test that goes on while it runs."""

    value: Any = None
    error: BaseException | None = None
    done: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def cancelled(self) -> bool:
        return self.scope.cancelled_caught


def begin(nursery: trio.Nursery, call: Callable[..., Awaitable[Any]], *args: Any) -> Outcome:
    """Runs an async call in the background, and keeps how it ended."""
    outcome = Outcome()

    async def run() -> None:
        with outcome.scope:
            try:
                outcome.value = await call(*args)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                outcome.error = error
        outcome.done = True

    nursery.start_soon(run)
    return outcome


def sent(link: Link) -> list[tuple[str, int]]:
    """Commands without an answer, as (opcode, SLBA), in the order in which they were sent."""
    return [
        (opcode(capsule).name, SubmissionEntry.unpack(capsule.sqe).slba) for capsule in link.sent
    ]


def state_of(namespace: Namespace) -> NamespaceState:
    """Its state now: a function, or mypy takes the last look for granted."""
    return namespace.state


async def serve(link: Link, medium: Medium, randomness: random.Random | None = None) -> None:
    """Executes commands, in a random order where there is randomness."""
    while True:
        await wait_all_tasks_blocked()
        if not link.sent:
            await link.transmitted()
            continue
        capsule = randomness.choice(link.sent) if randomness else link.sent[0]
        medium.execute(capsule)
        link.answer(capsule)
