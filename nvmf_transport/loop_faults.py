"""Messages of `loop` with something wrong: what NVMe/TCP's faults amount to without bytes."""

from typing import Final

import attrs

from .capsule import ResponseCapsule
from .faults import PduFault, PduKind, PduMutation
from .interfaces import QueuePairLimits
from .loop_pipe import ControllerData, Malformed, Message, ReadyToTransfer
from .wire import Buffer

#: Fatal Error Status (NVMe/TCP, section 3.6.2.3): Invalid PDU Header Field, PDU Sequence Error,
#: Header Digest Error, Data Transfer Out of Range.
_FES_HEADER: Final = 1
_FES_SEQUENCE: Final = 2
_FES_HEADER_DIGEST: Final = 3
_FES_OUT_OF_RANGE: Final = 4
_CIDS: Final = 1 << 16


def place_of(message: Message) -> tuple[int, PduKind]:
    """The command that a message of the controller is for, and which PDU it stands for."""
    match message:
        case ResponseCapsule():
            return message.cid, PduKind.RESPONSE
        case ControllerData(cid):
            return cid, PduKind.DATA
        case ReadyToTransfer(cid):
            return cid, PduKind.R2T
        case _:
            raise AssertionError(message)


def spoil_message(message: Message, fault: PduFault, limits: QueuePairLimits) -> Message | None:
    """The message with its fault; None where the connection ends in the middle of it."""
    what = f"{fault.kind.value} with a wrong {fault.mutation.name}"
    match fault.mutation:
        case PduMutation.TRUNCATE:
            return None
        case PduMutation.HEADER_DIGEST if limits.header_digest:
            return Malformed(what, _FES_HEADER_DIGEST)
        case PduMutation.PLEN:
            return Malformed(what, _FES_HEADER)
        case PduMutation.OFFSET if fault.kind is not PduKind.RESPONSE:
            return Malformed(what, _FES_SEQUENCE)
        case PduMutation.LENGTH if fault.kind is not PduKind.RESPONSE:
            return Malformed(what, _FES_OUT_OF_RANGE)
        case PduMutation.CID:
            return _with_cid(message, fault.amount)
        case _:
            pass
    if not isinstance(message, ControllerData):
        return message
    match fault.mutation:
        case PduMutation.DATA_DIGEST if limits.data_digest:
            return attrs.evolve(message, spoiled=True)
        case PduMutation.PAYLOAD:
            data = _flipped(b"".join(bytes(piece) for piece in message.data))
            return attrs.evolve(message, data=(data,), spoiled=limits.data_digest)
        case PduMutation.SHORT:
            whole = b"".join(bytes(piece) for piece in message.data)
            return attrs.evolve(message, data=(whole[: max(0, len(whole) - fault.amount)],))
        case PduMutation.OVERLAP:
            return Malformed(what, _FES_SEQUENCE)
        case _:
            return message


def _with_cid(message: Message, add: int) -> Message:
    if isinstance(message, ResponseCapsule):
        cid = (message.cid + add) % _CIDS
        return ResponseCapsule(cid, message.status, message.result, message.sqhd)
    assert isinstance(message, ControllerData | ReadyToTransfer)
    return attrs.evolve(message, cid=(message.cid + add) % _CIDS)


def _flipped(data: Buffer) -> bytes:
    return bytes((data[0] ^ 1,)) + bytes(data[1:]) if len(data) else b""
