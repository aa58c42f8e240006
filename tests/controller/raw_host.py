"""A host that sends what it is told to: command by command, right or wrong."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nvmf_controller import (
    ControllerConfig,
    FaultPlan,
    Namespace,
    NvmSubsystem,
    RamDisk,
    Server,
    serve,
)
from nvmf_transport.address import Address
from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.errors import TransportError
from nvmf_transport.fabrics import (
    DISCOVERY_NQN,
    ConnectCommand,
    ConnectData,
    PropertyGetCommand,
    PropertySetCommand,
)
from nvmf_transport.interfaces import Endpoint, HostQueuePair, HostQueueParams
from nvmf_transport.loop import LoopTransport
from nvmf_transport.nvme import AdminOpcode, Cc, FeatureId, NvmOpcode, Property, SubmissionEntry
from nvmf_transport.status import Status
from tests.controller.stores import SlowStore

SUBNQN = "nqn.2024-01.org.example:disks"
HOSTNQN = "nqn.2024-01.org.example:host"
HOSTID = bytes(range(16))
ENABLED = Cc.of(en=1, iosqes=6, iocqes=4)


class Queue:
    """One qpair; `command` may be called by several tasks."""

    def __init__(self, qpair: HostQueuePair) -> None:
        self.qpair = qpair
        self._cid = 0
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, ResponseCapsule] = {}
        self.dead = trio.Event()
        self.error: TransportError | None = None
        self.cntlid = 0

    async def run(self) -> None:
        try:
            while True:
                response = await self.qpair.receive()
                self._answers[response.cid] = response
                self._waiting.setdefault(response.cid, trio.Event()).set()
        except TransportError as error:
            self.error = error
            self.dead.set()

    def send(self, sqe: bytes, *, write=None, read_bytes=0, cid=None):
        """Sends a command; returns its CID and the buffer for its data."""
        if cid is None:
            self._cid += 1
            cid = self._cid
        entry = bytearray(sqe)
        struct.pack_into("<H", entry, 2, cid)
        data = bytearray(read_bytes)
        self._waiting[cid] = trio.Event()
        self.qpair.transmit(
            CommandCapsule(entry, cid, write, memoryview(data) if read_bytes else None)
        )
        return cid, data

    async def answer(self, cid: int) -> ResponseCapsule:
        """Waits for the response to this CID."""
        await self._waiting[cid].wait()
        return self._answers.pop(cid)

    def answered(self, cid: int) -> bool:
        return cid in self._answers

    async def command(self, sqe: bytes, *, write=None, read_bytes=0) -> tuple[Status, int, bytes]:
        """Sends a command and returns its status, result and data."""
        cid, data = self.send(sqe, write=write, read_bytes=read_bytes)
        response = await self.answer(cid)
        return Status.from_field(response.status), response.result, bytes(data)

    async def ok(self, sqe: bytes, *, write=None, read_bytes=0):
        """The same for a command that must succeed; returns result and data."""
        status, result, data = await self.command(sqe, write=write, read_bytes=read_bytes)
        assert status.ok, status
        return result, data

    async def connect(self, *, data: ConnectData | None = None, **fields):
        """CONNECT; returns status, DW0 and SQHD."""
        fields.setdefault("sqsize", 31)
        cntlid = fields.pop("cntlid", 0xFFFF)
        data = data or ConnectData(hostid=HOSTID, cntlid=cntlid, subnqn=SUBNQN, hostnqn=HOSTNQN)
        payload = fields.pop("payload", data.pack())
        cid, _ = self.send(ConnectCommand(**fields).pack(), write=payload)
        response = await self.answer(cid)
        return Status.from_field(response.status), response.result, response.sqhd

    async def get(self, offset: int, size: int = 0):
        sqe = PropertyGetCommand(ofst=offset, attrib=size).pack()
        status, value, _ = await self.command(sqe)
        assert status.ok, status
        return value

    async def set_cc(self, cc: Cc) -> Status:
        sqe = PropertySetCommand(ofst=Property.CC, value=cc.value).pack()
        status, _, _ = await self.command(sqe)
        return status

    async def identify(self, cns: int, nsid: int = 0):
        sqe = SubmissionEntry(opc=AdminOpcode.IDENTIFY, nsid=nsid, cdw10=cns).pack()
        status, _, data = await self.command(sqe, read_bytes=4096)
        return status, data

    async def log(self, lid: int, length: int, offset: int = 0, *, rae=False, nsid=0xFFFFFFFF):
        numd = length // 4 - 1
        sqe = SubmissionEntry(
            opc=AdminOpcode.GET_LOG_PAGE,
            nsid=nsid,
            cdw10=lid | rae << 15 | (numd & 0xFFFF) << 16,
            cdw11=numd >> 16,
            cdw12=offset,
        ).pack()
        status, _, data = await self.command(sqe, read_bytes=length)
        return status, data

    async def set_feature(self, fid: int, cdw11: int = 0, *, write=None):
        sqe = SubmissionEntry(opc=AdminOpcode.SET_FEATURES, cdw10=fid, cdw11=cdw11).pack()
        status, result, _ = await self.command(sqe, write=write)
        return status, result

    async def get_feature(self, fid: int, cdw11: int = 0, *, read_bytes=0, select=0):
        sqe = SubmissionEntry(
            opc=AdminOpcode.GET_FEATURES, cdw10=fid | select << 8, cdw11=cdw11
        ).pack()
        return await self.command(sqe, read_bytes=read_bytes)

    async def read(self, slba: int, blocks: int, *, nsid=1, lba_bytes=512):
        sqe = rw(NvmOpcode.READ, slba, blocks, nsid=nsid)
        status, _, data = await self.command(sqe, read_bytes=blocks * lba_bytes)
        return status, data

    async def write(self, slba: int, data: bytes, *, nsid=1, lba_bytes=512, cdw12=0):
        sqe = rw(NvmOpcode.WRITE, slba, len(data) // lba_bytes, nsid=nsid, cdw12=cdw12)
        return (await self.command(sqe, write=data))[0]


def rw(opcode: int, slba: int, blocks: int, *, nsid=1, cdw12=0) -> bytes:
    """An SQE with a range of blocks."""
    return SubmissionEntry(
        opc=opcode,
        nsid=nsid,
        cdw10=slba & 0xFFFFFFFF,
        cdw11=slba >> 32,
        cdw12=cdw12 | (blocks - 1),
    ).pack()


class Target:
    """A server on a network in memory, and the hosts' way to it."""

    def __init__(
        self,
        transport: LoopTransport,
        server: Server,
        nursery: trio.Nursery,
        params: HostQueueParams,
    ) -> None:
        self.transport = transport
        self.params = params
        self.server = server
        self.subsystem = server.subsystem
        self._nursery = nursery

    @property
    def endpoint(self) -> Endpoint:
        return self.server.endpoints[0]

    @asynccontextmanager
    async def queue(self, endpoint: Endpoint | None = None) -> AsyncIterator[Queue]:
        """A queue that has not sent CONNECT yet."""
        async with self.transport.connect(
            endpoint or self.endpoint, self.params, deadline=trio.current_time() + 5
        ) as qpair:
            queue = Queue(qpair)
            self._nursery.start_soon(queue.run)
            yield queue

    @asynccontextmanager
    async def admin(self, *, enable=True, data=None, **fields) -> AsyncIterator[Queue]:
        """A connected admin queue."""
        async with self.queue() as queue:
            status, result, _ = await queue.connect(data=data, **fields)
            assert status.ok, status
            queue.cntlid = result & 0xFFFF
            if enable:
                assert (await queue.set_cc(ENABLED)).ok
            yield queue

    @asynccontextmanager
    async def io(self, admin: Queue, *, qid=1, queues=4, **fields) -> AsyncIterator[Queue]:
        """A connected I/O queue of the same controller."""
        if not self.association(admin).granted_io_queues:
            await admin.set_feature(FeatureId.NUMBER_OF_QUEUES, (queues - 1) * 0x10001)
        async with self.queue() as queue:
            status, _, _ = await queue.connect(
                qid=qid, sqsize=fields.pop("sqsize", 127), cntlid=admin.cntlid, **fields
            )
            assert status.ok, status
            yield queue

    def association(self, admin: Queue):
        found = self.subsystem.find(admin.cntlid)
        assert found is not None
        return found

    @asynccontextmanager
    async def both(self, **fields):
        """An enabled controller with one I/O queue."""
        async with self.admin(**fields) as admin, self.io(admin) as io:
            yield admin, io


@asynccontextmanager
async def target(
    *namespaces: Namespace,
    config: ControllerConfig | None = None,
    discovery=False,
    faults: FaultPlan | None = None,
    transport=None,
    **params,
) -> AsyncIterator[Target]:
    """Serves these namespaces, or a RAM disk of 1 MiB; `params` are those of the host's queues."""
    address = "controller" if transport is None else "127.0.0.1"
    transport = transport or LoopTransport()
    subsystem = NvmSubsystem(SUBNQN, config=config)
    for namespace in namespaces or (Namespace(1, RamDisk(1 << 20)),):
        subsystem.add_namespace(namespace)
    async with trio.open_nursery() as nursery:
        async with serve(
            transport,
            subsystem,
            [Address(address, 0)],
            discovery_addresses=[Address(address, 8009)] if discovery else [],
            faults=faults,
        ) as server:
            try:
                asked = HostQueueParams(**{"in_capsule_bytes": 8192} | params)
                yield Target(transport, server, nursery, asked)
            finally:
                # A test that failed must not wait for its own slow store.
                for namespace in subsystem:
                    if isinstance(namespace.store, SlowStore):
                        namespace.store.gate.set()
        subsystem.close()
        nursery.cancel_scope.cancel()


def discovery_data() -> ConnectData:
    """CONNECT's data for the discovery subsystem."""
    return ConnectData(hostid=HOSTID, subnqn=DISCOVERY_NQN, hostnqn=HOSTNQN)
