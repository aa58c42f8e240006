"""Discovery logs of 1 to 10,000 entries."""

import json
import resource
import time
from typing import Final

from tests import programs

from .curves import Curve, Points
from .processes import cpu_s
from .rig import Setting

NUMBERS: Final = (1, 1000, 2500, 5000, 7500, 10000)
_OF: Final = "entries"


def measure(setting: Setting) -> list[Curve]:
    """`nvmecontrol discover`, and what the controller does for it."""
    wall: Points = []
    host: Points = []
    controller: Points = []
    for number in setting.some(NUMBERS):
        with setting.target(1, records=number) as target:
            begin, used = time.monotonic(), _children_s()
            served = cpu_s(target.program.process.pid)
            done = programs.nvmecontrol("--json", "discover", target.address(0))
            wall.append((number, time.monotonic() - begin))
            host.append((number, _children_s() - used))
            controller.append((number, cpu_s(target.program.process.pid) - served))
            assert len(json.loads(done.stdout)["entries"]) == number
    return [
        Curve(name="discover", of=_OF, unit="s", points=tuple(wall)),
        Curve(name="discover, host's CPU", of=_OF, unit="s", points=tuple(host)),
        Curve(name="discover, controller's CPU", of=_OF, unit="s", points=tuple(controller)),
    ]


def _children_s() -> float:
    """CPU time of the programs that have run to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
