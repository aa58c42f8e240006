"""Commands that are executed when their association has died: the fault plan's `ghost`."""

import copy
from collections.abc import Sequence
from typing import Final

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.interfaces import Endpoint, QueuePairLimits
from nvmf_transport.wire import Buffer

from .io_commands import SQE, IoQueue
from .queue import Queue
from .subsystem import NvmSubsystem

#: Bit 0 of an opcode: the command has data from the host (Base 2.1, section 3.3.3.1).
_HOST_TO_CONTROLLER: Final = 1


class _DeadQueuePair:
    """What a ghost still has of its qpair: the data that came with it.  Nobody hears it."""

    def __init__(self, queue: Queue, data: Buffer) -> None:
        self._data = data
        self.limits: QueuePairLimits = queue.qpair.limits
        self.local: Endpoint = queue.qpair.local
        self.peer: Endpoint = queue.qpair.peer

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        raise AssertionError

    async def receive(self) -> ReceivedCommand:
        raise AssertionError

    async def receive_data(self, command: ReceivedCommand) -> Buffer:
        return self._data

    async def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        return complete

    def send_data_now(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        return complete

    def transmit(self, capsule: ResponseCapsule) -> None:
        pass


def has_data_of_host(command: ReceivedCommand) -> bool:
    """True where the command takes data along that has to be here before it can be executed."""
    return bool(command.transfer_bytes and command.sqe[0] & _HOST_TO_CONTROLLER)


async def execute_unseen(queue: Queue, command: ReceivedCommand, data: Buffer) -> None:
    """Executes an I/O command as its queue would have; what comes of it is seen on the medium."""
    subsystem = queue.association.subsystem
    assert isinstance(queue, IoQueue)
    assert isinstance(subsystem, NvmSubsystem)
    ghost = copy.copy(queue)
    ghost.qpair = _DeadQueuePair(queue, data)
    ghost.forget_running()
    opcode, _, nsid, slba, cdw12 = SQE.unpack_from(command.sqe)
    namespace, handler = subsystem.namespaces.get(nsid), ghost.handlers().get(opcode)
    if namespace is not None and handler is not None and command.fault is None:
        queue.statistics.io_commands[opcode] += 1
        await ghost.guard(command, handler(command, namespace, slba, cdw12))
