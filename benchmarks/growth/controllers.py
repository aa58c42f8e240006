"""1 to 200 controllers: connecting, doing nothing, and coming back after an outage."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from .curves import Bar, Curve, Points
from .processes import Session, Stopwatch, idle_share, memory_bytes, session
from .rig import Setting, Target
from .target import subnqn

NUMBERS: Final = (1, 25, 50, 100, 150, 200)
MOST: Final = NUMBERS[-1]
CONNECT_BELOW_S: Final = 10.0
BACK_BELOW_S: Final = 15.0
IDLE_BELOW_PERCENT: Final = 2.0
_OF: Final = "controllers"
_OUTAGE_S: Final = 3.0
_LONGEST_S: Final = 60.0


def measure(setting: Setting) -> list[Curve]:
    """One after the other through one session; then all at once, and an outage."""
    return [*_one_by_one(setting), *_all_at_once(setting)]


def _connect(control: Session, target: Target, number: int) -> int:
    return control.submit("connect", address=target.address(number), subnqn=subnqn(number))


def _one_by_one(setting: Setting) -> list[Curve]:
    each: Points = []
    each_cpu: Points = []
    total: Points = []
    total_cpu: Points = []
    idle: Points = []
    memory: Points = []
    with setting.target(MOST) as target, setting.daemon() as mount:
        pid = mount.process.pid
        watch = Stopwatch(pid)
        wall_s = used_s = 0.0
        with session(mount.path) as control:
            for number in range(MOST):
                with watch.running():
                    _connect(control, target, number)
                    control.answer()
                wall_s += watch.wall_s
                used_s += watch.cpu_s
                each.append((number + 1, watch.wall_s))
                each_cpu.append((number + 1, watch.cpu_s))
                if number + 1 in setting.some(NUMBERS):
                    total.append((number + 1, wall_s))
                    total_cpu.append((number + 1, used_s))
                    memory.append((number + 1, memory_bytes(pid) / (1 << 20)))
                    idle.append((number + 1, 100 * idle_share(pid, setting.idle_s)))
    return [
        # Linear in the number would be worse than linear for all of them.
        _curve("connect, the one more", "s", each, judged=False),
        _curve("connect, the one more, CPU", "s", each_cpu, judged=False),
        _curve("connect all, one by one", "s", total, Bar(MOST, CONNECT_BELOW_S)),
        _curve("connect all, one by one, CPU", "s", total_cpu),
        _curve("idle", "% of a core", idle, Bar(MOST, IDLE_BELOW_PERCENT)),
        _curve("memory", "MiB", memory),
    ]


def _all_at_once(setting: Setting) -> list[Curve]:
    at_once: Points = []
    at_once_cpu: Points = []
    back: Points = []
    back_cpu: Points = []
    for number in setting.some(NUMBERS):
        with ExitStack() as targets, setting.daemon() as mount:
            first = targets.enter_context(setting.target(number))
            watch = Stopwatch(mount.process.pid)
            with session(mount.path) as control:
                with watch.running():
                    for each in range(number):
                        _connect(control, first, each)
                    for _ in range(number):
                        control.answer()
                at_once.append((number, watch.wall_s))
                at_once_cpu.append((number, watch.cpu_s))
                first.program.kill()
                time.sleep(_OUTAGE_S)
                targets.enter_context(setting.target(number, ports=first.ports))
                with watch.running():
                    _wait_until_live(mount.path, number)
                back.append((number, watch.wall_s))
                back_cpu.append((number, watch.cpu_s))
    return [
        _curve("connect all, at once", "s", at_once, Bar(MOST, CONNECT_BELOW_S)),
        _curve("connect all, at once, CPU", "s", at_once_cpu),
        # When the next attempt is due decides for a few, how much there is to do for many.
        _curve("back after an outage", "s", back, Bar(MOST, BACK_BELOW_S), judged=False),
        _curve("back after an outage, CPU", "s", back_cpu),
    ]


def _wait_until_live(directory: Path, number: int) -> None:
    """Looks at one controller after the other, so that looking costs little."""
    begin = time.monotonic()
    for each in range(number):
        while json.loads((directory / f"nvme{each}").read_text())["state"] != "live":
            assert time.monotonic() < begin + _LONGEST_S, f"nvme{each} does not come back"
            time.sleep(0.02)


def _curve(
    name: str,
    unit: str,
    points: Points,
    bar: Bar | None = None,
    *,
    judged: bool = True,
) -> Curve:
    return Curve(name=name, of=_OF, unit=unit, points=tuple(points), bar=bar, judged=judged)
