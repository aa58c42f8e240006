"""Plans, as hypothesis draws and shrinks them."""

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .plan import (
    CELL_BYTES,
    Fault,
    FaultKind,
    MessageKind,
    Op,
    OpKind,
    Outage,
    Plan,
    Queues,
    Shape,
)

_HOT_LBAS = 6
_SHAPES = [
    Shape(lba_bytes=512, size_lbas=48, noiob_lbas=noiob, volatile=volatile)
    for noiob in (0, 4)
    for volatile in (False, True)
] + [
    Shape(lba_bytes=4096, size_lbas=8, noiob_lbas=noiob, volatile=volatile)
    for noiob in (0, 2)
    for volatile in (False, True)
]
_KINDS = [OpKind.WRITE] * 6 + [OpKind.READ] * 5 + [OpKind.FLUSH, OpKind.WRITE_ZEROES]
_KINDS += [OpKind.DEALLOCATE]
_FAULTS = (
    [FaultKind.CUT] * 4
    + [FaultKind.DEAF] * 2
    + [FaultKind.FREEZE, FaultKind.CRASH, FaultKind.CRASH]
    + [FaultKind.IMPOSTOR, FaultKind.REMAPPED, FaultKind.REMAP, FaultKind.REMAP]
    + [FaultKind.OTHER_HOST, FaultKind.OTHER_HOST]
    + [FaultKind.SPOIL, FaultKind.STATUS, FaultKind.GROW, FaultKind.SHRINK]
)
#: Those that are not whole LBAs, or meet a namespace that waits, have a task all the same.
_LAUNCHED = [True, True, False]
#: How late a launched request's task comes; an association can be lost and made again meanwhile.
_LATE_MS = [0, 0, 0, 1, 10, 60]
_MESSAGES = [None, None, None, None, *MessageKind, MessageKind.R2T, MessageKind.COMMAND_DATA]
_BREAKS = frozenset({FaultKind.CUT, FaultKind.DEAF})


class Duel(enum.Enum):
    """What callers do who are after the same LBA all the time."""

    WRITERS = "all write"
    READERS = "one writes, the others read"
    KILLED = "all write, and most are killed"
    EDGES = "all write parts of it"


@attrs.frozen
class Turn:
    """What the scenarios of a batch must have: the kind of their first fault, and where.

    `volatile` is that of all namespaces' caches, None for any; `given` are fields of `Plan`, and
    `struck` of that fault.
    """

    kind: FaultKind | None = None
    on: MessageKind | None = None
    volatile: bool | None = None
    duel: Duel | None = None
    given: Mapping[str, Any] = attrs.field(factory=dict)
    struck: Mapping[str, Any] = attrs.field(factory=dict)


_GHOSTLY: Final[Mapping[str, Any]] = {
    "sloppy": True,
    "cross_reset": False,
    "slow": 40,
    "by_hand_ms": 0,
    "reconnect_delay_s": 0.5,
    "kato_s": 2,
}
_LINGERING: Final[Mapping[str, Any]] = {
    "queues": Queues.ALL,
    "outage": Outage.NONE,
    "duration_ms": 0,
    "linger": 100,
}
_LONG_OUTAGE: Final[Mapping[str, Any]] = {
    "queues": Queues.ALL,
    "outage": Outage.REFUSE,
    "duration_ms": 3000,
}

#: Left alone, hypothesis draws much of one thing and little of another, as its version and the
#: modules that happen to be loaded have it.  With turns, no kind of fault is ever left out.
TURNS: Final = (
    *(Turn(FaultKind.CUT, on) for on in MessageKind),
    Turn(),
    *(
        Turn(kind)
        for kind in FaultKind
        if kind not in {FaultKind.CUT, FaultKind.CRASH, FaultKind.OTHER_HOST}
    ),
    Turn(FaultKind.OTHER_HOST, volatile=False, duel=Duel.EDGES, given={"slow": 40}),
    # What was read must not be gone for the next reader.
    Turn(FaultKind.CRASH, MessageKind.C2H_DATA, volatile=True),
    Turn(FaultKind.CRASH, MessageKind.C2H_DATA, volatile=True, given={"accept": True}),
    Turn(
        FaultKind.CRASH,
        MessageKind.C2H_DATA,
        volatile=True,
        duel=Duel.READERS,
        given={"slow": 0},
    ),
    # Ghosts, and who keeps them off.
    Turn(FaultKind.CUT, duel=Duel.WRITERS, given=_GHOSTLY, struck=_LINGERING),
    Turn(
        FaultKind.CUT,
        duel=Duel.WRITERS,
        given={**_GHOSTLY, "tbkas": False, "cqt_ms": 700},
        struck=_LINGERING,
    ),
    # All that lingers for more than half of the time lands while the controller quiesces.
    Turn(
        FaultKind.CUT,
        duel=Duel.WRITERS,
        given={**_GHOSTLY, "kato_s": 1, "cqt_ms": 3000},
        struck=_LINGERING,
    ),
    Turn(
        FaultKind.CUT,
        duel=Duel.WRITERS,
        given={**_GHOSTLY, "cross_reset": True},
        struck={**_LINGERING, "queues": Queues.IO},
    ),
    Turn(FaultKind.CUT, duel=Duel.WRITERS, given={**_GHOSTLY, "kato_s": 0}, struck=_LINGERING),
    Turn(given={"kato_s": 0}),
    Turn(duel=Duel.KILLED, given={"slow": 40}),
    # Limits.
    *(
        Turn(FaultKind.CUT, given=limit, struck=_LONG_OUTAGE)
        for limit in (
            {"fast_io_fail_ms": 300},
            {"loss_timeout_ms": 700},
            {"replay_limit_ms": 500, "sloppy": False},
        )
    ),
    Turn(
        FaultKind.CUT,
        duel=Duel.WRITERS,
        given={**_GHOSTLY, "fast_io_fail_ms": 0},
        struck=_LINGERING,
    ),
    Turn(
        FaultKind.CUT,
        duel=Duel.WRITERS,
        given={**_GHOSTLY, "loss_timeout_ms": 200},
        struck={**_LINGERING, "outage": Outage.REFUSE, "duration_ms": 600},
    ),
)
_IN_TURN: Final = Turn()
#: What makes a namespace another one: nobody may connect to that as if it were new.
_OTHERS: Final = {
    FaultKind.IMPOSTOR,
    FaultKind.REMAPPED,
    FaultKind.REMAP,
    FaultKind.GROW,
    FaultKind.SHRINK,
}


@st.composite
def plans(draw: DrawFn, turn: Turn = _IN_TURN) -> Plan:
    """A whole scenario."""
    allowed = [shape for shape in _SHAPES if turn.volatile in {None, shape.volatile}]
    shapes = tuple(draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=2)))
    if turn.duel is None:
        ops = _ops(shapes)
        workers = tuple(
            tuple(draw(st.lists(ops, min_size=1, max_size=14)))
            for _ in range(draw(st.integers(1, 4)))
        )
    else:
        workers = draw(_duels(turn.duel, shapes[0]))
    faults = tuple(draw(st.lists(_faults(), min_size=1, max_size=4)))
    if turn.kind is not None:
        first = attrs.evolve(draw(_faults(turn.kind, turn.on, turn.duel)), **turn.struck)
        # What else goes wrong makes way for a duel.
        faults = (first, *(faults[1:] if turn.duel is None else ()))
    by_hand = draw(st.sampled_from([0, 0, 300, 2000]))
    plan = Plan(
        shapes=shapes,
        workers=workers,
        faults=faults,
        schedule=draw(st.integers(0, 1 << 20)),
        sloppy=draw(st.booleans()),
        cross_reset=draw(st.booleans()),
        io_queues=draw(st.integers(1, 3)),
        queue_entries=draw(st.sampled_from([8, 3, 16])),
        in_capsule_bytes=draw(st.sampled_from([4096, 4096, 0, 1024])),
        max_transfer_bytes=draw(st.sampled_from([8192, 16384])),
        flow_control=draw(st.booleans()),
        kato_s=draw(st.sampled_from([2, 1, 3])),
        tbkas=draw(st.sampled_from([True, True, False])),
        cqt_ms=draw(st.sampled_from([0, 0, 700])),
        reconnect_delay_s=0.0 if by_hand else draw(st.sampled_from([0.5, 1.0, 4.0])),
        by_hand_ms=by_hand,
        accept=draw(st.sampled_from([False, False, True])),
        slow=draw(st.sampled_from([0, 10, 40])),
    )
    plan = attrs.evolve(plan, **turn.given)
    if plan.loss_timeout_ms is not None:
        plan = attrs.evolve(
            plan, faults=tuple(fault for fault in faults if fault.kind not in _OTHERS)
        )
    return plan


@st.composite
def _duels(draw: DrawFn, duel: Duel, shape: Shape) -> tuple[tuple[Op, ...], ...]:
    """A few callers at the first LBA.

    Writers are done before an old copy lands, if nothing holds them back: it would be the last.
    """
    cells = shape.lba_bytes // CELL_BYTES
    reads = duel is Duel.READERS
    thinks, shortest, longest = [0, 10, 60, 400], 2, 6
    if reads:
        thinks, shortest, longest = [0, 1, 3], 10, 16
    elif duel is Duel.KILLED:
        thinks, shortest, longest = [0, 1, 3, 60], 10, 16
    patience: list[int | None] = [4, 30, None] if duel is Duel.KILLED else [None]
    parts = [(0, cells)]
    if duel is Duel.EDGES:
        # Inside the LBA, and across its end: that takes two reads before the write.
        parts = [(0, 1), (1, 1), (cells - 1, 2), (cells - 1, 2), (cells - 2, 3)]

    def some(*kinds: OpKind) -> SearchStrategy[tuple[Op, ...]]:
        op = st.builds(
            lambda kind, think, patience_ms, part, launched, late_ms: Op(
                kind,
                0,
                part[0],
                part[1],
                think_ms=think,
                patience_ms=None if kind is OpKind.READ else patience_ms,
                launched=launched,
                late_ms=late_ms,
            ),
            st.sampled_from(kinds),
            st.sampled_from(thinks),
            st.sampled_from(patience),
            st.sampled_from(parts),
            st.sampled_from(_LAUNCHED),
            st.sampled_from(_LATE_MS),
        )
        return st.lists(op, min_size=shortest, max_size=longest).map(tuple)

    writer = some(OpKind.WRITE)
    other = some(OpKind.READ) if reads else some(OpKind.WRITE, OpKind.WRITE, OpKind.READ)
    return (draw(writer), *(draw(other) for _ in range(draw(st.integers(1, 3)))))


def _ops(shapes: tuple[Shape, ...]) -> SearchStrategy[Op]:
    return st.one_of(*(_ops_of(index, shape) for index, shape in enumerate(shapes)))


@st.composite
def _ops_of(draw: DrawFn, index: int, shape: Shape) -> Op:
    """Mostly few LBAs that all fight for, so that calls overlap."""
    kind = draw(st.sampled_from(_KINDS))
    per_lba = shape.lba_bytes // CELL_BYTES
    if kind is OpKind.FLUSH:
        start, cells = 0, 0
    else:
        first = draw(st.integers(0, _HOT_LBAS - 1))
        length = min(draw(st.sampled_from([1, 1, 2, 4, 20])), shape.size_lbas - first)
        start, cells = first * per_lba, length * per_lba
        if kind in {OpKind.READ, OpKind.WRITE} and draw(st.booleans()):
            skip = draw(st.integers(0, per_lba - 1))
            start, cells = start + skip, cells - skip
            cells -= draw(st.integers(0, min(per_lba, cells) - 1))
    return Op(
        kind=kind,
        namespace=index,
        start=start,
        cells=cells,
        think_ms=draw(st.sampled_from([0, 0, 1, 3, 10, 60, 400])),
        fua=kind in {OpKind.WRITE, OpKind.WRITE_ZEROES} and draw(st.integers(0, 3)) == 3,
        patience_ms=draw(st.sampled_from([None, None, None, None, None, 0, 4, 30, 400])),
        launched=draw(st.sampled_from(_LAUNCHED)),
        late_ms=draw(st.sampled_from(_LATE_MS)),
    )


@st.composite
def _faults(
    draw: DrawFn,
    given: FaultKind | None = None,
    given_on: MessageKind | None = None,
    duel: Duel | None = None,
) -> Fault:
    kind = given or draw(st.sampled_from(_FAULTS))
    on = given_on
    if on is None and duel is None and kind in _BREAKS:
        on = draw(st.sampled_from(_MESSAGES))
    if kind is FaultKind.CRASH and given is None:
        # Just after somebody has read: what was read must not be gone for the next one.
        on = draw(st.sampled_from([None, MessageKind.C2H_DATA, MessageKind.C2H_DATA]))
    if kind is FaultKind.REMAP and draw(st.booleans()):
        # While the host comes back it reads two pages, and two more of each namespace.
        return Fault(
            kind,
            at_ms=draw(st.integers(0, 100)),
            on=MessageKind.C2H_DATA,
            nth=draw(st.integers(1, 7)),
            queues=Queues.ADMIN,
            duration_ms=draw(st.sampled_from([300, 2000])),
        )
    most = 30 if duel is not None else 5 if given_on is None else 2
    nth = draw(st.integers(0, most)) if on is not None else 0
    queues = [Queues.ALL, Queues.IO] if given_on is not None else list(Queues)
    return Fault(
        kind=kind,
        at_ms=draw(st.integers(0, 200 if on is None else 50)),
        on=on,
        nth=nth,
        queues=draw(st.sampled_from(queues)),
        outage=draw(st.sampled_from(Outage)) if kind in _BREAKS else Outage.NONE,
        duration_ms=draw(st.sampled_from([0, 20, 300, 2000, 7000])),
        linger=draw(st.sampled_from([0, 100, 30, 100])),
    )
