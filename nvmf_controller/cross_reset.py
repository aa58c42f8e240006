"""Cross-Controller Reset: a host ends a controller that it has lost, through another (Base 2.3).

Always immediate: the answer waits until the impacted controller has drained, so that the host may
rely on it, and the log of resets that went on stays empty.
"""

import logging
from typing import Final

from nvmf_transport.errors import CommandError
from nvmf_transport.fabrics import CNTLID_MAX
from nvmf_transport.logs import CrossControllerResetEntry, CrossControllerResetHeader
from nvmf_transport.nvme import CrossControllerResetCommand
from nvmf_transport.status import (
    CROSS_RESET_IN_PROGRESS,
    CROSS_RESET_LIMIT_EXCEEDED,
    INVALID_FIELD,
)

from .association import Association

_log = logging.getLogger(__name__)

#: CCRL: resets that one controller may have in progress.
CROSS_RESET_LIMIT: Final = 8


def log_page() -> bytes:
    """Cross-Controller Reset log, 1Eh: no reset goes on when its command has been answered."""
    size = CrossControllerResetHeader.MAX_ENTRIES * CrossControllerResetEntry.SIZE
    return CrossControllerResetHeader(entries=0).pack() + bytes(size)


class CrossReset:
    """The resets that one controller has been asked for."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._in_progress: set[Association] = set()

    async def run(self, sqe: bytes) -> int:
        """Ends the impacted controller and waits for its commands; returns DW0.

        An instance that is not there any more has been reset: only one process at a time has these
        media, so none of its commands is left anywhere, an earlier process's included.  Raises
        `CommandError`.
        """
        command = CrossControllerResetCommand.unpack(sqe)
        own = self._association
        if not 1 <= command.icid <= CNTLID_MAX or not command.ciu or not command.cirn:
            raise CommandError(INVALID_FIELD.with_dnr())
        impacted = own.subsystem.find(command.icid)
        named = (command.ciu, command.cirn)
        if impacted is None or (impacted.instance.ciu, impacted.instance.cirn) != named:
            return CrossControllerResetCommand.IMMEDIATE
        if impacted is own or impacted.hostid != own.hostid:
            raise CommandError(INVALID_FIELD.with_dnr())
        if impacted in self._in_progress:
            raise CommandError(CROSS_RESET_IN_PROGRESS)
        if len(self._in_progress) >= CROSS_RESET_LIMIT:
            raise CommandError(CROSS_RESET_LIMIT_EXCEEDED)
        _log.info("%s: Cross-Controller Reset by controller %#06x", impacted, own.cntlid)
        self._in_progress.add(impacted)
        try:
            impacted.end("Cross-Controller Reset")
            await impacted.ended.wait()
        finally:
            self._in_progress.discard(impacted)
        return CrossControllerResetCommand.IMMEDIATE
