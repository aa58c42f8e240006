"""Tables of what was measured: each is made once, and shown in the terminal and in markdown."""

import statistics
from collections.abc import Callable, Iterator, Sequence

import attrs
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from .bounds import Spread, ratio
from .contenders import DIGESTS, OURS, PEERS, TREE
from .results import Latency, Results, Sample

NOTHING = "-"


@attrs.frozen
class Table:
    """A title, headings, and rows of as many cells; the first column is words."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        align = ["---", *["---:"] * (len(self.headings) - 1)]
        lines = [self.headings, tuple(align), *self.rows]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"## {self.title}\n\n{text}\n" + (f"\n{self.note}\n" if self.note else "")

    def show(self, console: Console) -> None:
        table = RichTable(title=self.title, box=box.SIMPLE_HEAD, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left", overflow="fold")
        for cells in self.rows:
            table.add_row(*cells)
        console.print(table)
        if self.note:
            console.print(self.note, style="dim")


@attrs.frozen
class Comparison:
    """One contender by the better of others."""

    heading: str
    contender: str
    against: tuple[str, ...]


def comparisons(results: Results) -> tuple[Comparison, ...]:
    """Those that this run allows."""
    taking_part = results.conditions.contenders
    peers = tuple(name for name in PEERS if name in taking_part)
    every = (
        Comparison("ours / better peer", OURS, peers),
        Comparison("digests / ours", DIGESTS, (OURS,)),
        Comparison("digests / better peer", DIGESTS, peers),
        Comparison("ours / other tree", OURS, (TREE,)),
    )
    return tuple(
        each
        for each in every
        if each.contender in taking_part and any(n in taking_part for n in each.against)
    )


def tables(results: Results) -> Iterator[Table]:
    """Everything that was measured, by rows."""
    yield _throughput(results)
    if comparisons(results):
        yield _ratios(results)
    yield _by_contender(
        results,
        "Latency, µs: p50 / p99 / p99.9",
        _latency,
        "The median over rounds of each round's percentile.",
    )
    yield _by_contender(
        results,
        "CPU time, µs an operation: host + target",
        _cpu,
        "Medians over rounds, from /proc/PID/stat before and after.  For dd and cp an operation is "
        "a MiB.",
    )
    yield _by_contender(
        results,
        "Peak memory, MiB: host + target",
        _memory,
        "VmHWM, started anew for each visit: the most of all rounds.  The target's holds the disk.",
    )


def failures(results: Results) -> list[str]:
    """What could not be measured, a line each."""
    titles = results.conditions.contenders
    return [
        f"{results.conditions.rows[f.row]}, {titles[f.contender]}, round {f.round}: {f.text}"
        for f in results.failures
    ]


def amount(row: str, samples: Sequence[Sample], results: Results) -> str:
    """Throughput in the row's unit, or nothing."""
    if not samples:
        return NOTHING
    if row in results.conditions.in_operations:
        return f"{statistics.median(s.operations_per_s for s in samples) / 1000:.1f} k/s"
    return f"{statistics.median(s.bytes_per_s for s in samples) / 2**20:,.0f} MiB/s"


def _throughput(results: Results) -> Table:
    return _by_contender(
        results,
        "Throughput",
        lambda samples: amount(samples[0].row, samples, results),
        "Medians over rounds.",
    )


def _ratios(results: Results) -> Table:
    columns = comparisons(results)
    rows = tuple(
        (label, *(_spread(ratio(results, row, c.contender, c.against)) for c in columns))
        for row, label in results.rows()
    )
    return Table(
        "Ratios of throughput: median (lower bound)",
        ("", *(c.heading for c in columns)),
        rows,
        "Ratios are taken within each round; “better peer” is whichever was faster in that round.  "
        "The bound is the lower 90 % bound of the median by order statistics (of nine rounds the "
        "third smallest, which holds with 91 %); it needs four rounds.",
    )


def _spread(found: Spread | None) -> str:
    if found is None:
        return NOTHING
    lower = NOTHING if found.lower is None else f"{found.lower:.2f}"
    return f"{found.median:.2f} ({lower})"


def _by_contender(
    results: Results, title: str, cell: Callable[[Sequence[Sample]], str], note: str
) -> Table:
    names = [
        n for n in results.conditions.contenders if any(s.contender == n for s in results.samples)
    ]
    rows = tuple(
        (
            label,
            *(cell(samples) if (samples := results.of(row, name)) else NOTHING for name in names),
        )
        for row, label in results.rows()
    )
    return Table(title, ("", *names), rows, note)


def _latency(samples: Sequence[Sample]) -> str:
    found: list[Latency] = [s.latency for s in samples if s.latency is not None]
    if not found:
        return NOTHING
    each = (
        statistics.median(one.p50_us for one in found),
        statistics.median(one.p99_us for one in found),
        statistics.median(one.p999_us for one in found),
    )
    return " / ".join(f"{us:,.0f}" for us in each)


def _cpu(samples: Sequence[Sample]) -> str:
    host = [s.host_cpu_us for s in samples if s.host_cpu_us is not None]
    target = [s.target_cpu_us for s in samples if s.target_cpu_us is not None]
    return _pair(statistics.median(host) if host else None, _median(target), ".1f")


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _memory(samples: Sequence[Sample]) -> str:
    host = [s.host_peak_bytes / 2**20 for s in samples if s.host_peak_bytes is not None]
    target = [s.target_peak_bytes / 2**20 for s in samples if s.target_peak_bytes is not None]
    return _pair(max(host, default=None), max(target, default=None), ".0f")


def _pair(host: float | None, target: float | None, form: str) -> str:
    return " + ".join(NOTHING if each is None else f"{each:{form}}" for each in (host, target))
