"""`python -m tests.sim.hunt`: how soon the simulation finds that something is broken."""

import argparse
import sys

from .campaign import campaign


def main() -> int:
    """Prints one line; returns 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.hunt", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = campaign(options.seed, options.scenarios, shrink=False)
    if result.failure is None:
        print(f"nothing in {result.scenarios} scenarios")
        return 0
    print(f"after {result.scenarios} scenarios: {result.failure.why.splitlines()[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
