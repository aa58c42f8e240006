"""Plans, as hypothesis draws and shrinks them."""

from typing import Final

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
    + [FaultKind.SPOIL, FaultKind.STATUS]
)
_MESSAGES = [None, None, None, None, *MessageKind, MessageKind.R2T, MessageKind.COMMAND_DATA]
_BREAKS = frozenset({FaultKind.CUT, FaultKind.DEAF})


@attrs.frozen
class Turn:
    """What the scenarios of a batch must have: the kind of their first fault, and where.

    `volatile` is that of all namespaces' caches, None for any; with `accept` what is lost is given
    up.
    """

    kind: FaultKind | None = None
    on: MessageKind | None = None
    volatile: bool | None = None
    accept: bool = False


#: Left alone, hypothesis draws much of one thing and little of another, as its version and the
#: modules that happen to be loaded have it.  With turns, no kind of fault is ever left out.
TURNS: Final = (
    *(Turn(FaultKind.CUT, on) for on in MessageKind),
    Turn(),
    Turn(FaultKind.CRASH, MessageKind.C2H_DATA, volatile=True),
    *(
        Turn(kind, volatile=False if kind is FaultKind.OTHER_HOST else None)
        for kind in FaultKind
        if kind not in {FaultKind.CUT, FaultKind.CRASH}
    ),
    Turn(),
    Turn(FaultKind.CRASH, MessageKind.C2H_DATA, volatile=True, accept=True),
)


@st.composite
def plans(draw: DrawFn, turn: Turn = TURNS[-2]) -> Plan:
    """A whole scenario."""
    allowed = [shape for shape in _SHAPES if turn.volatile in {None, shape.volatile}]
    shapes = tuple(draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=2)))
    ops = _ops(shapes)
    workers = tuple(
        tuple(draw(st.lists(ops, min_size=1, max_size=14))) for _ in range(draw(st.integers(1, 4)))
    )
    faults = tuple(draw(st.lists(_faults(), min_size=1, max_size=4)))
    if turn.kind is not None:
        faults = (draw(_faults(turn.kind, turn.on)), *faults[1:])
    by_hand = draw(st.sampled_from([0, 0, 300, 2000]))
    return Plan(
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
        reconnect_delay_s=0.0 if by_hand else draw(st.sampled_from([0.5, 1.0, 4.0])),
        by_hand_ms=by_hand,
        accept=turn.accept or draw(st.sampled_from([False, False, True])),
        slow=draw(st.sampled_from([0, 10, 40])),
    )


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
    )


@st.composite
def _faults(
    draw: DrawFn, given: FaultKind | None = None, given_on: MessageKind | None = None
) -> Fault:
    kind = given or draw(st.sampled_from(_FAULTS))
    on = given_on or (draw(st.sampled_from(_MESSAGES)) if kind in _BREAKS else None)
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
    nth = draw(st.integers(0, 5 if given_on is None else 2)) if on is not None else 0
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
