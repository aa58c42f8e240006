"""Coverage-guided fuzzing of both roles: `python -m tests.fuzz.run --seconds 120`.

The time is shared between the targets, two of which run at a time, each in a process of its own
under atheris.  What they find useful goes to build/fuzz/TARGET and is used again the next time;
inputs that fail go to build/fuzz/crashes.  `--minimise` brings what build/fuzz has into the
committed corpus; `--replay` runs that corpus once, without atheris.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from .targets import CORPUS, TARGETS, corpus, harness, no_fault_logged

WORK: Final = Path("build/fuzz")
CRASHES: Final = WORK / "crashes"
_WORKERS: Final = 2
_RSS_LIMIT_MB: Final = 1024
#: No input should take a hundredth of this; a shared machine may stall.
_INPUT_TIMEOUT_S: Final = 20
#: Beside the fuzzing itself: starting, loading the corpus.
_START_S: Final = 120
#: The committed corpus stays small enough to read, and to run in every test.
_MAX_CORPUS_FILES: Final = 60
_MAX_CORPUS_BYTES: Final = 60_000
_STATUS: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units: (\d+)")


@attrs.frozen
class Result:
    """What became of one target."""

    target: str
    executions: int
    coverage: int
    features: int
    corpus: int
    crashes: tuple[Path, ...]
    #: Not a crash, and still not as it should end.
    failed: bool
    seconds: float


def _command(target: str, arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.worker", target, *map(str, arguments)]


def fuzz(target: str, seconds: int, seed: int | None) -> Result:
    """Fuzzes one target for so long."""
    found = WORK / target
    found.mkdir(parents=True, exist_ok=True)
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    before = set(CRASHES.glob(f"{target}-*"))
    log = WORK / f"{target}.log"
    arguments: list[str | Path] = [
        f"-max_total_time={seconds}",
        f"-max_len={TARGETS[target]}",
        # The harnesses are slow for a fuzzer: short inputs first would be all there ever are.
        "-len_control=0",
        f"-timeout={_INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={_RSS_LIMIT_MB}",
        f"-artifact_prefix={CRASHES}/{target}-",
        "-print_final_stats=1",
        *([] if seed is None else [f"-seed={seed}"]),
        found,
        CORPUS / target,
    ]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(target, arguments), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(seconds + _START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -1
    text = log.read_text("utf-8", "replace")
    executions = [int(number) for number in _EXECUTIONS.findall(text)]
    *_, (coverage, features, inputs) = [("0", "0", "0"), *_STATUS.findall(text)]
    crashes = tuple(sorted(set(CRASHES.glob(f"{target}-*")) - before))
    if code:
        # The traceback, then what libFuzzer makes of it.
        sys.stderr.write(f"\n===== {target}\n" + "\n".join(text.splitlines()[-60:]) + "\n")
    return Result(
        target,
        executions[-1] if executions else 0,
        int(coverage),
        int(features),
        int(inputs),
        crashes,
        code != 0 and not crashes,
        time.monotonic() - started,
    )


def table(results: Sequence[Result]) -> str:
    """What was done, a line for each target."""
    rows = [("target", "executions", "coverage", "features", "corpus", "crashes", "seconds")]
    rows += [
        (
            each.target,
            f"{each.executions}",
            f"{each.coverage}",
            f"{each.features}",
            f"{each.corpus}",
            "failed" if each.failed else f"{len(each.crashes)}",
            f"{each.seconds:.0f}",
        )
        for each in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def run(targets: Sequence[str], seconds: int, seed: int | None) -> bool:
    """Fuzzes the targets, in all for about so long; True where nothing was found."""
    workers = min(_WORKERS, len(targets), os.cpu_count() or 1)
    CRASHES.mkdir(parents=True, exist_ok=True)
    share_s = max(1, seconds * workers // len(targets))
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda target: fuzz(target, share_s, seed), targets))
    print(table(results))
    crashes = [path for each in results for path in each.crashes]
    for path in crashes:
        print(f"crash: {path}; again: python -m tests.fuzz.run --replay {path}")
    return not crashes and not any(each.failed for each in results)


def minimise(targets: Sequence[str]) -> None:
    """Makes the committed corpus anew: of all inputs those that cover what there is to cover."""
    for target in targets:
        found, committed = WORK / target, CORPUS / target
        merged = WORK / f"{target}.merged"
        shutil.rmtree(merged, ignore_errors=True)
        for folder in (merged, found, committed):
            folder.mkdir(parents=True, exist_ok=True)
        # By edges alone: counters would keep ten times as many.
        arguments = ["-merge=1", "-use_counters=0", f"-timeout={_INPUT_TIMEOUT_S}"]
        subprocess.run(_command(target, [*arguments, merged, committed, found]), check=True)
        kept = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)
        room = _MAX_CORPUS_BYTES
        for path in committed.iterdir():
            # Inputs with a name of their own are kept for what they once found.
            if re.fullmatch(r"[0-9a-f]{40}", path.name):
                path.unlink()
        # Of every size: small ones are easy to read, large ones get deep.
        for path in kept[:: -(-len(kept) // _MAX_CORPUS_FILES) or 1]:
            room -= path.stat().st_size
            if room < 0:
                break
            shutil.copy(path, committed / path.name)
        print(f"{target}: {len(list(committed.iterdir()))} of {len(kept)} inputs")


def replay(targets: Sequence[str], paths: Sequence[Path]) -> bool:
    """Runs inputs once each, without atheris; True where none fails."""
    clean = True
    for target in targets:
        check: Callable[[bytes], None] = harness(target)
        inputs = [path for path in paths if path.name.startswith(target) or target in path.parts]
        for path in inputs if paths else corpus(target):
            try:
                with no_fault_logged():
                    check(path.read_bytes())
            except Exception:  # noqa: BLE001 - whatever it is, it is the finding
                traceback.print_exc()
                print(f"{target}: {path} fails")
                clean = False
        print(f"{target}: {len(inputs) if paths else len(corpus(target))} inputs")
    return clean


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, help="for a run that can be repeated")
    parser.add_argument("--minimise", action="store_true", help="make the committed corpus anew")
    parser.add_argument(
        "--replay", nargs="*", type=Path, metavar="INPUT", help="the corpus, or these inputs"
    )
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    if options.minimise:
        minimise(targets)
        return 0
    if options.replay is not None:
        return 0 if replay(targets, options.replay) else 1
    return 0 if run(targets, options.seconds, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
