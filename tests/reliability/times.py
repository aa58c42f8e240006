"""How long outages take, measured for minutes; prints a table.

python -m tests.reliability.times [--outages 30]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs

from tests.programs import Mount

from .networks import Network, network
from .rig import eventually, rig
from .timings import Times, answered_after, detection_s, drain, first_byte, reading, refused, spread


@attrs.frozen
class Row:
    """One line of the table."""

    what: str
    found: str
    bar: str
    reached: bool


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="times-") as name:
        yield Path(name)


@contextmanager
def _cable(*options: str) -> Iterator[tuple[Network, Mount, Path]]:
    with (
        _folder() as folder,
        network() as cable,
        cable.nvmfd("ramdisk:16M", log=folder / "nvmfd.log") as target,
        cable.fusedev(folder / "dev", folder / "fusedev.log") as mount,
    ):
        mount.connect(target.address, target.subnqn, *options)
        yield cable, mount, mount.path / "nvme0ns1"


def _back(outages: int, reconnect_delay_s: int, longest_s: float) -> Times:
    with _folder() as folder, rig(folder, "nvmfd-ramdisk", mib=16) as on:
        on.connect("-r", str(reconnect_delay_s))
        return refused(on, spread(outages, 0.2, longest_s))


def row_refused(outages: int) -> Row:
    times = _back(outages, 1, 3.0)
    reached = times.median_s < 1 and times.p99_s < 3
    return Row("first byte, -r 1, connections refused", str(times), "< 1 s, < 3 s", reached)


def row_silent(outages: int) -> Row:
    with _cable("-r", "1", "-k", "2") as (cable, _, node):
        times = first_byte(node, cable.silence, cable.heal, spread(outages, 3.5, 7.0))
    reached = times.median_s < 1 and times.p99_s < 3
    return Row("first byte, -r 1, no packet passes", str(times), "< 1 s, < 3 s", reached)


def row_default(outages: int) -> Row:
    times = _back(max(3, outages // 5), 10, 15.0)
    return Row("first byte, by default", str(times), "< 11 s", times.p99_s < 11)


def row_detection(_outages: int) -> Row:
    kato_s, found = 2, []
    with _cable("-r", "1", "-k", str(kato_s)) as (cable, mount, node), reading(node) as reader:
        for _ in range(5):
            since = time.monotonic()
            eventually(partial(answered_after, reader, since), "reads run", within_s=60)
            # Connected for long enough that it counts.
            time.sleep(1.1)
            found.append(detection_s(mount, cable.silence, within_s=10))
            cable.heal()
    return Row(
        "nothing acknowledged, found",
        str(Times(tuple(found))),
        "< KATO + 1 s (3 s)",
        max(found) < kato_s + 1,
    )


def row_drain(_outages: int) -> Row:
    with _folder() as folder, rig(folder, "nvmfd-ramdisk", mib=16) as on:
        on.connect("-r", "1")
        ratios = [rate / normal for rate, normal in (drain(on) for _ in range(9))]
    ratio = statistics.median(ratios)
    said = f"{ratio:.2f} of the normal speed (median of 9)"
    return Row("1,000 waiting requests drain", said, ">= 0.8", ratio >= 0.8)


ROWS: dict[str, Callable[[int], Row]] = {
    "refused": row_refused,
    "silent": row_silent,
    "default": row_default,
    "detection": row_detection,
    "drain": row_drain,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="times", description=__doc__)
    parser.add_argument("--outages", type=int, default=30)
    parser.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS))
    given = parser.parse_args()
    rows = []
    for name in given.only:
        row = ROWS[name](given.outages)
        rows.append(row)
        print(
            f"{row.what:40} {row.found:42} {row.bar:20} {'' if row.reached else 'NOT REACHED'}",
            flush=True,
        )
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
