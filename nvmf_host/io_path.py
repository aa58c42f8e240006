"""The way of I/O to one namespace over one association: limits, splitting, SQEs.

An `IoPath` lives as long as its association; a namespace gets a new one each time it resumes, so
that every request is split by the limits of the association that it is sent over.
"""

import struct
from collections.abc import Iterator
from typing import Final

import attrs

from nvmf_transport.identify import IdentifyController
from nvmf_transport.nvme import DSM_AD, FLAGS_SGL, RW_FUA, WZ_DEAC, DsmRange, NvmOpcode

from .fencing import Fence
from .qpair import HostQueue

#: OPC, flags, CID, NSID, SLBA (CDW10-11), CDW12, CDW13: held equal to SubmissionEntry by a test.
_IO_SQE: Final = struct.Struct("<BBHI32xQII8x")
#: NLB is a 16-bit 0's based field.
MAX_NLB: Final = 65536


def io_sqe(opcode: int, nsid: int, slba: int, cdw12: int = 0) -> bytearray:
    """The 64 bytes of Read, Write, Write Zeroes (NLB 0's based and flags in `cdw12`) or Flush."""
    return bytearray(_IO_SQE.pack(opcode, FLAGS_SGL, 0, nsid, slba, cdw12, 0))


def dsm_sqe(nsid: int, ranges: int) -> bytearray:
    """Dataset Management, Attribute - Deallocate, of so many ranges (NVM 1.1, section 3.2.3)."""
    return bytearray(
        _IO_SQE.pack(
            NvmOpcode.DATASET_MANAGEMENT, FLAGS_SGL, 0, nsid, (ranges - 1) | DSM_AD << 32, 0, 0
        )
    )


def rw_cdw12(nlb: int, *, fua: bool = False, deallocate: bool = False) -> int:
    """CDW12 of Read, Write and Write Zeroes of `nlb` LBAs."""
    return (nlb - 1) | (RW_FUA if fua else 0) | (WZ_DEAC if deallocate else 0)


def pack_dsm_ranges(ranges: list[tuple[int, int]]) -> bytes:
    """Encodes (SLBA, LBAs) pairs for Dataset Management."""
    return b"".join(DsmRange(slba=slba, length_lbas=lbas).pack() for slba, lbas in ranges)


def pieces(slba: int, nlb: int, longest: int) -> Iterator[tuple[int, int]]:
    """Cuts LBAs into (SLBA, LBAs) pieces of at most `longest`."""
    while nlb:
        piece = min(nlb, longest)
        yield slba, piece
        slba += piece
        nlb -= piece


@attrs.frozen(eq=False)
class IoPath:
    """I/O queues and limits for one namespace, in LBAs."""

    queues: tuple[HostQueue, ...]
    nsid: int
    #: Of this association: what may still happen to its commands once it has ended.
    fence: Fence
    #: The most LBAs of one Read or Write, by MDTS, the transport and NLB.
    max_lbas: int
    #: Reads and writes must not cross a multiple of this many LBAs (NOIOB); 0: no boundary.
    boundary_lbas: int
    can_flush: bool
    can_deallocate: bool
    can_write_zeroes: bool
    crdt_s: tuple[float, float, float]

    @classmethod
    def make(
        cls,
        queues: tuple[HostQueue, ...],
        nsid: int,
        *,
        fence: Fence,
        controller: IdentifyController,
        mpsmin: int,
        lba_bytes: int,
        noiob_lbas: int,
    ) -> "IoPath":
        """Derives the limits from Identify Controller and CAP.MPSMIN."""
        max_lbas = min(MAX_NLB, max_transfer_bytes(controller, mpsmin, queues) // lba_bytes)
        return cls(
            queues=queues,
            nsid=nsid,
            fence=fence,
            max_lbas=max(1, max_lbas),
            boundary_lbas=noiob_lbas,
            can_flush=bool(controller.vwc_present),
            can_deallocate=bool(controller.oncs & IdentifyController.ONCS_DSM),
            can_write_zeroes=bool(controller.oncs & IdentifyController.ONCS_WRITE_ZEROES),
            crdt_s=(controller.crdt1 / 10, controller.crdt2 / 10, controller.crdt3 / 10),
        )

    def split(self, slba: int, nlb: int) -> list[tuple[int, int]]:
        """Cuts LBAs into (SLBA, LBAs) parts that the controller takes."""
        max_lbas, boundary = self.max_lbas, self.boundary_lbas
        parts = []
        while nlb:
            part = min(nlb, max_lbas)
            if boundary:
                part = min(part, boundary - slba % boundary)
            parts.append((slba, part))
            slba += part
            nlb -= part
        return parts

    def fits(self, slba: int, nlb: int) -> bool:
        """True where `split` would give one part."""
        return 0 < nlb <= self.max_lbas and (
            not self.boundary_lbas or slba % self.boundary_lbas + nlb <= self.boundary_lbas
        )

    def withdraw(self) -> None:
        """Ends the commands to this namespace that have not been sent."""
        for queue in self.queues:
            queue.withdraw(self.nsid)

    def queue(self) -> HostQueue:
        """The first queue that is not busy, else the one with the fewest commands on it.

        What is on one queue is sent and received together: spread over two, the 32 commands of
        four readers took 7 % more of the processor, and 8 of 1 MiB each 8 %.
        """
        queues = self.queues
        best = queues[0]
        if best.load >= best.busy_at and len(queues) > 1:
            for queue in queues:
                if queue.load < queue.busy_at:
                    return queue
                if queue.load < best.load:
                    best = queue
        return best


#: Commands are not made longer than this, whatever the controller takes: the data of one is held
#: in one piece.
_MAX_COMMAND_BYTES: Final = 4 << 20


def max_transfer_bytes(
    controller: IdentifyController, mpsmin: int, queues: tuple[HostQueue, ...]
) -> int:
    """The most data of one command: MDTS in units of CAP.MPSMIN, and the transport's bound."""
    limit = _MAX_COMMAND_BYTES
    # A shift is bounded: MDTS is a byte of the controller's choice.
    if 0 < controller.mdts < 20:
        limit = min(limit, 1 << (12 + mpsmin + controller.mdts))
    for queue in queues:
        transport = queue.qpair.limits.max_transfer_bytes
        if transport is not None:
            limit = min(limit, transport)
    return limit
