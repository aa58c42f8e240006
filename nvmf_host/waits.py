"""Which requests of a namespace somebody waits for, and why they are not done."""

from collections.abc import Iterator

import attrs

from nvmf_transport.status import Status

from .change_line import ChangeLine
from .io_engine import IoEngine
from .io_request import IoRequest
from .relief import Relief


@attrs.frozen
class Wait:
    """A request that somebody waits for, and why it is not done."""

    request: IoRequest
    reason: str
    quarantined: bool = False
    #: It is with the controller.
    sent: bool = False


def waits_of(engine: IoEngine, line: ChangeLine, relief: Relief) -> list[Wait]:
    """All of one namespace, in the order of their arrival."""
    found = [
        *_performed(engine),
        *(
            Wait(queued.request, queued.reason, quarantined=queued.stuck)
            for queued in line.queued()
        ),
        *(Wait(request, "waits for a Flush") for request in relief.waiting()),
    ]
    return sorted(found, key=lambda wait: wait.request.order)


def _performed(engine: IoEngine) -> Iterator[Wait]:
    for request in engine.active:
        if engine.is_waiting(request):
            yield Wait(request, engine.reason)
        elif not request.finished and not request.outstanding:
            status = Status.from_field(request.status)
            yield Wait(request, f"is tried again after a while: {status}")
        elif not request.finished or request.merge is None:
            yield Wait(request, "sent, and not answered yet", sent=True)
        # Else one of the reads before its next attempt is here.
