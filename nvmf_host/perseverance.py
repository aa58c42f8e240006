"""Goes on with a request whose attempt did not just succeed; nothing else retries."""

from typing import TYPE_CHECKING, Final

import trio

from nvmf_transport.errors import CommandError, DataDigestError
from nvmf_transport.status import INVALID_NAMESPACE, Status

from .io_request import IoRequest
from .patience import Patience
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
_SENDING: Final = frozenset({NamespaceState.LIVE, NamespaceState.REPLAYING})


async def persevere(engine: "IoEngine", request: IoRequest, mark: int) -> None:
    """Sees a request through after its first attempt, of which `mark` is; see `IoEngine.perform`.

    Raises `CommandError`, `DataDigestError`, `NamespaceGoneError`, or what ended the wait for it.
    """
    patience = request.patience or Patience()
    immediate = 0
    while True:
        if request.error is not None:
            raise request.error
        patience.tried_over(None if request.path is None else request.path.fence)
        if not request.well:
            engine.note_doubt(request)
        if request.lost:
            immediate = 0
            patience.begin_time_anew()
            if engine.state in _SENDING:
                # A queue that died before anybody held the namespace must not spin the loop.
                await trio.lowlevel.checkpoint()
            mark = await _try_again(engine, request)
            continue
        if request.digest_error:
            immediate += 1
            if immediate > MAX_IMMEDIATE_RETRIES:
                _fail(engine, DataDigestError(f"{engine.name}: {_what(request)}: data digest"))
            mark = await _try_again(engine, request)
            continue
        if not request.status:
            engine.acknowledge(request, mark)
            return
        status = Status.from_field(request.status)
        error = CommandError(status, f"{engine.name}: {_what(request)}")
        match action_for(status):
            case Action.RETRY_NOW if immediate < MAX_IMMEDIATE_RETRIES:
                immediate += 1
            case Action.RETRY_LATER if (
                patience.give_up_at is None or trio.current_time() < patience.give_up_at
            ):
                engine.check()
                engine.last_error = f"retrying: {error}"
                await _sleep(engine, request, patience, status)
            case Action.WAIT if (
                status.code != INVALID_NAMESPACE.code or patience.rechecks < _MAX_RECHECKS
            ):
                if status.code == INVALID_NAMESPACE.code:
                    patience.rechecks += 1
                patience.begin_time_anew()
                if engine.state in _SENDING:
                    engine.last_error = str(error)
                    engine.hold(f"waiting: {error}")
                    engine.recheck(f"{_what(request)}: {status}")
            case _:
                _fail(engine, error)
        mark = await _try_again(engine, request)


async def _sleep(
    engine: "IoEngine", request: IoRequest, patience: Patience, status: Status
) -> None:
    """The time before a retry.  Raises what ends the wait for the request."""
    now = trio.current_time()
    if patience.give_up_at is None:
        patience.give_up_at = now + RETRY_LIMIT_S
    path = engine.path
    crdt_s = path.crdt_s if path is not None else (0.0, 0.0, 0.0)
    delay_s = retry_delay_s(status, patience.delayed, crdt_s)
    patience.delayed += 1
    request.has_slept = True
    request.finished = False
    # The last try is made when the time is up, whatever delay the controller asks.
    with trio.move_on_at(min(now + delay_s, patience.give_up_at)):
        # Nothing is outstanding: only being failed or killed ends this early.
        await request.wait()
    if request.error is not None:
        raise request.error
    request.finished = True


async def _try_again(engine: "IoEngine", request: IoRequest) -> int:
    if request.merge is not None:
        request.data = await request.merge(request)
    mark = engine.begin(request)
    await request.wait()
    return mark


def _fail(engine: "IoEngine", error: Exception) -> None:
    engine.last_error = str(error)
    raise error


def _what(request: IoRequest) -> str:
    where = f" of LBAs {request.slba}+{request.nlb}" if request.nlb else ""
    return f"{request.kind.value}{where}"
