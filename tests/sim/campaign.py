"""Many scenarios: drawn by hypothesis from a seed, the first failure shrunk."""

import itertools
import time
from collections import Counter

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from .draw import TURNS, plans
from .plan import Plan
from .scenario import SimulationError, run


@attrs.define(eq=False)
class Campaign:
    """What a number of scenarios came to."""

    seed: int
    scenarios: int = 0
    counts: "Counter[str]" = attrs.field(factory=Counter)
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    failure: SimulationError | None = None

    def add(self, other: "Campaign") -> None:
        """Takes another one's results in."""
        self.scenarios += other.scenarios
        self.counts.update(other.counts)
        self.virtual_s += other.virtual_s
        self.cpu_s += other.cpu_s
        self.failure = self.failure or other.failure


#: hypothesis forgets what it has learned of the space of plans; fresh starts look elsewhere.
#: Each has the next of the `TURNS`, and a thousand scenarios have all of them.
BATCH = 25
assert len(TURNS) * BATCH <= 1000


def campaign(seed: int, scenarios: int, *, first_batch: int = 0, shrink: bool = True) -> Campaign:
    """Runs scenarios until one fails; the same seed and first batch give the same ones."""
    result = Campaign(seed)
    for batch in itertools.count():
        missing = scenarios - batch * BATCH
        if missing <= 0 or result.failure is not None:
            return result
        own = seed * 1_000_003 + first_batch + batch
        _batch(result, own, min(missing, BATCH), shrink=shrink)
    raise AssertionError


def _batch(result: Campaign, seed: int, scenarios: int, *, shrink: bool) -> None:
    began = time.process_time()
    failed = False
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @hypothesis_seed(seed)
    @settings(
        max_examples=scenarios,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(TURNS[seed % len(TURNS)]))
    def drawn(plan: Plan) -> None:
        nonlocal failed
        try:
            outcome = run(plan)
        except SimulationError:
            failed = True
            raise
        if failed:
            # hypothesis is shrinking: these plans are no sample any more.
            return
        result.scenarios += 1
        result.virtual_s += outcome.virtual_s
        result.counts.update(outcome.counts)

    try:
        drawn()
    except SimulationError as failure:
        result.failure = failure
    finally:
        result.cpu_s += time.process_time() - began
