"""Requests of 4 KiB, 1 to 1,024 of them at a time."""

import time
from typing import Final

from tests.reliability.aio import Aio

from .curves import Curve, Points
from .processes import Stopwatch, cpu_s
from .rig import Setting

DEPTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BLOCKS: Final = 4096
#: Depths take turns, so that what else runs on the machine meets all of them.
_ROUNDS: Final = 5
_SECONDS: Final = 0.5


def measure(setting: Setting) -> list[Curve]:
    """CPU time of a request in the daemon and the target, and how long a full queue takes."""
    curves: list[Curve] = []
    with (
        setting.nvmfd(f"ramdisk:{_BLOCKS * 4}K") as target,
        setting.daemon() as mount,
    ):
        name = mount.connect(target.address, target.subnqn)
        aio = Aio(mount.path / f"{name}ns1")
        pids = {"daemon": mount.process.pid, "target": target.process.pid}
        for kind in ("read", "write"):
            taken: dict[str, dict[int, list[float]]] = {}
            for _ in range(_ROUNDS):
                for depth in setting.some(DEPTHS):
                    for what, value in _turn(aio, depth, pids, write=kind == "write").items():
                        taken.setdefault(what, {}).setdefault(depth, []).append(value)
            for what, by_depth in taken.items():
                points: Points = [(depth, min(values)) for depth, values in by_depth.items()]
                curves.append(
                    Curve(
                        name=f"{kind} of a full queue, {what}",
                        of="requests at a time",
                        unit="s",
                        points=tuple(points),
                    )
                )
        aio.close()
    return curves


def _turn(aio: Aio, depth: int, pids: dict[str, int], *, write: bool) -> dict[str, float]:
    """What it costs to have as many requests answered as are under way at a time."""
    watch = Stopwatch(pids["daemon"])
    target_s = cpu_s(pids["target"])
    done, first = 0, 0
    with watch.running():
        end = time.monotonic() + _SECONDS
        aio.submit(depth, write=write)
        while time.monotonic() < end:
            count = len(aio.wait(1))
            done += count
            first = (first + count) % (_BLOCKS - depth)
            aio.submit(count, write=write, first=first)
        done += len(aio.wait())
    target_s = cpu_s(pids["target"]) - target_s
    share = depth / done
    return {
        "daemon's CPU": watch.cpu_s * share,
        "target's CPU": target_s * share,
        "time": watch.wall_s * share,
    }
