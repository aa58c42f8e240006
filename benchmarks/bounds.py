"""Ratios within rounds, their median, and how far down it may be: by order statistics.

Nothing is assumed of how figures are distributed but that rounds do not depend on each other.  The
k-th smallest of n lies above the true median only where fewer than k of them lie below it, which
has the probability P(Bin(n, 1/2) < k); the bound is the largest k for which that is at most 10 %:
of nine rounds the third smallest, which holds with 91 %.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .results import Results

CONFIDENCE: Final = 0.90


def bound_index(count: int, confidence: float = CONFIDENCE) -> int | None:
    """The index, from 0, of the lower bound among so many sorted values; None for too few."""
    below, found = 0.0, None
    for index in range(count):
        below += math.comb(count, index) / 2**count
        if below > 1 - confidence:
            break
        found = index
    return found


@attrs.frozen
class Spread:
    """A median, and its lower and upper bounds of 90 % each; None for fewer than four values."""

    median: float
    lower: float | None
    upper: float | None
    count: int


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    ordered = sorted(values)
    index = bound_index(len(ordered))
    return Spread(
        statistics.median(ordered),
        None if index is None else ordered[index],
        None if index is None else ordered[-1 - index],
        len(ordered),
    )


def ratio(results: Results, row: str, contender: str, against: Sequence[str]) -> Spread | None:
    """Throughput of one by the better of the others in the same round, over all rounds.

    Only rounds in which all were measured count; None where there are none.  One of `against` that
    never bore the row's load is left out.
    """
    others = [by_round for name in against if (by_round := _by_round(results, row, name))]
    ours = _by_round(results, row, contender)
    rounds = set(ours).intersection(*others) if others else set()
    if not rounds:
        return None
    return spread(ours[n] / max(other[n] for other in others) for n in rounds)


def _by_round(results: Results, row: str, contender: str) -> dict[int, float]:
    return {sample.round: sample.operations_per_s for sample in results.of(row, contender)}
