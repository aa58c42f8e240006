"""One direction of a connection in memory, and the messages that go through it; see `loop`."""

from collections import deque
from typing import Final

import attrs
import trio

from .capsule import ResponseCapsule
from .errors import TransportError
from .wire import Buffer

#: What a message without data counts as, when the bytes queued for sending are added up.
HEAD_BYTES: Final = 24


@attrs.frozen
class CommandMessage:
    """A command capsule, with its data where it is in-capsule."""

    sqe: bytes
    cid: int
    in_capsule_data: bytes | None
    spoiled: bool


@attrs.frozen
class HostData:
    """H2CData: the data of a command, all at once."""

    cid: int
    data: bytes
    spoiled: bool


@attrs.frozen
class ReadyToTransfer:
    """R2T: asks for the data of a command, all at once."""

    cid: int


@attrs.frozen
class ControllerData:
    """C2HData; with `success` also the completion."""

    cid: int
    data: tuple[Buffer, ...]
    success: bool
    spoiled: bool


@attrs.frozen
class Ended:
    """The sender has ended the connection; `error` is what the receiver is to raise."""

    error: TransportError


@attrs.frozen
class Malformed:
    """A message that its receiver finds to break the protocol, with this Fatal Error Status."""

    text: str
    fes: int


Message = (
    CommandMessage
    | HostData
    | ReadyToTransfer
    | ControllerData
    | ResponseCapsule
    | Malformed
    | Ended
)


class Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Message, int]] = deque()
        self._held: deque[tuple[Message, int]] = deque()
        self._closed = False
        self.frozen = False
        self.queued_bytes = 0
        self.arrived = trio.lowlevel.ParkingLot()
        self.drained = trio.lowlevel.ParkingLot()

    def send(self, message: Message, size_bytes: int = HEAD_BYTES) -> None:
        """Queues a message for the reader; without one it is lost."""
        if self._closed:
            return
        self.queued_bytes += size_bytes
        if self.frozen:
            self._held.append((message, size_bytes))
        else:
            self._messages.append((message, size_bytes))
            self.arrived.unpark_all()

    def take(self) -> Message | None:
        """Returns the next message that has arrived."""
        if not self._messages:
            return None
        message, size_bytes = self._messages.popleft()
        self.queued_bytes -= size_bytes
        self.drained.unpark_all()
        return message

    def thaw(self) -> None:
        """Delivers what was sent while `frozen`."""
        self.frozen = False
        self._messages.extend(self._held)
        self._held.clear()
        self.arrived.unpark_all()

    def close(self) -> None:
        """The reader is gone: what is queued, and what comes after, is lost."""
        self._closed = True
        self._messages.clear()
        self._held.clear()
        self.queued_bytes = 0
        self.arrived.unpark_all()
        self.drained.unpark_all()
