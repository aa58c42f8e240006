"""Measures how costs grow, judges, and draws: `python -m benchmarks.growth`.

Writes results/growth-NAME.json and .png for each of the measurements; exit code 1 where something
grows worse than linearly or misses its bar.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from . import controllers, depth, discovery, namespaces, sizes
from .curves import Curve
from .plot import draw
from .rig import Setting

RESULTS: Final = Path(__file__).parent.parent / "results"
MEASUREMENTS: Final[dict[str, Callable[[Setting], list[Curve]]]] = {
    "namespaces": namespaces.measure,
    "controllers": controllers.measure,
    "depth": depth.measure,
    "sizes": sizes.measure,
    "discovery": discovery.measure,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer numbers: a look, no result")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    unknown = set(arguments.name) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: give some of {', '.join(MEASUREMENTS)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in arguments.name or MEASUREMENTS:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            curves = MEASUREMENTS[name](Setting(Path(folder), arguments.quick))
        failed |= any(curve.problems for curve in curves)
        _write(name, curves, arguments.results)
        _show(name, curves)
    return failed


def _write(name: str, curves: list[Curve], results: Path) -> None:
    document = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "curves": [
            attrs.asdict(curve) | {"exponent": round(curve.exponent, 3), "problems": curve.problems}
            for curve in curves
        ],
    }
    (results / f"growth-{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(f"{name}: {document['machine']}", curves, results / f"growth-{name}.png")


def _show(name: str, curves: list[Curve]) -> None:
    print(f"{name}:")
    for curve in curves:
        first, last = curve.points[0], curve.points[-1]
        print(
            f"  {curve.name:32} {first[1]:10.4g} {curve.unit} at {first[0]:g}, "
            f"{last[1]:.4g} at {last[0]:g}; exponent {curve.exponent:.2f}"
            f"{'; MISSED: ' + '; '.join(curve.problems) if curve.problems else ''}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
