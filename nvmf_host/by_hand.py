"""What is decided by hand: letting a paused namespace go on, or failing what waits for it."""

import logging
from typing import TYPE_CHECKING

from nvmf_transport.errors import (
    BusyError,
    CommandError,
    ConfigError,
    DataDigestError,
    NotConnectedError,
)

from .association import Association
from .namespace import Namespace
from .roster import Roster
from .state import ControllerState, NamespaceState, PauseCause
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
    if controller.state is not ControllerState.LIVE:
        raise BusyError("its namespaces are being identified", field="device", value=namespace.name)
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
    cause = engine.cause
    if cause is PauseCause.MISSING:
        raise BusyError(f"{engine.reason}", field="device", value=namespace.name)
    if namespace.offered is None:
        raise BusyError("it is being identified", field="device", value=namespace.name)
    match cause:
        case PauseCause.IDENTITY:
            _require(accept, namespace, "--accept", "takes it for the same namespace")
            twin = controller.twin_of(namespace, namespace.offered)
            if twin is not None:
                raise BusyError(
                    f"{twin} is the namespace that it would become; disconnect one of them",
                    field="device",
                    value=namespace.name,
                )
            _accept_identity(namespace, association)
            controller.on_reidentified(namespace)
        case PauseCause.UNFLUSHED_LOST if rewrite_lost:
            await _rewrite(controller.roster, namespace, association)
        case PauseCause.UNFLUSHED_LOST:
            _require(accept, namespace, "--rewrite or --accept", "writes again, or gives up")
            engine.give_up_unflushed("acknowledged writes that were not flushed were given up")
        case PauseCause.REPLAY_LIMIT:
            # Whoever says so has looked.
            engine.lost_at = None
    log.warning("%s: resumed by hand (%s)", namespace.name, cause.value)
    controller.roster.let_go(namespace, association)
    await verify(controller.roster, association)


async def _rewrite(roster: Roster, namespace: Namespace, association: Association) -> None:
    engine, offered = namespace.engine, namespace.offered
    if namespace.rewriting is not None:
        # Two of them would write over each other's, and over what goes on after the first.
        raise BusyError("it is being written again already", field="device", value=namespace.name)

    def check() -> None:
        if association.error is not None:
            raise NotConnectedError(f"the connection was lost: {association.error}")
        if (
            engine.state is not NamespaceState.PAUSED
            or engine.cause is not PauseCause.UNFLUSHED_LOST
            or namespace.offered is not offered
        ):
            raise BusyError(
                "it has changed meanwhile; look again", field="device", value=namespace.name
            )

    path = namespace.rewriting = roster.path(namespace, association)
    try:
        await rewrite(path, engine.log, engine.unknown, namespace.lba_bytes, check)
        check()
    finally:
        namespace.rewriting = None
        if association.error is not None:
            # What was under way may land for as long as the old controller can execute it.
            namespace.rewrite_fences.append(association.fence)
    engine.unverified = False


def _require(given: bool, namespace: Namespace, option: str, effect: str) -> None:
    if not given:
        raise ConfigError(
            f"it is paused because {namespace.engine.reason}; {option} {effect}",
            field="device",
            value=namespace.name,
        )


def _accept_identity(namespace: Namespace, association: Association) -> None:
    offered = namespace.offered
    assert offered is not None, "asked before"
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
        again, where = "", ""
        try:
            differences = await compare(
                roster.path(namespace, association),
                engine.log,
                engine.unknown,
                namespace.lba_bytes,
            )
        except (CommandError, DataDigestError) as error:
            again = f"what was not flushed could not be read back yet: {error}"
        else:
            where = ", ".join(str(difference) for difference in differences)
        # It may have been held, or looked at anew, meanwhile.
        if roster.unverified.get(nsid) is not namespace or association.error is not None:
            continue
        del roster.unverified[nsid]
        if again:
            engine.hold(again)
            engine.recheck(again)
        elif where:
            roster.pause_for_loss(namespace, where)
        else:
            engine.unverified = False
            roster.resume(namespace, association)
