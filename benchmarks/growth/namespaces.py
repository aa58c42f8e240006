"""1 to 1,000 namespaces on one controller."""

import os
from typing import Final

from .curves import Curve, Points
from .processes import Stopwatch, cpu_s, idle_share, memory_bytes, session
from .rig import Setting

NUMBERS: Final = (1, 125, 250, 500, 750, 1000)
_OF: Final = "namespaces"
#: `ls` is done so often that a clock tells it from nothing.
_LISTINGS: Final = 5


def measure(setting: Setting) -> list[Curve]:
    """Connecting, listing, doing nothing, and disconnecting."""
    rows: dict[str, Points] = {}

    def note(name: str, number: int, value: float) -> None:
        rows.setdefault(name, []).append((number, value))

    for number in setting.some(NUMBERS):
        devices = ["ramdisk:64K"] * number
        with setting.nvmfd(*devices) as target, setting.daemon() as mount:
            pid = mount.process.pid
            watch = Stopwatch(pid)
            note("target: start, CPU", number, cpu_s(target.process.pid))
            with session(mount.path) as control:
                with watch.running():
                    found = control.ask("connect", address=target.address, subnqn=target.subnqn)
                assert len(found["namespaces"]) == number
                note("connect", number, watch.wall_s)
                note("connect, CPU", number, watch.cpu_s)
                with watch.running():
                    listings = [list(mount.path.iterdir()) for _ in range(_LISTINGS)]
                assert {len(names) for names in listings} == {number + 2}
                note("ls, CPU", number, watch.cpu_s / _LISTINGS)
                with watch.running():
                    for entry in os.scandir(mount.path):
                        entry.stat()
                note("ls -l", number, watch.wall_s)
                note("ls -l, CPU", number, watch.cpu_s)
                with watch.running():
                    control.ask("devlist")
                note("devlist, CPU", number, watch.cpu_s)
                note("idle", number, 100 * idle_share(pid, setting.idle_s))
                note("memory", number, memory_bytes(pid) / (1 << 20))
                with watch.running():
                    control.ask("disconnect", device=found["device"])
                note("disconnect, CPU", number, watch.cpu_s)
    units = {"idle": "% of a core", "memory": "MiB"}
    return [
        Curve(name=name, of=_OF, unit=units.get(name, "s"), points=tuple(points))
        for name, points in rows.items()
    ]
