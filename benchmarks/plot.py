"""A picture of the ratios: one bar a row, with its bounds."""

from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .bounds import Spread, ratio
from .results import Results
from .tables import Comparison, comparisons

PARITY: Final = 1.0
AHEAD: Final = 1.25
_COLOURS: Final = {"ahead": "#2a7f62", "level": "#7fb8a4", "behind": "#c8553d"}
_MARKER_COLOUR: Final = "#34405c"


def draw(results: Results, path: Path) -> bool:
    """Draws the first comparison as bars, and a second against the same as dots.

    Returns False where no row has both sides.
    """
    bars, *others = comparisons(results)
    dots = next((each for each in others if each.against == bars.against), None)
    found = [
        (label, spread, ratio(results, row, dots.contender, dots.against) if dots else None)
        for row, label in results.rows()
        if (spread := ratio(results, row, bars.contender, bars.against)) is not None
    ]
    if not found:
        return False
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    figure, axes = plt.subplots(figsize=(10, 1.9 + 0.42 * len(found)), layout="constrained")
    highest = max(s.upper or s.median for _, *both in found for s in both if s is not None)
    widest = max(1.5, highest * 1.14)
    axes.set_xlim(0, widest)
    axes.set_ylim(len(found) - 0.4, -0.6)
    for index, (_, spread, dot) in enumerate(found):
        _bar(axes, index, spread, room=widest * 0.07)
        if dot is not None:
            axes.plot(dot.median, index, "D", color=_MARKER_COLOUR, markersize=5, zorder=4)
    _frame(figure, axes, results, [label for label, *_ in found], bars, dots)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def _bar(axes: Axes, index: int, spread: Spread, room: float) -> None:
    """A bar; its figure stands in it where it is longer than `room`."""
    lower = spread.median if spread.lower is None else spread.lower
    upper = spread.median if spread.upper is None else spread.upper
    kind = "ahead" if lower >= AHEAD else "level" if lower >= PARITY else "behind"
    axes.barh(index, spread.median, height=0.62, color=_COLOURS[kind], zorder=2)
    if spread.lower is not None:
        axes.errorbar(
            spread.median,
            index,
            xerr=[[spread.median - lower], [upper - spread.median]],
            fmt="none",
            ecolor="black",
            elinewidth=1.2,
            capsize=3.5,
            zorder=3,
        )
    axes.annotate(
        f"{spread.median:.2f}",
        (0, index),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color="white" if spread.median > room else "black",
        fontsize=9,
        fontweight="bold",
        zorder=5,
    )


def _frame(
    figure: Figure,
    axes: Axes,
    results: Results,
    labels: list[str],
    bars: Comparison,
    dots: Comparison | None,
) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for at, style in ((PARITY, "-"), (AHEAD, "--")):
        axes.axvline(at, color="black", linewidth=1.3, linestyle=style, zorder=3.5)
        axes.annotate(
            f"{at:g}",
            (at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set_xlabel(f"throughput, {bars.heading} (within each round; higher is better)")
    conditions, machine = results.conditions, results.machine
    names = [name for name in bars.against if name in conditions.contenders]
    by = conditions.contenders[names[0]] if len(names) == 1 else f"the better of {', '.join(names)}"
    figure.suptitle(
        f"{conditions.contenders[bars.contender]}, by {by}",
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    rounds = f"{conditions.rounds} round{'s' if conditions.rounds > 1 else ''}"
    axes.set_title(
        f"medians of {rounds} of {conditions.seconds:g} s; {machine.cpu}, {machine.cpus} CPUs; "
        f"{conditions.begun[:10]}",
        loc="left",
        pad=20,
        fontsize=9,
        color="#555555",
    )
    figure.legend(
        handles=_legend(dots), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )


def _legend(dots: Comparison | None) -> list[Line2D]:
    names = {
        "ahead": f"lower bound at least {AHEAD:g}",
        "level": f"lower bound at least {PARITY:g}",
        "behind": "lower bound below 1",
    }
    handles = [
        Line2D([], [], color=_COLOURS[kind], lw=7, label=name) for kind, name in names.items()
    ]
    handles.append(
        Line2D([], [], color="black", marker="|", markersize=8, label="90 % bounds, each side")
    )
    if dots is not None:
        handles.append(
            Line2D([], [], color=_MARKER_COLOUR, marker="D", ls="", label=f"{dots.heading}, median")
        )
    return handles
