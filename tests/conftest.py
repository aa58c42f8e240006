"""What holds for every test: bounded property tests, and no warning that nobody announced."""

import logging
import os
import re
import signal
from collections.abc import Callable, Generator

import attrs
import pytest
from hypothesis import settings

# "dev" draws new examples at every run; "ci" the same ones each time, so that a red build is the
# change's doing.  "explore" is for a long look by hand: HYPOTHESIS_PROFILE=explore make test.
settings.register_profile("dev", max_examples=100, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_configure() -> None:
    """Undoes what a shell does to jobs in the background: they ignore SIGINT and SIGQUIT.

    Programs that the tests start would inherit that, and some tests are about these signals.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@attrs.define(eq=False)
class _Announcement:
    pattern: re.Pattern[str]
    optional: bool
    seen: bool = False

    def covers(self, text: str) -> bool:
        """Whether it announces this text; remembers that it did."""
        found = self.pattern.search(text) is not None
        self.seen = self.seen or found
        return found


class _WarningCollector(logging.Handler):
    """Collects what is logged at WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


_ANNOUNCED = pytest.StashKey[list[_Announcement]]()

#: `announce(pattern)`: this test logs a warning that the pattern is found in, or it fails.
#: `announce(pattern, optional=True)`: it may log it.
Announce = Callable[..., None]


@pytest.fixture
def announce(request: pytest.FixtureRequest) -> Announce:
    """Lets the test log a warning that it names; every other warning fails it."""
    announced = request.node.stash.setdefault(_ANNOUNCED, [])

    def announce(pattern: str, *, optional: bool = False) -> None:
        announced.append(_Announcement(re.compile(pattern), optional))

    return announce


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a test that logged a warning nobody announced, or not the one that was."""
    collector = _WarningCollector()
    root = logging.getLogger()
    root.addHandler(collector)
    try:
        result = yield
    finally:
        root.removeHandler(collector)
    if item.get_closest_marker("logs_warnings") is not None:
        return result
    announced = item.stash.get(_ANNOUNCED, [])
    for record in collector.records:
        text = record.getMessage()
        # Every announcement is asked: two of them may cover the same record.
        if not [each for each in announced if each.covers(text)]:
            pytest.fail(f"unannounced {record.levelname} from {record.name}: {text}", pytrace=False)
    for each in announced:
        if not (each.seen or each.optional):
            pytest.fail(f"announced, but not logged: {each.pattern.pattern!r}", pytrace=False)
    return result
