"""One run from its beginning to its report."""

import datetime
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
from rich.console import Console

from . import report
from .kernel import Limits
from .machine import describe
from .modes import Mode
from .results import Conditions, Results
from .rows import choose
from .session import Say

DEFAULT_ROUNDS: Final = 9
DEFAULT_SECONDS: Final = 3.0


@attrs.frozen(kw_only=True)
class Asked:
    """What a run is to be like."""

    rows: str
    rounds: int
    seconds: float
    size_bytes: int
    limits: Limits
    tree: Path | None
    output: Path


def run(mode: Mode, asked: Asked) -> int:
    """Measures, reports, and returns the exit code: 1 where something could not be measured.

    Raises `BenchmarkError`, and `ValueError` for rows that there are not.
    """
    console = Console() if sys.stdout.isatty() else Console(width=150)
    rows = choose(asked.rows, mode.rows)
    limits = asked.limits
    results = Results(
        describe(mode.qemu_program, asked.tree),
        Conditions(
            kind=mode.title,
            begun=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
            rounds=asked.rounds,
            seconds=asked.seconds,
            size_bytes=asked.size_bytes,
            max_background=limits.max_background,
            congestion_threshold=limits.congestion_threshold,
            read_ahead_kib=limits.read_ahead_kib,
            rows={row.name: row.label for row in rows},
            in_operations=[row.name for row in rows if row.counts_operations],
            contenders=mode.contenders,
        ),
    )
    whole = (
        rows == mode.rows and asked.rounds >= DEFAULT_ROUNDS and asked.seconds >= DEFAULT_SECONDS
    )
    stem = mode.stem if whole else f"{mode.stem}-short"
    asked.output.mkdir(parents=True, exist_ok=True)
    # Should it be interrupted, what was measured until then is there.
    save = partial(results.save, asked.output / f"{stem}.json")
    with _progress(console) as say, mode.open(results, say) as session:
        for number in range(1, asked.rounds + 1):
            prefix = f"round {number} of {asked.rounds}: "
            session.round(
                rows,
                number=number,
                seconds=asked.seconds,
                say=partial(_say_prefixed, say, prefix),
                save=save,
            )
    report.show(results, console)
    for path in report.write(results, asked.output, stem):
        console.print(f"written: {path}", highlight=False)
    return 1 if results.failures else 0


def _say_prefixed(say: Say, prefix: str, text: str) -> None:
    say(prefix + text)


@contextmanager
def _progress(console: Console) -> Iterator[Say]:
    """One line that changes in a terminal, elsewhere a line each."""
    if not console.is_terminal:
        yield partial(print, flush=True)
        return
    with console.status("starting") as status:
        yield status.update
