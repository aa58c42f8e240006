"""What the scenarios contained, with the least that a thousand of them must."""

from collections import Counter
from typing import Final

#: In 1,000 scenarios.  Less would mean that the scenarios prove less than they seem to.
MINIMUM: Final = {
    "breaks inside command": 12,
    "breaks inside command with data": 7,
    "breaks inside R2T": 5,
    "breaks inside H2CData": 3,
    "breaks inside C2HData": 40,
    "breaks inside response": 10,
    "cuts": 320,
    "deaf": 20,
    "freeze": 25,
    "crash": 21,
    "impostor": 20,
    "remapped": 20,
    "remap": 15,
    "other host": 30,
    "spoil": 20,
    "status": 20,
    "grow": 20,
    "shrink": 20,
    "growth used": 60,
    "found smaller": 80,
    "writes of another host": 15,
    "cache losses": 15,
    "losses written again": 3,
    "losses given up": 2,
    "callers killed": 800,
    "unaligned writes": 500,
    "writes sent again": 700,
    "overlapping writes sent again": 200,
    "reads by a task": 2500,
    "reads launched": 1000,
    "writes by a task": 2500,
    "writes launched": 2000,
    "launches without a task": 1700,
    "launches with a task": 1300,
    "launches sent again": 90,
    "ghosts": 80,
    "ghosts while the host was back": 60,
    "ghosts while the controller quiesced": 10,
    "late completions after a kill": 250,
    "reconnections by hand": 70,
    "fences vouched for": 13,
    "failed fast": 140,
    "failed by the loss timeout": 29,
    "connections after a loss timeout": 19,
    "replay limits": 3,
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
