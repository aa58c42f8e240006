"""What is shown of a controller: `devlist`, and the contents of its node."""

from typing import TYPE_CHECKING

import trio

from .messages import ControllerInfo, Parameter, QueueInfo, RefusedNamespace

if TYPE_CHECKING:
    from .association import Association
    from .controller import Controller
    from .qpair import HostQueue


def controller_info(controller: "Controller") -> ControllerInfo:
    """A snapshot."""
    now = trio.current_time()
    params, association = controller.params, controller.association
    shown = association or controller.last_association
    identified = getattr(shown, "controller", None)
    next_at = controller.attempts.next_at
    return ControllerInfo(
        name=controller.name,
        state=controller.state.value,
        subnqn=params.subnqn,
        transport=params.transport,
        address=str(params.address),
        endpoint=str(association.endpoint) if association is not None else "",
        hostnqn=params.identity.nqn,
        hostid=str(params.identity.hostid),
        cntlid=association.cntlid if association is not None else None,
        serial=identified.sn if identified else "",
        model=identified.mn if identified else "",
        firmware=identified.fr if identified else "",
        version=str(shown.version) if shown is not None and identified else "",
        since_s=now - controller.since,
        last_error=controller.last_error,
        attempts=controller.attempts.count,
        next_attempt_s=None if next_at is None else max(0.0, next_at - now),
        gives_up_in_s=_left_s(controller.outage.gives_up_at, now),
        fails_fast_in_s=_left_s(controller.outage.fails_fast_at, now),
        fences=sum(fence.matters for fence in controller.fences.standing()),
        associations=controller.associations,
        parameters=_parameters(controller, association),
        queues=_queues(association),
        namespaces=tuple(
            namespace.info() for _, namespace in sorted(controller.namespaces.items())
        ),
        refused=tuple(
            RefusedNamespace(nsid=refused.nsid, reason=refused.reason)
            for _, refused in sorted(controller.roster.refused.items())
        ),
    )


def _left_s(at: float, now: float) -> float | None:
    return None if at == float("inf") else max(0.0, at - now)


def _parameters(
    controller: "Controller", association: "Association | None"
) -> dict[str, Parameter]:
    shown = controller.params.parameters()
    if association is not None:
        in_effect: dict[str, int | float] = {
            "kato_s": association.kato_s,
            "nr_io_queues": len(association.io),
        }
        if association.io:
            in_effect["queue_size"] = association.io[0].entries
        for name, value in in_effect.items():
            if shown[name].value != value:
                shown[name] = Parameter(value=value, origin="granted")
    return shown


def _queues(association: "Association | None") -> tuple[QueueInfo, ...]:
    if association is None:
        return ()
    return tuple(_queue(queue) for queue in association.queues)


def _queue(queue: "HostQueue") -> QueueInfo:
    limits = queue.qpair.limits
    return QueueInfo(
        qid=queue.qid,
        entries=queue.entries,
        outstanding=queue.outstanding,
        commands=queue.commands,
        waiting=queue.waiting,
        header_digest=limits.header_digest,
        data_digest=limits.data_digest,
        sq_flow_control=queue.sq_flow_control,
    )
