"""The simulation, as many scenarios as CI has time for; `make sim` runs ten times as many."""

import os

import pytest

from .campaign import campaign
from .histogram import shortages, table

_SCENARIOS = int(os.environ.get("SIM_SCENARIOS", "1000"))
_SEED = int(os.environ.get("SIM_SEED", "1"))


@pytest.mark.timeout(300)
@pytest.mark.logs_warnings
def test_no_fault_loses_or_reorders_anything() -> None:
    result = campaign(_SEED, _SCENARIOS)

    print(table(result.counts, result.scenarios))
    assert result.failure is None, f"seed {_SEED}: {result.failure}"
    assert shortages(result.counts, result.scenarios) == []
