"""Whether a history can have happened to registers, one for each cell.

Every write leaves a value of its own, so that every read names its write; then a history of one
register is linearizable if and only if (Gibbons and Korach, "Testing shared memories", 1997) no
read ends before its write begins, and the *zones* of the values agree.  A value's zone lies between
the first end and the last beginning among its write and reads: where the end comes first, the
value must have been there all the time between (forward), else it needs one moment in it
(backward).  No two forward zones overlap, and none contains a backward zone.

A cell that fails this is looked at again where a target lost its volatile cache: then a search
over all orders decides, in which a loss may take the register back to what was durable.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import attrs

from .history import CHANGES, GARBAGE, INITIAL, NEVER, History, Record
from .plan import OpKind

#: A write or a read of one cell: value, when it began and when it ended.
Access = tuple[int, float, float]
_BEGINNING: Final = (-2.0, -1.0)
#: The search gives up, and the history passes, after so many steps.
_MAX_STEPS: Final = 200_000


@attrs.define(eq=False)
class _Cluster:
    """A value's write with its reads."""

    began: float
    last_start: float
    first_end: float
    wanted: bool


def register_fault(
    writes: Sequence[Access],
    reads: Iterable[Access],
    landed_by: Mapping[int, float] = MappingProxyType({}),
) -> str | None:
    """Why these accesses to one register cannot be ordered, or None.

    A write that never ended may have happened or not; `landed_by` says of some, by their values,
    until when, if at all.
    """
    clusters = {INITIAL: _Cluster(*_BEGINNING[:1], _BEGINNING[0], _BEGINNING[1], wanted=True)}
    for value, began, ended in writes:
        clusters[value] = _Cluster(began, began, ended, wanted=ended != NEVER)
    for value, by in landed_by.items():
        clusters[value].first_end = min(clusters[value].first_end, by)
    for value, began, ended in reads:
        cluster = clusters.get(value)
        if cluster is None:
            return "garbage" if value == GARBAGE else f"{value}, which nobody wrote there"
        if ended < cluster.began:
            return f"{value} was read before it was written"
        cluster.wanted = True
        cluster.last_start = max(cluster.last_start, began)
        cluster.first_end = min(cluster.first_end, ended)
    forward = []
    backward = []
    for value, cluster in clusters.items():
        if not cluster.wanted:
            continue
        if cluster.first_end < cluster.last_start:
            forward.append((cluster.first_end, cluster.last_start, value))
        else:
            backward.append((cluster.last_start, cluster.first_end, value))
    forward.sort()
    for (_, end, one), (start, _, other) in pairwise(forward):
        if start < end:
            return f"{one} came back after {other}, or the other way"
    for start, end, one in backward:
        for first, last, other in forward:
            if first < start and end < last:
                return f"{one} is gone: {other} was there before and after"
    return None


@attrs.frozen
class _Event:
    """For the search: something that happens at one moment between `began` and `ended`."""

    what: str
    value: int
    began: float
    ended: float
    durable: bool = False


def register_fault_with_losses(events: Sequence[_Event]) -> bool:
    """True where no order exists, a loss taking the register back to any value not flushed over.

    The medium may have got any value since the last one that had to be durable.
    """
    steps = 0
    seen: set[tuple[int, int, frozenset[int]]] = set()
    todo = [(0, INITIAL, frozenset({INITIAL}))]
    everything = 0
    for index, event in enumerate(events):
        if event.ended != NEVER:
            everything |= 1 << index
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        steps += 1
        done, view, media = state
        if done & everything == everything or steps > _MAX_STEPS:
            return False
        horizon = min(event.ended for index, event in enumerate(events) if not done >> index & 1)
        for index, event in enumerate(events):
            if done >> index & 1 or event.began > horizon:
                continue
            now = done | 1 << index
            if event.what == "write":
                value = event.value
                todo.append((now, value, frozenset({value}) if event.durable else media | {value}))
            elif event.what == "deallocate":
                # It reads as zeroes here; what it may read as after a loss was never promised.
                ever = {INITIAL, event.value} | {
                    other.value
                    for place, other in enumerate(events)
                    if done >> place & 1 and other.what == "write"
                }
                todo.append((now, event.value, frozenset(ever)))
            elif event.what == "flush":
                todo.append((now, view, frozenset({view})))
            elif event.what == "loss":
                todo.extend((now, value, frozenset({value})) for value in media)
            elif event.value == view:
                todo.append((now, view, media))
    return True


def find_fault(history: History, *, losses_admitted: bool) -> str | None:
    """The first cell whose history cannot have happened, or None.

    With `losses_admitted` the host tells when an acknowledged write is lost: none may be, but one
    whose outcome nobody was told.
    """
    if history.faults:
        return history.faults[0]
    writes: dict[tuple[int, int], list[Access]] = defaultdict(list)
    reads: dict[tuple[int, int], list[Access]] = defaultdict(list)
    changes: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in history.records:
        space, start = record.namespace, record.start
        began, ended = record.invoked, record.returned
        if record.kind in CHANGES:
            access = (record.written, began, ended)
            for cell in range(start, start + record.cells):
                writes[space, cell].append(access)
                changes[space, cell].append(record)
        elif record.kind is OpKind.READ and ended != NEVER:
            for cell, value in enumerate(record.values, start):
                reads[space, cell].append((value, began, ended))
    for place, of_cell in reads.items():
        why = register_fault(writes[place], of_cell, landed_by(changes[place]))
        if why is None:
            continue
        if history.losses and not register_fault_with_losses(
            _events(history, *place, losses_admitted=losses_admitted)
        ):
            continue
        return f"namespace {place[0]}, cell {place[1]}: {why}\n{_story(history, *place)}"
    return None


def landed_by(changes: Sequence[Record]) -> dict[int, float]:
    """Until when those land whose callers went without an answer, by what they leave.

    Old copies keep newer changes of the same LBAs waiting: once one is done that began after the
    caller had gone, nothing older lands any more.
    """
    return {
        gone.written: min(
            (newer.returned for newer in changes if newer.invoked > gone.left), default=NEVER
        )
        for gone in changes
        if gone.left != NEVER
    }


def _events(history: History, namespace: int, cell: int, *, losses_admitted: bool) -> list[_Event]:
    events = [_Event("loss", 0, at, at) for at in history.losses]
    for record in _touching(history, namespace, cell):
        began, ended = record.invoked, record.returned
        if record.kind in CHANGES:
            durable = ended != NEVER and (record.fua or losses_admitted)
            what = "deallocate" if record.kind is OpKind.DEALLOCATE else "write"
            events.append(_Event(what, record.written, began, ended, durable))
        elif ended == NEVER or record.failed:
            continue
        elif record.kind is OpKind.FLUSH:
            events.append(_Event("flush", 0, began, ended))
        else:
            events.append(_Event("read", record.values[cell - record.start], began, ended))
    return events


def _touching(history: History, namespace: int, cell: int) -> Iterable[Record]:
    for record in history.records:
        if record.namespace == namespace and (
            record.kind is OpKind.FLUSH or record.start <= cell < record.start + record.cells
        ):
            yield record


def _story(history: History, namespace: int, cell: int) -> str:
    lines = [(float(at), "the target lost its cache") for at in history.losses]
    for record in _touching(history, namespace, cell):
        match record.kind:
            case OpKind.READ:
                if record.returned == NEVER:
                    continue
                what = f"read {record.values[cell - record.start]}"
            case OpKind.FLUSH:
                what = "flush"
            case _:
                what = f"{record.kind.value} {record.written}{' FUA' if record.fua else ''}"
        end = "cancelled" if record.cancelled else f"{record.returned:g}"
        lines.append((record.invoked, f"{what}, until {end}"))
    return "\n".join(f"  {at:5g}: {what}" for at, what in sorted(lines))
