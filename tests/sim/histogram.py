"""What the scenarios contained, with the least that a thousand of them must."""

from collections import Counter
from typing import Final

#: In 1,000 scenarios.  Less would mean that the scenarios prove less than they seem to.
MINIMUM: Final = {
    "breaks inside command": 10,
    "breaks inside command with data": 3,
    "breaks inside R2T": 4,
    "breaks inside H2CData": 4,
    "breaks inside C2HData": 8,
    "breaks inside response": 10,
    "cuts": 250,
    "freeze": 40,
    "crash": 60,
    "impostor": 25,
    "remapped": 15,
    "remap": 15,
    "other host": 25,
    "writes of another host": 6,
    "spoil": 25,
    "status": 25,
    "cache losses": 30,
    "callers killed": 300,
    "unaligned writes": 500,
    "writes sent again": 500,
    "overlapping writes sent again": 150,
    "ghosts": 100,
    "late completions after a kill": 100,
    "reconnections by hand": 50,
    "ghosts while the host was back": 100,
    "deaf": 30,
    "losses written again": 12,
    "losses given up": 6,
}


def table(counts: "Counter[str]", scenarios: int) -> str:
    """The histogram, a line each."""
    lines = [f"{scenarios} scenarios contained, at least"]
    for name in sorted(MINIMUM.keys() | counts.keys()):
        least = _least(name, scenarios)
        mark = "  TOO FEW" if counts[name] < least else ""
        lines.append(f"{counts[name]:8} {least:8}  {name}{mark}")
    return "\n".join(lines)


def shortages(counts: "Counter[str]", scenarios: int) -> list[str]:
    """What there was too little of."""
    return [name for name in MINIMUM if counts[name] < _least(name, scenarios)]


def _least(name: str, scenarios: int) -> int:
    return MINIMUM.get(name, 0) * scenarios // 1000
