"""Draws curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl

from .curves import Curve

_COLUMNS: Final = 3
_PANEL_INCHES: Final = (5.0, 3.2)
#: Numbers that span more than this are drawn by their logarithms.
_WIDE: Final = 250.0


def draw(title: str, curves: Sequence[Curve], path: Path) -> None:
    """One panel for each curve, and beside it what is linear between the same ends."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(curves) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure, panels = plt.subplots(
        rows, _COLUMNS, figsize=(width * _COLUMNS, height * rows), squeeze=False
    )
    for panel, curve in zip(panels.flat, curves, strict=False):
        numbers, costs = zip(*curve.points, strict=True)
        few = len(numbers) < 20
        panel.plot(numbers, costs, marker="o" if few else ".", linestyle="-" if few else "")
        rise = (costs[-1] - costs[0]) / ((numbers[-1] - numbers[0]) or 1)
        straight = [costs[0] + rise * (number - numbers[0]) for number in numbers]
        panel.plot(numbers, straight, linestyle=":", color="grey")
        if curve.bar is not None:
            panel.axhline(curve.bar.below, color="red", linewidth=0.8)
        if few and numbers[-1] / numbers[0] > _WIDE and _is_geometric(numbers):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        panel.set_title(curve.name, color="red" if curve.problems else "black", fontsize=10)
        panel.set_xlabel(curve.of, fontsize=8)
        panel.set_ylabel(curve.unit, fontsize=8)
        panel.grid(visible=True, alpha=0.3)
    for panel in panels.flat[len(curves) :]:
        panel.set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _is_geometric(numbers: Sequence[float]) -> bool:
    return numbers[1] / numbers[0] == numbers[-1] / numbers[-2]
