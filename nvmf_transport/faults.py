"""What a controller's end of a qpair can be told to do wrong: for whoever tests a host.

The decision, when and to which command, is the layer's above (`nvmf_controller.faults`); this is
the narrow way down to what only a transport can do.  TCP does it to the bytes; `loop`, which has
none, sends what the host's end takes for the same.
"""

import enum
from typing import Protocol

import attrs

from .interfaces import ControllerQueuePair


class PduKind(enum.Enum):
    """What a controller sends, by the names of NVMe/TCP."""

    RESPONSE = "CapsuleResp"
    DATA = "C2HData"
    R2T = "R2T"


class PduMutation(enum.Enum):
    """What is wrong with a PDU; `PduFault.amount` is in bytes where nothing else is said."""

    #: Only the first `amount` bytes are sent; then the connection is closed.
    TRUNCATE = enum.auto()
    #: One bit of the header digest, of the data digest, of the data is flipped.  Without digests
    #: the first two change nothing; the third is then a corruption that nobody can see.
    HEADER_DIGEST = enum.auto()
    DATA_DIGEST = enum.auto()
    PAYLOAD = enum.auto()
    #: The CID is `amount` higher, modulo 65536.
    CID = enum.auto()
    #: C2HData lacks its last `amount` bytes and says that it is complete.
    SHORT = enum.auto()
    #: C2HData comes in two PDUs, of which the second begins `amount` bytes before the first ends.
    OVERLAP = enum.auto()
    #: DATAO or R2TO is `amount` higher.
    OFFSET = enum.auto()
    #: DATAL or R2TL is `amount` higher.
    LENGTH = enum.auto()
    #: PLEN is `amount` higher.
    PLEN = enum.auto()


@attrs.frozen
class PduFault:
    """What to do to the next PDU of this kind that is for a certain command."""

    kind: PduKind
    mutation: PduMutation
    amount: int = 0


class MisbehavingQueuePair(ControllerQueuePair, Protocol):
    """A controller's end that was made with `ControllerQueueParams.may_misbehave`."""

    def spoil(self, cid: int, fault: PduFault) -> None:
        """Does this to the next such PDU for the command; nothing else may come of it."""

    def reset(self) -> None:
        """Breaks the connection at once: what is queued is lost, the host sees a reset."""
