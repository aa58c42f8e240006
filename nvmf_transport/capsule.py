"""Capsules: the unit that crosses the transport layer (NVMe Base 2.1, section 3.3.2.1).

CIDs, SQ head, status and retries are the business of whoever stands above the transport; PDUs,
SGLs, R2T, digests and in-capsule data of what stands below.
"""

import attrs

from .status import Status
from .wire import Buffer


@attrs.define(eq=False)
class CommandCapsule:
    """A command on its way to the controller; at most one of the two buffers is given.

    `sqe` is 64 bytes with the CID in place; the transport writes PSDT and the SGL descriptor into
    it.  Both buffers belong to the transport until the response arrives, or the queue is dead.
    """

    sqe: bytearray
    cid: int
    #: What the controller will read: the data of a write.
    data_out: Buffer | None = None
    #: Where the controller's data lands; a writable buffer of exactly the command's data length.
    data_in: memoryview | None = None


@attrs.define(eq=False)
class ResponseCapsule:
    """A completion.  Made by the controller, or by the host's transport for C2HData SUCCESS."""

    cid: int
    #: The status field without the phase tag: `Status.from_field` decodes it; 0 is success.
    status: int = 0
    #: DW0 in the low 32 bits, DW1 above.
    result: int = 0
    #: SQ Head Pointer; None where the transport made the response up (it is then unknown).
    sqhd: int | None = None
    #: Host only: bytes that landed in `data_in`.
    data_bytes: int = 0
    #: Host only: the data of this command failed its digest; it must not be used.
    digest_error: bool = False


@attrs.define(eq=False)
class ReceivedCommand:
    """A command as the controller sees it."""

    sqe: bytes
    cid: int
    #: Length of the data of the command by its SGL descriptor, 0 for none.
    transfer_bytes: int = 0
    #: The data itself, where it came inside the capsule.
    in_capsule_data: Buffer | None = None
    #: What the transport found wrong (SGL, PSDT, in-capsule length): answer with it, do no more.
    fault: Status | None = None
