"""`python -m tests.sim`: many scenarios, on several cores; `make sim`."""

import argparse
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from .campaign import BATCH, Campaign, campaign
from .histogram import shortages, table

#: Batches that one process runs before it is looked at again.
_SHARE = 20


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None, help="default: another one every time")
    parser.add_argument("--plan", type=Path, help="run the plan in this file, as it was printed")
    options = parser.parse_args()
    if options.plan is not None:
        return _run_plan(options.plan)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    total = _campaign(seed, options.scenarios, options.workers)
    print(table(total.counts, total.scenarios))
    print(
        f"{total.scenarios} scenarios, {total.virtual_s / 3600:.1f} hours of their time, in "
        f"{time.monotonic() - began:.0f} s, {1000 * total.cpu_s / max(1, total.scenarios):.0f} ms "
        "of CPU each"
    )
    if total.failure is not None:
        print(f"\nFAILED (seed {seed}): {total.failure}")
        return 1
    if shortages(total.counts, total.scenarios):
        print("TOO FEW of some things; the drawing of plans needs another look")
        return 1
    print("clean")
    return 0


def _campaign(seed: int, scenarios: int, workers: int) -> Campaign:
    total = Campaign(seed)
    with ProcessPoolExecutor(workers) as pool:
        futures = [
            pool.submit(
                campaign,
                seed,
                min(_SHARE * BATCH, scenarios - done),
                first_batch=done // BATCH,
            )
            for done in range(0, scenarios, _SHARE * BATCH)
        ]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            total.add(future.result())
            print(f"{total.scenarios} scenarios", flush=True)
            if total.failure is not None:
                for other in futures:
                    other.cancel()
    return total


def _run_plan(path: Path) -> int:
    """A plan is its own `repr`."""
    from . import plan as names
    from .scenario import SimulationError, run

    plan = eval(path.read_text(), vars(names))
    try:
        print(run(plan))
    except SimulationError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
