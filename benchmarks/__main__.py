"""`python -m benchmarks`: the options, and which kind of run they ask for."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from .contenders import ROOT, Target
from .kernel import Limits
from .modes import Mode, beside_peers, controller_by_itself, host_alone, on_target
from .processes import BenchmarkError
from .rows import QUEUE_ROWS, ROWS
from .running import DEFAULT_ROUNDS, DEFAULT_SECONDS, Asked, run

_SUFFIXES = {"K": 10, "M": 20, "G": 30}


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    digits, suffix = text[:-1], text[-1:].upper()
    if suffix not in _SUFFIXES or not digits.isdigit() or not int(digits):
        raise click.BadParameter(f"{text}: not a size such as 256M or 1G")
    size_bytes = int(digits) << _SUFFIXES[suffix]
    if size_bytes % (1 << 20):
        raise click.BadParameter(f"{text}: not a whole number of MiB")
    return size_bytes


def _names(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Rows: {', '.join(row.name for row in ROWS)}.  With --controller-alone: "
    f"{', '.join(row.name for row in QUEUE_ROWS)}.",
)
@click.option(
    "--target",
    nargs=2,
    metavar="ADDRESS:PORT SUBNQN",
    help="Our host alone, on any target that runs.  Its first namespace is overwritten.",
)
@click.option(
    "--host-alone",
    "on_responder",
    is_flag=True,
    help="Our host alone, on a responder that costs next to nothing.",
)
@click.option(
    "--controller-alone",
    "on_queues",
    is_flag=True,
    help="nvmfd alone, loaded through our host's queues without FUSE.",
)
@click.option(
    "--rows", default="*", metavar="NAME,...", help="These rows only; * matches anything."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=DEFAULT_ROUNDS,
    show_default=True,
    help="Visits to each contender with each row.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=DEFAULT_SECONDS,
    show_default=True,
    help="Of each visit.",
)
@click.option(
    "--size", "size_bytes", callback=_size, default="1G", show_default=True, help="Of every disk."
)
@click.option(
    "--contenders",
    callback=_names,
    metavar="NAME,...",
    help="Who takes part: ours, digests, nbdfuse, qemu.  [default: all that can]",
)
@click.option(
    "--tree",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout of this project, which takes part too: to compare two states of it.",
)
@click.option(
    "--read-ahead",
    "read_ahead_kib",
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
    target: tuple[str, str] | None,
    contenders: tuple[str, ...] | None,
    tree: Path | None,
    read_ahead_kib: int,
    *,
    on_responder: bool,
    on_queues: bool,
    **asked: Any,
) -> None:
    """Measure this project's host and controller beside nbdfuse and qemu-storage-daemon.

    Everything runs on this machine, over TCP on the loopback, in turns.  Needs root.  The results
    go to the terminal, and as JSON, markdown and a plot to comparison.* (or what the kind of run is
    called); those of a short look to comparison-short.*.
    """
    if os.geteuid() != 0:
        raise click.ClickException("needs root: for the kernel's limits and caches")
    if (target is not None) + on_responder + on_queues > 1:
        raise click.UsageError("--target, --host-alone and --controller-alone exclude each other")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    tree = tree.resolve() if tree else None
    limits = Limits(read_ahead_kib=read_ahead_kib)
    try:
        if target is not None:
            mode: Mode = on_target(Target(*target), contenders, tree, limits)
        elif on_responder:
            mode = host_alone(contenders, tree, limits)
        elif on_queues:
            mode = controller_by_itself(contenders, tree)
        else:
            mode = beside_peers(contenders, tree, limits)
        code = run(mode, Asked(limits=limits, tree=tree, **asked))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rows") from None
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(code)


if __name__ == "__main__":
    main()
