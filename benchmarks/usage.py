"""What processes use of the machine: CPU time and memory, as the kernel counts it for them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
#: To clear_refs: VmHWM starts again from what is used now.
_RESET_PEAK: Final = "5"


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time that these processes have used, all their threads together, ended ones too."""
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / _TICKS_PER_S


def family(pids: Sequence[int]) -> tuple[int, ...]:
    """These processes, and those that they have started."""
    children = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in pids]
    return (*pids, *(int(child) for each in children for child in each))


def reset_peak(pids: Sequence[int]) -> None:
    """Has `peak_bytes` count from now on."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def peak_bytes(pids: Sequence[int]) -> int:
    """The most memory that each has had (VmHWM), together."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        total += int(line.split()[1]) * 1024
    return total


@attrs.frozen
class Usage:
    """Of one side, while something was measured; None where its processes are not ours to see."""

    cpu_s: float | None
    peak_bytes: int | None


@attrs.define(eq=False)
class Meter:
    """Measures one side: from `start` to `stop`."""

    pids: tuple[int, ...]
    _before_s: float = 0.0

    def start(self) -> None:
        reset_peak(self.pids)
        self._before_s = cpu_s(self.pids)

    def stop(self) -> Usage:
        if not self.pids:
            return Usage(None, None)
        return Usage(cpu_s(self.pids) - self._before_s, peak_bytes(self.pids))
