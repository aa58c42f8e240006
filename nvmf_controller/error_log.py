"""The Error Information log of a controller (Base 2.1, section 5.1.12.1.2)."""

from collections import deque
from typing import Final

from nvmf_transport.capsule import ReceivedCommand
from nvmf_transport.logs import ErrorEntry
from nvmf_transport.nvme import SubmissionEntry
from nvmf_transport.status import Status

_KEPT: Final = 64
#: Parameter Error Location: not a certain field of the command.
_NO_LOCATION: Final = 0xFFFF


class ErrorLog:
    """The last commands that failed, newest first."""

    def __init__(self) -> None:
        self._entries: deque[ErrorEntry] = deque(maxlen=_KEPT)
        self._count = 0

    def add(self, qid: int, command: ReceivedCommand, status: Status) -> None:
        """Notes a failed command."""
        self._count += 1
        entry = SubmissionEntry.unpack(command.sqe)
        self._entries.appendleft(
            ErrorEntry(
                error_count=self._count,
                sqid=qid,
                cid=command.cid,
                # Here with a phase tag, unlike everywhere else above the transport.
                status_field=status.to_field() << 1,
                error_location=_NO_LOCATION,
                lba=entry.slba if qid else 0,
                nsid=entry.nsid,
                opc=entry.opc,
            )
        )

    def pack(self, entries: int) -> bytes:
        """The log page, of this many entries."""
        page = b"".join(entry.pack() for entry in self._entries)
        return page.ljust(entries * ErrorEntry.SIZE, b"\0")
