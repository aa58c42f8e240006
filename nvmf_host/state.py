"""The two state machines of the host: one enum and one table each, and one function that moves."""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from nvmf_transport.errors import LocalProtocolError


class ControllerState(enum.Enum):
    """What a controller is doing."""

    #: The first attempt is under way, or waiting for the next after a failed one.
    CONNECTING = "connecting"
    LIVE = "live"
    #: The association ended; waiting for the next attempt, or for a hand.
    LOST = "lost"
    RECONNECTING = "reconnecting"
    CLOSING = "closing"
    CLOSED = "closed"


class NamespaceState(enum.Enum):
    """What happens to I/O of a namespace."""

    LIVE = "live"
    #: I/O waits: there is no association, or the namespace is being identified.
    HELD = "held"
    #: Ambiguous writes are being sent again; everything else waits.
    REPLAYING = "replaying"
    #: I/O waits for a hand: this is not the namespace that it was.
    PAUSED = "paused"
    #: I/O fails.
    GONE = "gone"


class PauseCause(enum.Enum):
    """Why a namespace waits for a hand; the value names it in messages."""

    #: It is not the same namespace.
    IDENTITY = "identity"
    #: It is not there, or cannot be served any more.
    MISSING = "missing"
    #: The medium does not have what was acknowledged.
    UNFLUSHED_LOST = "unflushed-lost"
    #: The outage was so long that another host may have taken it over.
    REPLAY_LIMIT = "replay-limit"


_C, _N = ControllerState, NamespaceState

CONTROLLER_TRANSITIONS: Final[Mapping[ControllerState, frozenset[ControllerState]]] = {
    _C.CONNECTING: frozenset({_C.LIVE, _C.LOST, _C.CLOSING}),
    _C.LIVE: frozenset({_C.LOST, _C.CLOSING}),
    _C.LOST: frozenset({_C.RECONNECTING, _C.CLOSING}),
    _C.RECONNECTING: frozenset({_C.LIVE, _C.LOST, _C.CLOSING}),
    _C.CLOSING: frozenset({_C.CLOSED}),
    _C.CLOSED: frozenset(),
}

NAMESPACE_TRANSITIONS: Final[Mapping[NamespaceState, frozenset[NamespaceState]]] = {
    _N.LIVE: frozenset({_N.HELD, _N.GONE}),
    _N.HELD: frozenset({_N.LIVE, _N.REPLAYING, _N.PAUSED, _N.GONE}),
    _N.REPLAYING: frozenset({_N.LIVE, _N.HELD, _N.GONE}),
    # A paused namespace goes back through HELD: it is identified again before anything resumes.
    _N.PAUSED: frozenset({_N.HELD, _N.GONE}),
    _N.GONE: frozenset(),
}

_State = TypeVar("_State", ControllerState, NamespaceState)


def moved(table: Mapping[_State, frozenset[_State]], old: _State, new: _State) -> _State:
    """Returns `new` where the table allows the step from `old`; else `LocalProtocolError`."""
    if new not in table[old]:
        raise LocalProtocolError(f"no transition from {old.value} to {new.value}")
    return new
