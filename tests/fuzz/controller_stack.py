"""The whole controller against a host that a fuzzer plays, with a well-behaved one beside it."""

import struct
from typing import Final

import attrs
import trio

from nvmf_controller import ControllerConfig, Namespace, RamDisk
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import TransportError
from nvmf_transport.fabrics import (
    DISCOVERY_NQN,
    ConnectCommand,
    ConnectData,
    FabricsType,
    PropertySetCommand,
)
from nvmf_transport.interfaces import HostQueueParams
from nvmf_transport.loop_ends import LoopConnection
from nvmf_transport.loop_pipe import (
    CommandMessage,
    ControllerData,
    Ended,
    HostData,
    ReadyToTransfer,
)
from nvmf_transport.nvme import AdminOpcode, FeatureId, NvmOpcode, Property, SglId, SubmissionEntry
from nvmf_transport.wire import Buffer
from tests.controller.raw_host import ENABLED, HOSTID, HOSTNQN, SUBNQN, Queue, Target, target

from .clock import run
from .source import Source

_LIMIT_S: Final = 100_000
#: However long a command may take here, it has its answer, or its connection is gone.
_ANSWER_S: Final = 600.0
_DISK_BYTES: Final = 1 << 16
_MEMORY_BYTES: Final = 1 << 18
_MAX_TRANSFER_BYTES: Final = 1 << 16
_QUEUES: Final = 4
_ADMIN: Final = (*(int(code) for code in AdminOpcode), 0x7F, 0x7F, 0xC1, 0x0D)
_IO: Final = (*(int(code) for code in NvmOpcode), 1, 2, 1, 0x7F, 0x0D)
_MARK: Final = b"untouched" * 57


class _WaitingDisk(RamDisk):
    """A RAM disk whose operations take time, as a file's do."""

    inline = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(_DISK_BYTES)
        self.volatile_cache = True

    async def read(self, offset: int, length: int) -> bytes:
        await self._take_time()
        return self.read_now(offset, length)

    async def write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        await self._take_time()
        await super().write(offset, data, fua=fua)

    async def flush(self) -> None:
        await self._take_time()

    async def _take_time(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)


@attrs.define(eq=False)
class _HostileQueue:
    """One connection, and what is known of the commands that were sent on it."""

    qpair: LoopConnection
    #: CID -> the opcode, of commands without an answer; None where two have the same CID.
    owed: dict[int, int | None] = attrs.field(factory=dict)
    #: R2Ts that were not answered yet: CID -> length of the data.
    asked: dict[int, int] = attrs.field(factory=dict)
    lengths: dict[int, int] = attrs.field(factory=dict)
    admin: bool = True
    cntlid: int = 0
    dead: bool = False

    @property
    def memory_bytes(self) -> int:
        """What the controller promised to take."""
        return 0 if self.dead else sum(self.asked.values())


class _Host:
    """The host that a fuzzer plays."""

    def __init__(self, source: Source, t: Target, nursery: trio.Nursery) -> None:
        self.source = source
        self.target = t
        self.nursery = nursery
        self.queues: list[_HostileQueue] = []
        self.cntlid = 0xFFFF

    async def play(self) -> None:
        """Everything that the source says."""
        await self._open()
        while self.source:
            source = self.source
            queue = source.pick(self.queues)
            match source.below(16):
                case 0 if len(self.queues) < _QUEUES:
                    await self._open()
                case 1:
                    await trio.sleep(source.pick((0.01, 0.0, 1.0, 130.0)))
                case 2 | 3 | 4:
                    self._pay(queue)
                case 5 if source.one_in(4):
                    queue.qpair.cut()
                case 6:
                    self._pay(queue, unasked=True)
                case 7:
                    self._send(queue, ConnectCommand(qid=source.below(5)).pack())
                case _:
                    self._command(queue)
            if source.flag():
                await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """Gives what was asked for; then every command is answered, or its queue has ended."""
        for _ in range(100):
            await trio.sleep(0.2)
            for queue in self.queues:
                while queue.asked and not queue.dead:
                    self._pay(queue)
        for queue in self.queues:
            late = {cid: opcode for cid, opcode in queue.owed.items() if opcode is not None}
            if not queue.dead:
                waiting = set(late.values()) - {int(AdminOpcode.ASYNC_EVENT_REQUEST)}
                assert not (queue.admin and waiting), f"opcodes without an answer: {waiting}"
                assert queue.admin or not late, f"opcodes without an answer: {late}"

    # Connections.

    async def _open(self) -> None:
        """A connection, mostly with a good CONNECT."""
        source = self.source
        ready = trio.Event()
        self.nursery.start_soon(self._converse, ready)
        await ready.wait()
        queue = self.queues[-1]
        qid = 0 if len(self.queues) == 1 else source.below(4)
        fields = {"qid": qid, "sqsize": 31, "kato": 0}
        data = {"cntlid": 0xFFFF if qid == 0 else self.cntlid, "subnqn": SUBNQN}
        queue.admin = qid == 0
        if source.one_in(4):
            name, bits = source.pick(
                (("recfmt", 16), ("qid", 16), ("sqsize", 16), ("cattr", 8), ("kato", 32))
            )
            fields[name] = source.number(bits, 1, 120_000)
        if source.one_in(6):
            data["cntlid"] = source.number(16, 1, 2)
        if source.one_in(8):
            data["subnqn"] = source.pick((DISCOVERY_NQN, "", "nqn.x", "ä" * 100))
        hostid = bytes(16) if source.one_in(8) else b"hostile hostile!"
        payload = ConnectData(hostid=hostid, hostnqn=HOSTNQN, **data).pack()  # type: ignore[arg-type]
        self._send(queue, ConnectCommand(**fields).pack(), source.mutated(payload, 8))
        await trio.sleep(0.001)
        if qid == 0 and not source.one_in(8):
            cc = PropertySetCommand(ofst=Property.CC, value=ENABLED.value)
            self._send(queue, cc.pack(), cid=1)
            number = SubmissionEntry(
                opc=AdminOpcode.SET_FEATURES, cdw10=FeatureId.NUMBER_OF_QUEUES, cdw11=0x30003
            )
            self._send(queue, number.pack(), cid=2)
            await trio.sleep(0.001)

    async def _converse(self, ready: trio.Event) -> None:
        transport = self.target.transport
        deadline = trio.current_time() + 100
        try:
            async with transport.connect(
                self.target.endpoint, HostQueueParams(), deadline=deadline
            ) as qpair:
                connection = next(each for each in transport.connections if each.host is qpair)
                queue = _HostileQueue(connection)
                self.queues.append(queue)
                ready.set()
                try:
                    await self._listen(queue)
                except TransportError:
                    queue.dead = True
        finally:
            assert ready.is_set(), "a connection that the server did not take"

    async def _listen(self, queue: _HostileQueue) -> None:
        """Takes the messages themselves: a host's end would judge them."""
        pipe, host = queue.qpair.to_host, queue.qpair.host
        while True:
            message = pipe.take()
            match message:
                case None if host.error is not None:
                    raise host.error
                case None:
                    await pipe.arrived.park()
                case ResponseCapsule(cid=cid, status=status, result=result):
                    self._answered(queue, cid)
                    if not status and cid == 0 and queue.admin and not queue.cntlid:
                        queue.cntlid = self.cntlid = result & 0xFFFF
                case ReadyToTransfer(cid):
                    assert cid in queue.owed, "an R2T for a command that was not sent"
                    queue.asked[cid] = queue.lengths[cid]
                    promised = sum(each.memory_bytes for each in self.queues)
                    # CONNECT's data, and that of a DSM, is asked for besides.
                    rest = sum(len(each.owed) for each in self.queues) * 4096
                    limit = _MEMORY_BYTES * len(self.queues) + rest
                    assert promised <= limit, "promises of memory without a bound"
                case ControllerData(cid, data, success):
                    assert sum(len(piece) for piece in data) <= _MAX_TRANSFER_BYTES
                    if success:
                        self._answered(queue, cid)
                case Ended(error):
                    raise error
                case _:
                    raise AssertionError(message)

    def _answered(self, queue: _HostileQueue, cid: int) -> None:
        assert cid in queue.owed, "an answer to no command"
        if queue.owed[cid] is not None:
            del queue.owed[cid]
        queue.asked.pop(cid, None)

    # Commands.

    def _send(
        self,
        queue: _HostileQueue,
        sqe: bytes,
        data: bytes | None = None,
        *,
        cid: int = 0,
        asks_bytes: int = 0,
    ) -> None:
        """Puts a command on the wire.

        That a CID is not used twice at a time, and that the SGL is true, is what a transport sees
        to (`controller_connection` is about that); all else is as the fuzzer has it.
        """
        if cid in queue.owed or len(queue.owed) >= 31:
            return
        entry = bytearray(sqe)
        struct.pack_into("<H", entry, 2, cid)
        length = len(data) if data is not None else asks_bytes
        sgl = SglId.DATA_BLOCK_OFFSET if data is not None else SglId.TRANSPORT_DATA_BLOCK
        entry[1] = entry[1] & 0x3F | 0x40
        struct.pack_into("<QI3xB", entry, 24, 0, length, sgl)
        queue.owed[cid] = entry[0]
        queue.lengths[cid] = length
        spoiled = data is not None and self.source.one_in(16)
        queue.qpair.to_controller.send(CommandMessage(bytes(entry), cid, data, spoiled))

    def _command(self, queue: _HostileQueue) -> None:
        """An SQE of which the opcode is known, and what follows is near what it should be."""
        source = self.source
        opcode = source.pick(_ADMIN if queue.admin else _IO)
        blocks = source.pick((1, 8, 1, 128, 256))
        fields = {
            "nsid": source.number(32, 1, 2, 1, 2, 0xFFFFFFFF),
            "cdw10": source.number(32, 0, 127, 1, 2, 6, 7, 0x00010004, 0x03FF0002, 0x0B),
            "cdw11": source.number(32, 0, 4, 0x30003, 0x100),
            "cdw12": source.number(32, blocks - 1, 1 << 30 | (blocks - 1)),
        }
        if source.one_in(8):
            fields[source.pick(("cdw13", "cdw14", "cdw15", "flags", "cdw2"))] = source.number(32)
            fields["flags"] = fields.get("flags", 0) & 0xFF
        sqe = bytearray(SubmissionEntry(opc=opcode, **fields).pack())
        if opcode == AdminOpcode.FABRICS:
            sqe[4] = source.pick((FabricsType.PROPERTY_GET, 0, 0, 4, 5, 8, source.integer(1)))
            sqe[40] = source.below(3)
            place = source.pick((Property.CC, Property.CSTS, Property.CAP, source.integer(4)))
            struct.pack_into("<IQ", sqe, 44, place, source.number(64, ENABLED.value, 0, 1, 0x4001))
        length = source.pick((blocks * 512, 4096, 16, 512, 0, blocks * 512))
        cid = source.below(40)
        if length and length <= 8192 and source.flag():
            self._send(queue, bytes(sqe), bytes(length), cid=cid)
        else:
            self._send(queue, bytes(sqe), cid=cid, asks_bytes=length)

    def _pay(self, queue: _HostileQueue, *, unasked: bool = False) -> None:
        """H2CData: all that was asked for; a transport sees to its length."""
        source = self.source
        if unasked:
            cid = source.below(40)
            length = queue.lengths.get(cid, 512)
        elif queue.asked:
            cid = source.pick(list(queue.asked))
            length = queue.asked.pop(cid)
        else:
            return
        queue.qpair.to_controller.send(HostData(cid, bytes(length), source.one_in(16)), length)


async def _check_neighbour(admin: Queue, io: Queue) -> None:
    """The well-behaved host notices nothing."""
    with trio.fail_after(60):
        status, data = await io.read(120, 2, nsid=3)
        assert status.ok, status
        assert data[: len(_MARK)] == _MARK
        assert (await admin.identify(1))[0].ok


async def _main(source: Source) -> None:
    config = ControllerConfig(
        memory_bytes=_MEMORY_BYTES, max_transfer_bytes=_MAX_TRANSFER_BYTES, max_queue_entries=64
    )
    namespaces = (
        Namespace(1, RamDisk(_DISK_BYTES)),
        Namespace(2, _WaitingDisk()),
        # Nobody but the neighbour can write to it: it is read-only for everybody by then.
        Namespace(3, RamDisk(_DISK_BYTES)),
    )
    async with target(*namespaces, config=config) as t:
        data = ConnectData(hostid=HOSTID, subnqn=SUBNQN, hostnqn=HOSTNQN)
        async with t.admin(data=data) as admin, t.io(admin, sqsize=31) as io:
            assert (await io.write(120, _MARK.ljust(1024, b"\0"), nsid=3)).ok
            namespaces[2].read_only = True
            async with trio.open_nursery() as nursery:
                host = _Host(source, t, nursery)
                await host.play()
                await host.finish()
                await _check_neighbour(admin, io)
                nursery.cancel_scope.cancel()
            await _check_neighbour(admin, io)
            for association in t.server.associations:
                if association is not t.association(admin):
                    with trio.fail_after(_ANSWER_S):
                        await association.ended.wait()
                    assert association.budget.used_bytes == 0
                    assert association.capsules.used_bytes == 0
            assert t.association(admin).budget.used_bytes == 0
            assert t.association(admin).capsules.used_bytes == 0


def check(data: bytes) -> None:
    """One input."""
    run(_main, Source(data), limit_s=_LIMIT_S)
