"""`paused`: a table of what waits, and what is in quarantine."""

from collections.abc import Sequence
from typing import Final

from nvmecontrol.failure import printable
from nvmf_host.messages import PausedResult, QuarantinedRange, WaitingRequest

from .sizes import human_bytes

_HEADINGS: Final = ("NODE", "OPERATION", "OFFSET", "LENGTH", "PID", "UID", "AGE", "HELD", "WHY")
#: What is longer is said once, below the table.
_MAX_REASON: Final = 60
#: Columns of words; the others are of numbers, but for the last.
_LEFT: Final = frozenset({0, 1})


def paused_lines(result: PausedResult) -> list[str]:
    """The lines of the table; one that says so where nothing waits."""
    lines: list[str] = []
    notes: dict[str, str] = {}
    if result.requests:
        lines += _table([_HEADINGS, *(_row(request, notes) for request in result.requests)])
    lines += [f"{number} {reason}" for reason, number in notes.items()]
    lines += [_quarantined(one) for one in result.quarantine]
    lines.append(_totals(result))
    return [printable(line) for line in lines]


def _row(request: WaitingRequest, notes: dict[str, str]) -> tuple[str, ...]:
    # A flush has neither a place nor a length.
    has_range = request.length_bytes > 0
    return (
        request.node,
        request.operation,
        str(request.offset_bytes) if has_range else "-",
        str(request.length_bytes) if has_range else "-",
        "-" if request.pid is None else str(request.pid),
        "-" if request.uid is None else str(request.uid),
        f"{request.age_s:.1f}s",
        human_bytes(request.held_bytes),
        _why(request, notes),
    )


def _why(request: WaitingRequest, notes: dict[str, str]) -> str:
    """Why it waits; a long reason goes to `notes`, by which it has a number."""
    reason = request.reason
    if len(reason) > _MAX_REASON:
        reason = notes.setdefault(reason, f"[{len(notes) + 1}]")
    marks = [
        mark
        for mark, there in (("ambiguous", request.ambiguous), ("quarantine", request.quarantined))
        if there
    ]
    return f"{', '.join(marks)}: {reason}" if marks else reason


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                cell.ljust(width) if index in _LEFT else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row[:-1], widths[:-1], strict=True))
            ]
            + [row[-1]]
        )
        for row in rows
    ]


def _quarantined(one: QuarantinedRange) -> str:
    last = one.slba + one.length_lbas - 1
    where = f"LBA {one.slba}" if one.length_lbas == 1 else f"LBAs {one.slba} to {last}"
    owner = one.node.rpartition("ns")[0]
    by_hand = f"nvmecontrol reconnect --fenced {owner}"
    if one.lifts_in_s is None:
        until = f"until the old controller is known to have stopped, or by hand: {by_hand}"
    else:
        until = f"for {one.lifts_in_s:.1f} seconds at most, or by hand: {by_hand}"
    return f"{one.node}: {where} in quarantine {until}"


def _totals(result: PausedResult) -> str:
    if not result.requests:
        return "Nothing waits."
    count, held = len(result.requests), sum(request.held_bytes for request in result.requests)
    parts = [f"{count} request{'s' if count != 1 else ''} waiting"]
    for word, matching in (
        ("ambiguous", sum(request.ambiguous for request in result.requests)),
        ("waiting for LBAs in quarantine", sum(request.quarantined for request in result.requests)),
    ):
        if matching:
            parts.append(f"{matching} {word}")
    most = result.max_held_bytes
    bound = "" if most is None else f" (at most {human_bytes(most)})"
    parts.append(f"{human_bytes(held)} held{bound}")
    return f"{', '.join(parts)}."
