"""Requests of 512 bytes to 16 MiB, one at a time."""

import mmap
import os
import time
from typing import Final

from .curves import Curve, Points
from .processes import Stopwatch, cpu_s
from .rig import Setting

SIZES: Final = tuple(512 << shift for shift in range(16))
_DISK_BYTES: Final = 64 << 20
_ROUNDS: Final = 5
_SECONDS: Final = 0.3


def measure(setting: Setting) -> list[Curve]:
    """CPU time and time of a request, by its length."""
    curves: list[Curve] = []
    with (
        setting.nvmfd(f"ramdisk:{_DISK_BYTES >> 20}M") as target,
        setting.daemon() as mount,
    ):
        name = mount.connect(target.address, target.subnqn)
        node = os.open(mount.path / f"{name}ns1", os.O_RDWR | os.O_DIRECT)
        # Aligned to a page, as direct I/O wants it; a request goes up to its end.
        memory = memoryview(mmap.mmap(-1, SIZES[-1]))
        pids = {"daemon": mount.process.pid, "target": target.process.pid}
        for kind in ("read", "write"):
            taken: dict[str, dict[int, list[float]]] = {}
            for _ in range(_ROUNDS):
                for size in setting.some(SIZES):
                    values = _turn(node, memory[:size], pids, write=kind == "write")
                    for what, value in values.items():
                        taken.setdefault(what, {}).setdefault(size, []).append(value)
            for what, by_size in taken.items():
                points: Points = [(size, min(values)) for size, values in by_size.items()]
                curves.append(
                    Curve(name=f"{kind}, {what}", of="bytes", unit="s", points=tuple(points))
                )
        os.close(node)
    return curves


def _turn(node: int, data: memoryview, pids: dict[str, int], *, write: bool) -> dict[str, float]:
    """What one request costs, of many one after the other."""
    watch = Stopwatch(pids["daemon"])
    target_s = cpu_s(pids["target"])
    done = offset = 0
    with watch.running():
        end = time.monotonic() + _SECONDS
        while not done or time.monotonic() < end:
            offset = (offset + len(data)) % (_DISK_BYTES - len(data))
            offset -= offset % len(data)
            moved = os.pwrite(node, data, offset) if write else os.preadv(node, [data], offset)
            assert moved == len(data), (moved, len(data))
            done += 1
    target_s = cpu_s(pids["target"]) - target_s
    return {
        "daemon's CPU": watch.cpu_s / done,
        "target's CPU": target_s / done,
        "time": watch.wall_s / done,
    }
