"""Finding out what a controller has, and letting I/O go on where it is what it was."""

from typing import Final

from .association import Association
from .by_hand import verify
from .handshake import Handshake
from .rescans import Rescans
from .roster import Roster
from .scan import scan

SCAN_STEP: Final = "identifying the namespaces"


async def identify(
    association: Association,
    roster: Roster,
    rescans: Rescans,
    nsids: set[int] | None,
    *,
    reconnected: bool,
) -> None:
    """Identifies namespaces, all for None, and lets them go on, or not.

    Raises what commands raise, and `HandshakeError` where the controller falls silent.
    """
    while True:
        if nsids is None:
            rescans.drop_all()
        handshake = Handshake()
        with handshake.step(SCAN_STEP, cause=lambda: association.error):
            found = await scan(
                association.admin,
                association.controller,
                association.version,
                nsids,
                # There may be thousands: it is silence that is bounded.
                on_progress=handshake.progress,
            )
        late = set() if association.error is not None else rescans.take_due()
        if not late:
            break
        # They changed while they were being looked at: what was found may be old already.
        if nsids is not None:
            nsids = None if None in late else nsids | {n for n in late if n is not None}
    if association.error is None:
        roster.take(found, association, nsids, reconnected=reconnected)
        for refused in found.refused:
            if refused.transient:
                rescans.soon(refused.nsid)
        await verify(roster, association)
