"""I/O queues: Flush, Write, Read, Compare, Write Zeroes, Dataset Management, Verify.

NVM Command Set 1.1, section 3.  What a store does without waiting is done where the command is
taken; all others are tasks.  A completed command may overtake any other: NVMe has no order.
"""

import errno
import logging
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import trio

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import CommandError
from nvmf_transport.fabrics import FabricsType
from nvmf_transport.nvme import DSM_AD, NSID_ALL, RW_FUA, WZ_DEAC, AdminOpcode, DsmRange, NvmOpcode
from nvmf_transport.status import (
    ABORT_REQUESTED,
    CAPACITY_EXCEEDED,
    COMMAND_ID_CONFLICT,
    COMMAND_SEQUENCE_ERROR,
    COMPARE_FAILURE,
    DATA_SGL_LENGTH_INVALID,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    INVALID_OPCODE,
    LBA_OUT_OF_RANGE,
    UNRECOVERED_READ_ERROR,
    WRITE_FAULT,
    WRITE_PROTECTED,
    Status,
)

from .backing import InlineStore
from .namespace import Namespace
from .queue import Queue
from .subsystem import NvmSubsystem

_log = logging.getLogger(__name__)

#: OPC, FUSE and PSDT, NSID, SLBA (CDW10-11), CDW12.  A test holds it equal to SubmissionEntry.
SQE: Final = struct.Struct("<BBxxI32xQI12x")
_CDW11: Final = struct.Struct("<44xI16x")
_DSM_RANGE: Final = struct.Struct("<IIQ")
_FUSE_MASK: Final = 3
READ: Final = int(NvmOpcode.READ)
WRITE: Final = int(NvmOpcode.WRITE)
_FLUSH: Final = int(NvmOpcode.FLUSH)
_NLB_MASK: Final = 0xFFFF
#: PRINFO and DTYPE of CDW12 need protection information or directives, which no namespace has;
#: STC and LR are hints.
_LBA_DNR: Final = LBA_OUT_OF_RANGE.with_dnr()
_LENGTH_DNR: Final = DATA_SGL_LENGTH_INVALID.with_dnr()

Handler = Callable[[ReceivedCommand, Namespace, int, int], Awaitable[None]]


class IoQueue(Queue):
    """An I/O queue of a controller of an NVM subsystem."""

    def handlers(self) -> dict[int, Handler]:
        """What carries out the commands, by opcode."""
        return {
            NvmOpcode.FLUSH: self._flush,
            NvmOpcode.WRITE: self._write,
            NvmOpcode.READ: self._read,
            NvmOpcode.COMPARE: self._compare,
            NvmOpcode.WRITE_ZEROES: self._write_zeroes,
            NvmOpcode.DATASET_MANAGEMENT: self._dataset_management,
            NvmOpcode.VERIFY: self._verify,
        }

    async def _serve(self, nursery: trio.Nursery) -> None:
        association, receive = self.association, self.qpair.receive
        subsystem = association.subsystem
        assert isinstance(subsystem, NvmSubsystem)
        namespaces, counts = subsystem.namespaces, self.statistics.io_commands
        running, unpack = self._running, SQE.unpack_from
        handlers = self.handlers()
        while True:
            command = await receive()
            if self.stopped:
                return
            association.traffic = True
            self._taken += 1
            opcode, flags, nsid, slba, cdw12 = unpack(command.sqe)
            counts[opcode] += 1
            if self.debug:
                _log.debug(
                    "queue %d, CID %d: opcode %#x NSID %d SLBA %d CDW12 %#x, %d bytes",
                    self.qid,
                    command.cid,
                    opcode,
                    nsid,
                    slba,
                    cdw12,
                    command.transfer_bytes,
                )
            if running and command.cid in running:
                self.fail(command, COMMAND_ID_CONFLICT.with_dnr())
            elif command.fault is not None:
                self.fail(command, command.fault)
            elif flags & _FUSE_MASK:
                self.fail(command, INVALID_FIELD.with_dnr())
            elif opcode == _FLUSH and nsid == NSID_ALL:
                self.start(nursery, command, self._flush_all, list(subsystem))
            elif (handler := handlers.get(opcode)) is None:
                self.fail(command, _unknown_opcode(command))
            elif (namespace := namespaces.get(nsid)) is None:
                self.fail(command, INVALID_NAMESPACE.with_dnr())
            elif (store := namespace.store.inline) is not None and (
                (opcode == READ and self._read_now(command, namespace, store, slba, cdw12))
                or (opcode == WRITE and self._write_now(command, namespace, store, slba, cdw12))
            ):
                pass
            elif command.in_capsule_data is None:
                self.start(nursery, command, handler, namespace, slba, cdw12)
            else:
                await self._start_with_data(nursery, command, handler, namespace, slba, cdw12)

    def _read_now(
        self,
        command: ReceivedCommand,
        namespace: Namespace,
        store: InlineStore,
        slba: int,
        cdw12: int,
    ) -> bool:
        """Read without waiting; False where it is for `_read` to do or refuse.

        Kept apart and flat, as is `_write_now`: they are what benchmarks of the host measure.
        """
        blocks = (cdw12 & _NLB_MASK) + 1
        shift = namespace.lba_shift
        length = blocks << shift
        if (
            slba + blocks > namespace.size_lbas
            or length != command.transfer_bytes
            or command.in_capsule_data is not None
        ):
            return False
        data = store.read_now(slba << shift, length)
        if data is None:
            return False
        completed = self.qpair.send_data_now(command, (data,), complete=True)
        if completed is None:
            return False
        self.statistics.read_bytes += length
        if not completed:
            self.qpair.transmit(ResponseCapsule(command.cid, 0, 0, self.sqhd))
        return True

    def _write_now(
        self,
        command: ReceivedCommand,
        namespace: Namespace,
        store: InlineStore,
        slba: int,
        cdw12: int,
    ) -> bool:
        """Write of data that is here, without waiting; False where it is for `_write`."""
        data = command.in_capsule_data
        blocks = (cdw12 & _NLB_MASK) + 1
        shift = namespace.lba_shift
        length = blocks << shift
        if (
            data is None
            or namespace.read_only
            or slba + blocks > namespace.size_lbas
            or length != command.transfer_bytes
            or not store.write_now(slba << shift, data)
        ):
            return False
        statistics = self.statistics
        if cdw12 & RW_FUA:
            statistics.fua_writes += 1
        statistics.written_bytes += length
        self.qpair.transmit(ResponseCapsule(command.cid, 0, 0, self.sqhd))
        return True

    async def _start_with_data(
        self, nursery: trio.Nursery, command: ReceivedCommand, handler: Handler, *args: object
    ) -> None:
        """Starts a command that has its data in hand; takes no other while there is no room.

        These need nothing that comes over the queue any more, so they end although it waits.
        """
        capsules = self.association.capsules
        share = await capsules.acquire(_needed_bytes(command))
        if not self.start(nursery, command, self._holding, share, handler, *args):
            capsules.release(share)

    async def _holding(
        self, command: ReceivedCommand, share: int, handler: Handler, *args: Any
    ) -> None:
        try:
            await handler(command, *args)
        finally:
            self.association.capsules.release(share)

    def _range(self, namespace: Namespace, slba: int, blocks: int) -> tuple[int, int]:
        """The bytes of a range of blocks, as offset and length."""
        if slba + blocks > namespace.size_lbas:
            raise CommandError(_LBA_DNR)
        return slba << namespace.lba_shift, blocks << namespace.lba_shift

    def _data_range(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> tuple[int, int]:
        """The same for a command with data, whose SGL must fit."""
        offset, length = self._range(namespace, slba, (cdw12 & _NLB_MASK) + 1)
        if command.transfer_bytes != length:
            raise CommandError(_LENGTH_DNR)
        return offset, length

    def _writable(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> tuple[int, int]:
        _check_writable(namespace)
        place = self._data_range(command, namespace, slba, cdw12)
        if cdw12 & RW_FUA:
            self.statistics.fua_writes += 1
        return place

    def _fua(self, cdw12: int) -> bool:
        # With the cache switched off (feature 06h) every write goes to the medium.
        return bool(cdw12 & RW_FUA) or not self.association.write_cache_enabled

    async def _read(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        offset, length = self._data_range(command, namespace, slba, cdw12)
        if command.in_capsule_data is not None:
            raise CommandError(_wrong_data(command))
        async with self._memory(command, length):
            try:
                data = await namespace.store.read(offset, length)
            except OSError as error:
                raise _refusal(error, namespace, UNRECOVERED_READ_ERROR) from error
            self.statistics.read_bytes += length
            await self.send(command, data)

    async def _write(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        offset, length = self._writable(command, namespace, slba, cdw12)
        async with self._memory(command, length):
            data = await self.qpair.receive_data(command)
            try:
                await namespace.store.write(offset, data, fua=self._fua(cdw12))
            except OSError as error:
                raise _refusal(error, namespace, WRITE_FAULT) from error
        self.statistics.written_bytes += length
        self.respond(command.cid)

    async def _compare(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        offset, length = self._data_range(command, namespace, slba, cdw12)
        async with self._memory(command, 2 * length):
            theirs = await self.qpair.receive_data(command)
            try:
                ours = await namespace.store.read(offset, length)
            except OSError as error:
                raise _refusal(error, namespace, UNRECOVERED_READ_ERROR) from error
            if ours != theirs:
                raise CommandError(COMPARE_FAILURE.with_dnr())
        self.respond(command.cid)

    async def _verify(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        offset, length = self._range(namespace, slba, (cdw12 & _NLB_MASK) + 1)
        piece = self.association.subsystem.config.max_transfer_bytes
        async with self._memory(command, piece):
            for at in range(offset, offset + length, piece):
                try:
                    await namespace.store.read(at, min(piece, offset + length - at))
                except OSError as error:
                    raise _refusal(error, namespace, UNRECOVERED_READ_ERROR) from error
        self.respond(command.cid)

    async def _write_zeroes(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        _check_writable(namespace)
        offset, length = self._range(namespace, slba, (cdw12 & _NLB_MASK) + 1)
        if cdw12 & RW_FUA:
            self.statistics.fua_writes += 1
        try:
            await namespace.store.write_zeroes(
                offset, length, deallocate=bool(cdw12 & WZ_DEAC), fua=self._fua(cdw12)
            )
        except OSError as error:
            raise _refusal(error, namespace, WRITE_FAULT) from error
        self.respond(command.cid)

    async def _dataset_management(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        del cdw12
        count = (slba & 0xFF) + 1
        # CDW10 and CDW11 are where other commands have the SLBA.
        deallocate = (slba >> 32) & DSM_AD
        if deallocate:
            _check_writable(namespace)
        length = count * DsmRange.SIZE
        # Linux always sends room for 256 ranges, whatever their number.
        if not length <= command.transfer_bytes <= DsmRange.MAX_RANGES * DsmRange.SIZE:
            raise CommandError(_LENGTH_DNR)
        data = memoryview(await self.qpair.receive_data(command))[:length]
        ranges = [
            self._range(namespace, start, blocks)
            for _, blocks, start in _DSM_RANGE.iter_unpack(data)
        ]
        if deallocate:
            for offset, length in ranges:
                if not length:
                    continue
                try:
                    await namespace.store.deallocate(offset, length)
                except OSError as error:
                    raise _refusal(error, namespace, WRITE_FAULT) from error
        self.respond(command.cid)

    async def _flush(
        self, command: ReceivedCommand, namespace: Namespace, slba: int, cdw12: int
    ) -> None:
        del slba, cdw12
        await self._flush_all(command, [namespace])

    async def _flush_all(self, command: ReceivedCommand, namespaces: list[Namespace]) -> None:
        for namespace in namespaces:
            if namespace.store.volatile_cache:
                try:
                    await namespace.store.flush()
                except OSError as error:
                    raise _refusal(error, namespace, WRITE_FAULT) from error
        self.respond(command.cid)

    def _memory(self, command: ReceivedCommand, length: int) -> AbstractAsyncContextManager[None]:
        # What came with its data has had its room since it was taken (`_start_with_data`).
        if command.in_capsule_data is not None:
            return nullcontext()
        return _Reservation(self, command.cid, length)


class _Reservation:
    """Room in the association's memory budget; a command that waits for it can be aborted."""

    def __init__(self, queue: Queue, cid: int, length_bytes: int) -> None:
        self._queue = queue
        self._cid = cid
        self._reservation = queue.association.budget.reserve(length_bytes)

    async def __aenter__(self) -> None:
        with trio.CancelScope() as scope:
            self._queue.set_abortable(self._cid, scope)
            await self._reservation.__aenter__()
        self._queue.set_abortable(self._cid, None)
        if scope.cancelled_caught:
            raise CommandError(ABORT_REQUESTED)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._reservation.__aexit__(*exc_info)  # type: ignore[arg-type]


def _needed_bytes(command: ReceivedCommand) -> int:
    """What a command with its data in the capsule holds until it ends."""
    assert command.in_capsule_data is not None
    length = len(command.in_capsule_data)
    # Compare reads as much as it was given.
    return 2 * length if command.sqe[0] == NvmOpcode.COMPARE else length


def _wrong_data(command: ReceivedCommand) -> Status:
    """Why a command cannot have its data: the SGL's length, or data where none is taken."""
    return _LENGTH_DNR if command.in_capsule_data is None else INVALID_FIELD.with_dnr()


def _check_writable(namespace: Namespace) -> None:
    if namespace.read_only:
        raise CommandError(WRITE_PROTECTED.with_dnr())


def _refusal(error: OSError, namespace: Namespace, status: Status) -> CommandError:
    _log.error("namespace %d: %s", namespace.nsid, error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            status = CAPACITY_EXCEEDED
        case errno.EROFS | errno.EPERM:
            status = WRITE_PROTECTED
        case _:
            pass
    return CommandError(status.with_dnr())


def _unknown_opcode(command: ReceivedCommand) -> Status:
    connect_again = command.sqe[0] == AdminOpcode.FABRICS and command.sqe[4] == FabricsType.CONNECT
    return (COMMAND_SEQUENCE_ERROR if connect_again else INVALID_OPCODE).with_dnr()
