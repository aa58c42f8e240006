"""The network of the simulation: a loop whose connections break at chosen messages."""

from collections import Counter
from collections.abc import Callable

import attrs

from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import ConnectionLostError
from nvmf_transport.fabrics import ConnectCommand, FabricsType
from nvmf_transport.loop import LoopTransport
from nvmf_transport.loop_ends import LoopConnection
from nvmf_transport.loop_pipe import (
    HEAD_BYTES,
    CommandMessage,
    ControllerData,
    HostData,
    Message,
    Pipe,
    ReadyToTransfer,
)
from nvmf_transport.nvme import AdminOpcode

from .plan import MessageKind, Queues

_FCTYPE_AT = ConnectCommand.offset_of("fctype")


def kind_of(message: Message) -> MessageKind | None:
    """The PDU type of a message; None for the end of the connection."""
    match message:
        case CommandMessage():
            return (
                MessageKind.COMMAND if message.in_capsule_data is None else MessageKind.COMMAND_DATA
            )
        case ReadyToTransfer():
            return MessageKind.R2T
        case HostData():
            return MessageKind.H2C_DATA
        case ControllerData():
            return MessageKind.C2H_DATA
        case ResponseCapsule():
            return MessageKind.RESPONSE
        case _:
            return None


@attrs.define(eq=False)
class Trap:
    """Springs at the `left`th message of a kind; the message is lost if `spring` says so."""

    kind: MessageKind
    queues: Queues
    left: int
    spring: Callable[[LoopConnection], None]


class SimNetwork(LoopTransport):
    """A loop that knows which queue each connection is, and where to break it."""

    def __init__(self, counts: "Counter[str]") -> None:
        super().__init__()
        self.traps: list[Trap] = []
        self._counts = counts
        self._qids: dict[LoopConnection, int] = {}
        self.on_connection = self._connected

    def those(self, queues: Queues) -> list[LoopConnection]:
        """The connections of a class of queues that the host still has."""
        return [
            connection
            for connection in self.connections
            if connection.host.error is None and self._is(connection, queues)
        ]

    def cut(self, connection: LoopConnection) -> None:
        """Breaks a connection for both ends."""
        self._counts["cuts"] += 1
        connection.cut()

    def deafen(self, connection: LoopConnection) -> None:
        """Breaks it for the host alone; what is on its way stays there until it is thawed."""
        self._counts["cuts"] += 1
        connection.freeze()
        connection.host.die(
            ConnectionLostError(f"the connection to {connection.host.peer} was reset")
        )

    def _is(self, connection: LoopConnection, queues: Queues) -> bool:
        if queues is Queues.ALL:
            return True
        return (self._qids.get(connection, 0) == 0) == (queues is Queues.ADMIN)

    def _connected(self, connection: LoopConnection) -> None:
        self._qids = {c: qid for c, qid in self._qids.items() if c.alive}
        self._tap(connection, connection.to_controller)
        self._tap(connection, connection.to_host)

    def _tap(self, connection: LoopConnection, pipe: Pipe) -> None:
        send = pipe.send

        def tapped(message: Message, size_bytes: int = HEAD_BYTES) -> None:
            if (
                isinstance(message, CommandMessage)
                and message.sqe[0] == AdminOpcode.FABRICS
                and message.sqe[_FCTYPE_AT] == FabricsType.CONNECT
            ):
                self._qids[connection] = ConnectCommand.unpack(message.sqe).qid
            if self.traps:
                self._try_traps(connection, message)
            send(message, size_bytes)

        pipe.send = tapped  # type: ignore[method-assign]

    def _try_traps(self, connection: LoopConnection, message: Message) -> None:
        kind = kind_of(message)
        for trap in list(self.traps):
            if trap.kind is kind and self._is(connection, trap.queues):
                trap.left -= 1
                if trap.left <= 0:
                    self.traps.remove(trap)
                    self._counts[f"breaks inside {trap.kind.value}"] += 1
                    if isinstance(message, ControllerData):
                        _land_half(connection, message)
                    trap.spring(connection)


def _land_half(connection: LoopConnection, message: ControllerData) -> None:
    """A C2HData that broke off has left its first bytes in the host's buffer."""
    found = connection.host._outstanding.get(message.cid)
    if found is not None and found.capsule.data_in is not None:
        target = found.capsule.data_in.cast("B")
        half = b"".join(bytes(piece) for piece in message.data)[: target.nbytes // 2]
        target[: len(half)] = half
