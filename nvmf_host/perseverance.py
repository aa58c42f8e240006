"""Goes on with a request whose attempt did not just succeed; nothing else retries."""

from typing import TYPE_CHECKING, Final

import trio

from nvmf_transport.errors import CommandError, DataDigestError
from nvmf_transport.status import INVALID_NAMESPACE, Status

from .fencing import Fence
from .io_request import IoRequest
from .policy import (
    MAX_IMMEDIATE_RETRIES,
    RETRY_LIMIT_S,
    Action,
    action_for,
    retry_delay_s,
)
from .state import NamespaceState

if TYPE_CHECKING:
    from .io_engine import IoEngine

#: A namespace that is there when identified and yet "invalid" to I/O is given up on after so many.
_MAX_RECHECKS: Final = 3
_LIVE: Final = NamespaceState.LIVE
_SENDING: Final = frozenset({_LIVE, NamespaceState.REPLAYING})


async def persevere(engine: "IoEngine", request: IoRequest, mark: int) -> None:
    """Sees a request through after its first attempt, of which `mark` is; see `IoEngine.perform`.

    Raises `CommandError`, `DataDigestError`, `NamespaceGoneError`, or what ended the wait for it.
    """
    immediate = delayed = rechecks = 0
    give_up_at: float | None = None
    fence: Fence | None = None
    while True:
        if request.error is not None:
            raise request.error
        if request.lost or (request.path is not None and request.path.fence is not fence):
            # What was tried on an association that is over says nothing about the next one.
            fence = None if request.path is None else request.path.fence
            immediate = delayed = rechecks = 0
            give_up_at = None
        if not request.well:
            engine.note_doubt(request)
        if request.lost:
            if engine.state is _LIVE:
                # A queue that died before anybody held the namespace must not spin the loop.
                await trio.lowlevel.checkpoint()
            mark = await _try_again(engine, request)
            continue
        if request.digest_error:
            immediate += 1
            if immediate > MAX_IMMEDIATE_RETRIES:
                _fail(engine, DataDigestError(_describe(engine, request, "data digest")))
            mark = await _try_again(engine, request)
            continue
        if not request.status:
            engine.acknowledge(request, mark)
            return
        status = Status.from_field(request.status)
        error = CommandError(status, _describe(engine, request))
        match action_for(status):
            case Action.RETRY_NOW if immediate < MAX_IMMEDIATE_RETRIES:
                immediate += 1
            case Action.RETRY_LATER if give_up_at is None or trio.current_time() < give_up_at:
                now = trio.current_time()
                if give_up_at is None:
                    give_up_at = now + RETRY_LIMIT_S
                engine.last_error = f"retrying: {error}"
                path = engine.path
                crdt_s = path.crdt_s if path is not None else (0.0, 0.0, 0.0)
                # The last try is made when the time is up, whatever delay the controller asks.
                retry_at = min(now + retry_delay_s(status, delayed, crdt_s), give_up_at)
                request.finished = False
                with trio.move_on_at(retry_at):
                    # Nothing is outstanding: only being failed or killed ends this early.
                    await request.wait()
                    assert request.error is not None
                    raise request.error
                request.finished = True
                delayed += 1
            case Action.WAIT if rechecks < _MAX_RECHECKS or status.code != INVALID_NAMESPACE.code:
                rechecks += 1
                delayed = 0
                give_up_at = None
                if engine.state in _SENDING:
                    engine.last_error = str(error)
                    engine.hold(f"waiting: {error}")
                    engine.recheck(str(error))
            case _:
                _fail(engine, error)
        mark = await _try_again(engine, request)


async def _try_again(engine: "IoEngine", request: IoRequest) -> int:
    if request.merge is not None:
        request.data = await request.merge(request)
    mark = engine.begin(request)
    await request.wait()
    return mark


def _fail(engine: "IoEngine", error: Exception) -> None:
    engine.last_error = str(error)
    raise error


def _describe(engine: "IoEngine", request: IoRequest, what: str = "") -> str:
    where = f" of LBAs {request.slba}+{request.nlb}" if request.nlb else ""
    return f"{engine.name}: {request.kind.value}{where}{': ' + what if what else ''}"
