"""The whole report of a run: the terminal, markdown, JSON and a plot."""

from pathlib import Path
from typing import Final

from rich.console import Console

from .plot import draw
from .results import Results
from .tables import NOTHING, Table, comparisons, failures, tables

_YES_NO: Final = {True: "yes", False: "no", None: NOTHING}


def show(results: Results, console: Console) -> None:
    """Shows the tables in the terminal."""
    for table in tables(results):
        table.show(console)
    for line in failures(results):
        console.print(f"not measured: {line}", style="bold red", highlight=False)


def write(results: Results, folder: Path, stem: str) -> list[Path]:
    """Writes STEM.json, STEM.md and, where something is compared, STEM.svg; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    results.save(paths[0])
    drawn = bool(comparisons(results)) and draw(results, folder / f"{stem}.svg")
    if drawn:
        paths.append(folder / f"{stem}.svg")
    paths[1].write_text(markdown(results, f"{stem}.svg" if drawn else None))
    return paths


def markdown(results: Results, picture: str | None) -> str:
    """The report as a page."""
    conditions = results.conditions
    parts = [f"# {conditions.kind}\n", _setting(results)]
    if picture:
        parts.append(f"![Ratios of throughput]({picture})\n")
    parts += [table.markdown() for table in tables(results)]
    parts.append(_checks(results).markdown())
    if lines := failures(results):
        parts.append("## Not measured\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    parts.append(_versions(results).markdown())
    return "\n".join(parts)


def _setting(results: Results) -> str:
    machine, conditions = results.machine, results.conditions
    return (
        f"{conditions.begun}; {conditions.rounds} rounds of {conditions.seconds:g} s for each "
        f"contender and row, in turns; a disk of {conditions.size_bytes / 2**20:,.0f} MiB.  "
        f"{machine.cpu}, {machine.cpus} CPUs, {machine.memory_bytes / 2**30:.0f} GiB; "
        f"{machine.kernel}; load average before: {machine.load_before:.2f}.\n\n"
        f"For every mount: max_background {conditions.max_background}, congestion_threshold "
        f"{conditions.congestion_threshold}, read-ahead {conditions.read_ahead_kib} KiB.  All "
        "connections are TCP over the loopback; the system's congestion control is "
        f"{machine.congestion_control or 'not known'}.\n" + _distance(results)
    )


def _distance(results: Results) -> str:
    apart = sorted(s.processors_apart_ns for s in results.samples if s.processors_apart_ns)
    if not apart:
        return ""
    return (
        "\nBefore the visits a byte took "
        f"{apart[len(apart) // 20]:.0f} ns (5 % of them), {apart[len(apart) // 2]:.0f} (half) or "
        f"{apart[-1 - len(apart) // 20]:.0f} (95 %) from one processor to another and back, some "
        "100 of them Python's: what two processes send each other takes longer where it is far.\n"
    )


def _checks(results: Results) -> Table:
    titles = results.conditions.contenders
    rows = tuple(
        (
            titles[check.contender],
            _YES_NO[check.direct],
            _YES_NO[check.page_cache],
            check.verified,
        )
        for check in results.checks
    )
    return Table(
        "Checked before timing",
        ("", "O_DIRECT", "page cache", "verified"),
        rows,
        "“page cache”: whether the kernel caches the file for who opens it without O_DIRECT.",
    )


def _versions(results: Results) -> Table:
    rows = tuple((name, version) for name, version in results.machine.versions.items() if version)
    return Table("Versions", ("", "version"), rows)
