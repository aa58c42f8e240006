"""`python -m benchmarks`: the options, and which kind of run they ask for."""

import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from . import report
from .contenders import DIGESTS, NBDFUSE, OURS, QEMU, ROOT, TITLES, TREE, starters
from .kernel import Limits
from .machine import describe
from .processes import BenchmarkError
from .results import Conditions, Results
from .rows import NAMES, ROWS, Row, choose
from .session import Say, Starter, open_session

_SUFFIXES = {"K": 10, "M": 20, "G": 30}
_DEFAULT_ROUNDS, _DEFAULT_SECONDS = 9, 3.0


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    digits, suffix = text[:-1], text[-1:].upper()
    if suffix not in _SUFFIXES or not digits.isdigit() or not int(digits):
        raise click.BadParameter(f"{text}: not a size such as 256M or 1G")
    size_bytes = int(digits) << _SUFFIXES[suffix]
    if size_bytes % (1 << 20):
        raise click.BadParameter(f"{text}: not a whole number of MiB")
    return size_bytes


def _rows(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[Row, ...]:
    try:
        return choose(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Rows: {', '.join(NAMES)}.",
)
@click.option(
    "--rows",
    callback=_rows,
    default="*",
    metavar="NAME,...",
    help="These rows only; * matches anything.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=_DEFAULT_ROUNDS,
    show_default=True,
    help="Visits to each contender with each row.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=_DEFAULT_SECONDS,
    show_default=True,
    help="Of each visit.",
)
@click.option(
    "--size", "size_bytes", callback=_size, default="1G", show_default=True, help="Of every disk."
)
@click.option(
    "--contenders",
    default=f"{OURS},{DIGESTS},{NBDFUSE},{QEMU}",
    show_default=True,
    metavar="NAME,...",
    help="Who takes part.",
)
@click.option(
    "--tree",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout of this project, which takes part too: to compare two states of it.",
)
@click.option(
    "--read-ahead",
    type=click.IntRange(min=4),
    default=Limits().read_ahead_kib,
    show_default=True,
    help="KiB, of every mount.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "benchmarks" / "results",
    help="Folder for the results.  [default: benchmarks/results]",
)
def main(
    rows: tuple[Row, ...],
    rounds: int,
    seconds: float,
    size_bytes: int,
    contenders: str,
    tree: Path | None,
    read_ahead: int,
    output: Path,
) -> None:
    """Measure this project's host and controller beside nbdfuse and qemu-storage-daemon.

    Everything runs on this machine, over TCP on the loopback, in turns.  Needs root.  The results
    go to the terminal and to comparison.json, .md and .svg; a short look's to comparison-short.*.
    """
    if os.geteuid() != 0:
        raise click.ClickException("needs root: for the kernel's limits and caches")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console() if sys.stdout.isatty() else Console(width=150)
    qemu = Path(
        subprocess.run(
            [ROOT / "benchmarks" / "get-qemu"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    known = starters(qemu, tree.resolve() if tree else None)
    names = [name.strip() for name in contenders.split(",")] + ([TREE] if tree else [])
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"{name}: not one of {', '.join(known)}", param_hint="--contenders"
            )
    limits = Limits(read_ahead_kib=read_ahead)
    results = Results(
        describe(qemu, tree),
        Conditions(
            kind="fusedev and nvmfd beside others",
            begun=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
            rounds=rounds,
            seconds=seconds,
            size_bytes=size_bytes,
            max_background=limits.max_background,
            congestion_threshold=limits.congestion_threshold,
            read_ahead_kib=limits.read_ahead_kib,
            rows={row.name: row.label for row in rows},
            in_operations=[row.name for row in rows if row.counts_operations],
            contenders={name: TITLES[name] for name in names},
        ),
    )
    short = rows != ROWS or rounds < _DEFAULT_ROUNDS or seconds < _DEFAULT_SECONDS
    stem = "comparison-short" if short else "comparison"
    chosen: dict[str, Starter] = {name: known[name] for name in names}
    try:
        _run(results, chosen, limits, rows, console, output / f"{stem}.json")
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from None
    report.show(results, console)
    for path in report.write(results, output, stem):
        console.print(f"written: {path}", highlight=False)
    sys.exit(1 if results.failures else 0)


def _run(
    results: Results,
    chosen: dict[str, Starter],
    limits: Limits,
    rows: tuple[Row, ...],
    console: Console,
    path: Path,
) -> None:
    conditions = results.conditions
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _progress(console) as say,
        open_session(chosen, results, limits, say=say) as session,
    ):
        for number in range(1, conditions.rounds + 1):
            session.say = partial(_say_round, say, number, conditions.rounds)
            session.round(
                rows, number=number, seconds=conditions.seconds, save=partial(results.save, path)
            )


def _say_round(say: Say, number: int, rounds: int, text: str) -> None:
    say(f"round {number} of {rounds}: {text}")


@contextmanager
def _progress(console: Console) -> Iterator[Say]:
    """One line that changes in a terminal, elsewhere a line each."""
    if not console.is_terminal:
        yield partial(print, flush=True)
        return
    with console.status("starting") as status:
        yield status.update


if __name__ == "__main__":
    main()
