"""A discovery controller for tests: it says what its script has it say."""

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import trio

from nvmf_transport import status
from nvmf_transport.address import Address
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import TransportError
from nvmf_transport.fabrics import (
    DISCOVERY_NQN,
    SQHD_DISABLED,
    ConnectCommand,
    ConnectData,
    DiscoveryLogEntry,
    DiscoveryLogHeader,
    FabricsType,
    PropertyGetCommand,
    PropertySetCommand,
    SubsystemType,
    TransportType,
)
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import ControllerQueuePair, ControllerQueueParams
from nvmf_transport.loop import LoopIncomingConnection, LoopTransport
from nvmf_transport.nvme import AdminOpcode, Cap, Cc, Csts, Property, SubmissionEntry
from nvmf_transport.status import Status


def nvm_entry(number: int, port: int = 4420) -> DiscoveryLogEntry:
    return DiscoveryLogEntry(
        trtype=TransportType.LOOP,
        subtype=SubsystemType.NVM,
        portid=number,
        subnqn=f"nqn.2020-01.com.example:{number}",
        traddr="storage",
        trsvcid=str(port),
    )


def referral(traddr: str, trsvcid: str = "8009", **fields: Any) -> DiscoveryLogEntry:
    values: dict[str, Any] = {
        "trtype": TransportType.LOOP,
        "subtype": SubsystemType.REFERRAL,
        "subnqn": DISCOVERY_NQN,
        "traddr": traddr,
        "trsvcid": trsvcid,
    }
    return DiscoveryLogEntry(**values | fields)


@attrs.define(eq=False)
class DiscoveryPeer:
    """Serves one connection after the other; what a test does not set is well-behaved."""

    entries: list[DiscoveryLogEntry] = attrs.field(factory=list)
    genctr: int = 1
    numrec: int | None = None
    recfmt: int = 0
    mdts: int = 0
    cap_to: int = 4
    #: Called before each Get Log Page with its offset and length; a status refuses the command.
    on_log: Callable[[int, int], Status | None] = lambda _offset, _length: None
    #: Bytes that are missing at the end of what is sent for a Get Log Page.
    short_by: int = 0
    connect_status: Status = status.SUCCESS
    never_ready: bool = False
    #: How long each Get Log Page takes.
    pause_s: float = 0
    mute_after: int | None = None

    cc: Cc = attrs.field(factory=Cc)
    connects: list[tuple[ConnectCommand, ConnectData]] = attrs.field(factory=list)
    pieces: list[tuple[int, int]] = attrs.field(factory=list)
    ended: Counter[str] = attrs.field(factory=Counter)

    async def serve(
        self,
        transport: LoopTransport,
        address: Address,
        *,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with transport.listen(address) as listener:
            task_status.started(listener.endpoints[0].address)
            while True:
                await self._converse(await listener.accept())

    async def _converse(self, incoming: LoopIncomingConnection) -> None:
        self.cc = Cc()
        served = 0
        async with incoming.establish(ControllerQueueParams(), timeout_s=1) as qpair:
            while True:
                try:
                    command = await qpair.receive()
                except TransportError as error:
                    self.ended[type(error).__name__] += 1
                    return
                served += 1
                if self.mute_after is None or served <= self.mute_after:
                    await self._answer(qpair, command)

    async def _answer(self, qpair: ControllerQueuePair, command: ReceivedCommand) -> None:
        entry = SubmissionEntry.unpack(command.sqe)
        found, result = status.SUCCESS, 0
        match entry.opc, command.sqe[4]:
            case AdminOpcode.FABRICS, FabricsType.CONNECT:
                data = ConnectData.unpack(await qpair.receive_data(command))
                self.connects.append((ConnectCommand.unpack(command.sqe), data))
                found, result = self.connect_status, 1
            case AdminOpcode.FABRICS, FabricsType.PROPERTY_GET:
                result = self._property(PropertyGetCommand.unpack(command.sqe).ofst)
            case AdminOpcode.FABRICS, FabricsType.PROPERTY_SET:
                self.cc = Cc(PropertySetCommand.unpack(command.sqe).value)
            case AdminOpcode.IDENTIFY, _:
                data_in = IdentifyController(mdts=self.mdts, sn="1", mn="peer").pack()
                await qpair.send_data(command, [data_in], complete=False)
            case AdminOpcode.GET_LOG_PAGE, _:
                found = await self._log(qpair, command, entry)
            case _:
                found = status.INVALID_OPCODE
        qpair.transmit(ResponseCapsule(command.cid, found.to_field(), result, sqhd=SQHD_DISABLED))

    def _property(self, offset: int) -> int:
        match offset:
            case Property.CAP:
                return Cap.of(to=self.cap_to, css=Cap.CSS_NVM).value
            case Property.CC:
                return self.cc.value
            case _:
                ready = self.cc.en and not self.never_ready
                shst = Csts.SHST_COMPLETE if self.cc.shn else Csts.SHST_NORMAL
                return Csts.of(rdy=ready, shst=shst).value

    async def _log(
        self, qpair: ControllerQueuePair, command: ReceivedCommand, entry: SubmissionEntry
    ) -> Status:
        (offset,) = struct.unpack_from("<Q", command.sqe, SubmissionEntry.offset_of("cdw12"))
        length = command.transfer_bytes
        assert (entry.cdw10 >> 16 | (entry.cdw11 & 0xFFFF) << 16) == length // 4 - 1
        assert entry.cdw10 & 0xFF == 0x70
        self.pieces.append((offset, length))
        await trio.sleep(self.pause_s)
        refused = self.on_log(offset, length)
        if refused is not None:
            return refused
        numrec = len(self.entries) if self.numrec is None else self.numrec
        header = DiscoveryLogHeader(genctr=self.genctr, numrec=numrec, recfmt=self.recfmt)
        log = header.pack() + b"".join(each.pack() for each in self.entries)
        assert offset + length <= len(log), "the host reads past the end of the log"
        piece = log[offset : offset + length - self.short_by]
        await qpair.send_data(command, [piece], complete=False)
        return status.SUCCESS
