"""The state of one command's data, for both ends."""

from collections.abc import Iterable, Iterator, Sequence

import attrs

from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.wire import Buffer


class HostCommand(ResponseCapsule):
    """A command that the host has sent, and what becomes its response.

    `data_bytes` are those received so far: the only DATAO that may come next.
    """

    __slots__ = (
        "data_in",
        "data_out",
        "leaves_at_bytes",
        "outstanding_r2ts",
        "requested_bytes",
        "retired",
    )

    def __init__(
        self,
        cid: int,
        data_in: memoryview | None,
        data_out: memoryview | None,
        leaves_at_bytes: int,
    ) -> None:
        self.cid = cid
        self.status = self.result = self.data_bytes = 0
        self.sqhd = None
        self.digest_error = False
        #: Where C2HData lands; None where the command reads nothing.
        self.data_in = data_in
        #: What R2Ts may ask for; None where there is nothing, or it went inside the capsule.
        self.data_out = data_out
        #: The capsule has left once the connection has sent so much.  A peer that completes
        #: commands it cannot have read, and reads nothing, would have us queue without a bound.
        self.leaves_at_bytes = leaves_at_bytes
        #: Bytes of `data_out` asked for so far: the only R2TO that may come next.
        self.requested_bytes = 0
        self.outstanding_r2ts = 0
        #: The response is in: H2CData not yet made must not be sent any more.
        self.retired = False


@attrs.define(eq=False)
class HostR2T:
    """What is left to send for one R2T."""

    command: HostCommand
    ttag: int
    offset: int
    end: int


@attrs.define(eq=False)
class InboundTransfer:
    """The data of one command on its way to the controller, asked for by R2Ts."""

    command: ReceivedCommand
    buffer: bytearray
    #: None once nobody wants the data: what still comes is swallowed.
    view: memoryview | None
    requested_bytes: int = 0
    received_bytes: int = 0
    outstanding_r2ts: int = 0
    digest_error: bool = False

    @property
    def done(self) -> bool:
        """All the data is in."""
        return self.received_bytes == self.command.transfer_bytes


@attrs.define(eq=False)
class OpenR2T:
    """An R2T that the controller sent and whose last H2CData has not come."""

    transfer: InboundTransfer
    cid: int
    ttag: int
    #: The only DATAO that may come next.
    offset: int
    end: int


def slices(buffers: Iterable[Buffer], piece_bytes: int) -> Iterator[tuple[int, Sequence[Buffer]]]:
    """Cuts the concatenation of `buffers` into pieces, without copying.

    Yields the length of each piece and the buffers it is made of; each but the last has
    `piece_bytes`.
    """
    piece: list[Buffer] = []
    room = piece_bytes
    for buffer in buffers:
        rest = memoryview(buffer)
        while len(rest) >= room:
            piece.append(rest[:room])
            yield piece_bytes, piece
            rest, piece, room = rest[room:], [], piece_bytes
        if rest:
            piece.append(rest)
            room -= len(rest)
    if piece:
        yield piece_bytes - room, piece
