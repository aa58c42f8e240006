"""The admin queue of both kinds of controllers (Base 2.1, section 5)."""

import logging
from typing import Final

import trio

from nvmf_transport.capsule import ReceivedCommand
from nvmf_transport.errors import CommandError
from nvmf_transport.fabrics import FabricsCommand, FabricsType
from nvmf_transport.identify import IDENTIFY_BYTES
from nvmf_transport.nvme import AdminOpcode, SubmissionEntry
from nvmf_transport.status import (
    ABORT_REQUESTED,
    AER_LIMIT_EXCEEDED,
    COMMAND_ID_CONFLICT,
    COMMAND_SEQUENCE_ERROR,
    DATA_SGL_LENGTH_INVALID,
    INVALID_FIELD,
    INVALID_OPCODE,
    Status,
)

from .association import State
from .cross_reset import CrossReset
from .features import Features
from .logs import LogRequest
from .properties import property_get, property_set
from .queue import Queue

_log = logging.getLogger(__name__)

#: The most that a host may pass along with Set Features; no feature has more.
_MAX_FEATURE_BYTES: Final = 4096
_INVALID_QUEUE_TYPE: Final = Status(1, 0x85)
#: Bit 0 of an opcode: the command has data from the host (Base 2.1, section 3.3.3.1).
_HOST_TO_CONTROLLER: Final = 1
#: DW0 of Abort: the command was not aborted.
_NOT_ABORTED: Final = 1


class AdminQueue(Queue):
    """The admin queue; the timers of its association run beside it."""

    async def _serve(self, nursery: trio.Nursery) -> None:
        association = self.association
        nursery.start_soon(association.run)
        self._features = Features(association)
        self._cross_reset = CrossReset(association)
        counts = self.statistics.admin_commands
        while True:
            command = await self.qpair.receive()
            if self.stopped:
                return
            association.traffic = True
            self._taken += 1
            counts[command.sqe[0]] += 1
            if self.debug:
                _log.debug(
                    "%s: admin command %s, %d bytes",
                    association,
                    bytes(command.sqe).hex(),
                    command.transfer_bytes,
                )
            if command.fault is not None:
                self.fail(command, command.fault)
            elif self.is_outstanding(command.cid):
                self.fail(command, COMMAND_ID_CONFLICT.with_dnr())
            elif command.sqe[0] == AdminOpcode.CROSS_CONTROLLER_RESET or (
                command.sqe[0] == AdminOpcode.SET_FEATURES and command.transfer_bytes
            ):
                # The only admin commands that may wait, the second for data from the host.
                self.start(nursery, command, self._execute)
            else:
                await self.guard(command, self._execute(command))

    def is_outstanding(self, cid: int) -> bool:
        """True while a command with this CID is not completed, event requests included."""
        return super().is_outstanding(cid) or self.association.events.is_outstanding(cid)

    async def _execute(self, command: ReceivedCommand) -> None:
        opcode = command.sqe[0]
        if opcode == AdminOpcode.FABRICS:
            self._fabrics(command)
            return
        if self.association.state not in {State.ENABLED, State.SHUTTING_DOWN, State.SHUT_DOWN}:
            raise CommandError(COMMAND_SEQUENCE_ERROR.with_dnr())
        entry = SubmissionEntry.unpack(command.sqe)
        if entry.fuse or (command.in_capsule_data is not None and not opcode & _HOST_TO_CONTROLLER):
            raise CommandError(INVALID_FIELD.with_dnr())
        match opcode:
            case AdminOpcode.IDENTIFY:
                await self._identify(command, entry)
            case AdminOpcode.GET_LOG_PAGE:
                await self._get_log_page(command, entry)
            case AdminOpcode.GET_FEATURES:
                await self._get_features(command, entry)
            case AdminOpcode.SET_FEATURES:
                await self._set_features(command, entry)
            case AdminOpcode.KEEP_ALIVE:
                self.respond(command.cid)
            case AdminOpcode.ASYNC_EVENT_REQUEST:
                if not self.association.events.request(command.cid):
                    raise CommandError(AER_LIMIT_EXCEEDED.with_dnr())
            case AdminOpcode.ABORT if self.association.subsystem.has_io_queues:
                self._abort(command, entry)
            case AdminOpcode.CROSS_CONTROLLER_RESET if self.association.subsystem.has_io_queues:
                self.respond(command.cid, result=await self._cross_reset.run(command.sqe))
            case _:
                raise CommandError(INVALID_OPCODE.with_dnr())

    def _fabrics(self, command: ReceivedCommand) -> None:
        match FabricsCommand.unpack(command.sqe).fctype:
            case FabricsType.PROPERTY_GET:
                self.respond(command.cid, result=property_get(self.association, command))
            case FabricsType.PROPERTY_SET:
                property_set(self.association, command)
                if self.association.state is State.RESETTING:
                    self._features = Features(self.association)
                self.respond(command.cid)
            case FabricsType.CONNECT:
                raise CommandError(COMMAND_SEQUENCE_ERROR.with_dnr())
            case FabricsType.DISCONNECT:
                raise CommandError(_INVALID_QUEUE_TYPE.with_dnr())
            case _:
                raise CommandError(INVALID_OPCODE.with_dnr())

    async def _identify(self, command: ReceivedCommand, entry: SubmissionEntry) -> None:
        if command.transfer_bytes != IDENTIFY_BYTES:
            raise CommandError(DATA_SGL_LENGTH_INVALID.with_dnr())
        subsystem = self.association.subsystem
        data = subsystem.identify(self.association, entry.cdw10 & 0xFF, entry.nsid)
        await self.send(command, data)

    async def _get_log_page(self, command: ReceivedCommand, entry: SubmissionEntry) -> None:
        request = LogRequest.of(entry)
        if command.transfer_bytes != request.length_bytes:
            raise CommandError(DATA_SGL_LENGTH_INVALID.with_dnr())
        association = self.association
        data = request.part_of(association.subsystem.log_page(association, request))
        if not request.retain_event:
            association.events.page_read(request.lid)
        await self.send(command, data)

    async def _get_features(self, command: ReceivedCommand, entry: SubmissionEntry) -> None:
        result, data = self._features.get(entry.cdw10, entry.cdw11)
        # Hosts differ in whether they pass a buffer for a feature without data.
        if data and command.transfer_bytes != len(data):
            raise CommandError(DATA_SGL_LENGTH_INVALID.with_dnr())
        if command.transfer_bytes:
            padded = data.ljust(command.transfer_bytes, b"\0")
            if await self.qpair.send_data(command, (padded,), complete=result == 0):
                return
        self.respond(command.cid, result=result)

    async def _set_features(self, command: ReceivedCommand, entry: SubmissionEntry) -> None:
        data = b""
        length, wanted = command.transfer_bytes, self._features.data_bytes(entry.cdw10 & 0xFF)
        # Looked at before the data is asked for: asking is a promise of memory.
        if (wanted and length != wanted) or length > _MAX_FEATURE_BYTES:
            raise CommandError(DATA_SGL_LENGTH_INVALID.with_dnr())
        if length:
            async with self.association.budget.reserve(length):
                data = bytes(await self.qpair.receive_data(command))
        self.respond(command.cid, result=self._features.set(entry.cdw10, entry.cdw11, data))

    def _abort(self, command: ReceivedCommand, entry: SubmissionEntry) -> None:
        qid, cid = entry.cdw10 & 0xFFFF, entry.cdw10 >> 16
        association = self.association
        if qid == 0 and association.events.abort(cid):
            self.fail_cid(cid, ABORT_REQUESTED)
            aborted = True
        else:
            queue = association.io_queue(qid)
            aborted = queue is not None and queue.abort(cid)
        self.respond(command.cid, result=0 if aborted else _NOT_ABORTED)
