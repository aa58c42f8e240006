"""What is decided by hand: letting a paused namespace go on, or failing what waits for it."""

import logging
from typing import TYPE_CHECKING

from nvmf_transport.errors import BusyError, CommandError, ConfigError, DataDigestError

from .association import Association
from .namespace import Namespace
from .roster import Roster
from .state import NamespaceState, PauseCause
from .verification import compare, rewrite

if TYPE_CHECKING:
    from .controller import Controller

log = logging.getLogger(__name__)


async def resume(
    controller: "Controller", namespace: Namespace, *, rewrite_lost: bool, accept: bool
) -> None:
    """Lets a paused namespace go on.  Raises `BusyError`, `ConfigError`, what commands raise."""
    association = controller.live_association()
    engine = namespace.engine
    if engine.state is not NamespaceState.PAUSED:
        raise BusyError(
            f"it is {engine.state.value}, not paused; there is nothing to resume",
            field="device",
            value=namespace.name,
        )
    if rewrite_lost and accept:
        raise ConfigError(
            "give one of --rewrite and --accept", field="device", value=namespace.name
        )
    match engine.cause:
        case PauseCause.MISSING:
            raise BusyError(f"{engine.reason}", field="device", value=namespace.name)
        case PauseCause.IDENTITY:
            _require(accept, namespace, "--accept", "takes it for the same namespace")
            _accept_identity(namespace, association)
        case PauseCause.UNFLUSHED_LOST if rewrite_lost:
            await rewrite(
                controller.roster.path(namespace, association), engine.log, namespace.lba_bytes
            )
            engine.unverified = False
        case PauseCause.UNFLUSHED_LOST:
            _require(accept, namespace, "--rewrite or --accept", "writes again, or gives up")
            engine.give_up_unflushed("acknowledged writes that were not flushed were given up")
        case PauseCause.REPLAY_LIMIT:
            # Whoever says so has looked.
            engine.lost_at = None
    if engine.state is NamespaceState.PAUSED and association.error is None:
        log.warning("%s: resumed by hand (%s)", namespace.name, engine.cause.value)
        controller.roster.let_go(namespace, association)
        await verify(controller.roster, association)


def _require(given: bool, namespace: Namespace, option: str, effect: str) -> None:
    if not given:
        raise ConfigError(
            f"it is paused because {namespace.engine.reason}; {option} {effect}",
            field="device",
            value=namespace.name,
        )


def _accept_identity(namespace: Namespace, association: Association) -> None:
    offered = namespace.offered
    assert offered is not None
    if offered.lba_bytes != namespace.lba_bytes:
        raise ConfigError(
            f"its LBA size is {offered.lba_bytes}, was {namespace.lba_bytes}: what waits cannot be "
            "sent; disconnect and connect again",
            field="device",
            value=namespace.name,
        )
    if len(namespace.engine.log):
        namespace.engine.give_up_unflushed("unflushed writes belonged to another namespace")
    namespace.description = offered
    namespace.subsystem = association.subsystem


async def verify(roster: Roster, association: Association) -> None:
    """Compares unflushed writes with the medium where that is due, and resumes or pauses.

    Raises what commands raise when the association ends.
    """
    for nsid, namespace in sorted(roster.unverified.items()):
        engine = namespace.engine
        try:
            differences = await compare(
                roster.path(namespace, association),
                engine.log,
                engine.ambiguous,
                namespace.lba_bytes,
            )
            where = ", ".join(str(difference) for difference in differences)
        except (CommandError, DataDigestError) as error:
            where = f"LBAs that cannot be read back ({error})"
        # It may have been held, or looked at anew, meanwhile.
        if roster.unverified.get(nsid) is not namespace or association.error is not None:
            continue
        del roster.unverified[nsid]
        if where:
            roster.pause_for_loss(namespace, where)
        else:
            engine.unverified = False
            roster.resume(namespace, association)
