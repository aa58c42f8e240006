"""What the component benchmarks have in common: the clock, and how a round is made."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import attrs
import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@attrs.define(eq=False)
class OperationClock:
    """Gives time by the operation: rounds of many of them then show as one.

    One for all benchmarks, because pytest-benchmark asks for its timer before a test begins.
    """

    __name__ = "cpu_time_per_operation"
    #: CPU time of this process, or of the one that is measured.
    source: Callable[[], float] = time.process_time
    operations: int = 1

    def __call__(self) -> float:
        return self.source() / self.operations


CLOCK = OperationClock()


class Measure(Protocol):
    """See the fixture `measure`."""

    def __call__(
        self,
        work: Callable[..., object],
        *,
        operations: int,
        setup: Callable[[], tuple[Any, ...]] | None = None,
        rounds: int = 50,
        source: Callable[[], float] = time.process_time,
    ) -> None: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has every benchmark here use the clock; a round may take as long as it takes."""
    for item in items:
        own = item.get_closest_marker("benchmark")
        options = {} if own is None else own.kwargs
        # Only the closest marker counts.
        marker = pytest.mark.benchmark(**options, timer=CLOCK, disable_gc=True)
        item.add_marker(marker, append=False)
        item.add_marker(pytest.mark.timeout(120))


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Times `work(*setup())`, which does so many operations, and shows the time of one."""

    def run(
        work: Callable[..., object],
        *,
        operations: int,
        setup: Callable[[], tuple[Any, ...]] | None = None,
        rounds: int = 50,
        source: Callable[[], float] = time.process_time,
    ) -> None:
        CLOCK.source, CLOCK.operations = source, operations
        benchmark.extra_info["operations_per_round"] = operations
        prepare: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]] | None = None
        if setup is not None:
            prepare = partial(_with_no_keywords, setup)
        # The first rounds fill caches, the interpreter's own among them.
        pedantic: Callable[..., object] = benchmark.pedantic
        pedantic(work, setup=prepare, rounds=rounds, warmup_rounds=3)

    return run


def _with_no_keywords(
    setup: Callable[[], tuple[Any, ...]],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return setup(), {}
