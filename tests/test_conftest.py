"""The check on log records itself."""

import logging

import pytest

pytest_plugins = ["pytester"]
# The inner tests' records reach the outer check too.
pytestmark = pytest.mark.logs_warnings

PREAMBLE = "import logging\nimport pytest\nlog = logging.getLogger('x')\n"


@pytest.fixture
def outcomes(pytester: pytest.Pytester, request: pytest.FixtureRequest):
    """Runs a test's text under this project's conftest and returns its outcomes."""
    conftest = (request.config.rootpath / "tests/conftest.py").read_text()
    pytester.makeconftest(conftest)
    pytester.makeini("[pytest]\nmarkers =\n    logs_warnings: x\n")

    def run(text: str) -> dict[str, int]:
        pytester.makepyfile(PREAMBLE + text)
        return pytester.runpytest_inprocess("-p", "no:trio").parseoutcomes()

    return run


def test_an_unannounced_warning_fails_the_test(outcomes):
    assert outcomes("def test(): log.warning('bad')") == {"failed": 1}


def test_an_announced_warning_passes(outcomes):
    assert outcomes("def test(announce): announce('b.d'); log.warning('bad')") == {"passed": 1}


def test_an_announced_warning_that_does_not_come_fails_the_test(outcomes):
    assert outcomes("def test(announce): announce('bad')") == {"failed": 1}


def test_an_optional_warning_may_stay_away(outcomes):
    assert outcomes("def test(announce): announce('bad', optional=True)") == {"passed": 1}


def test_the_marker_allows_any_warning(outcomes):
    text = "@pytest.mark.logs_warnings\ndef test(): log.error('bad')"
    assert outcomes(text) == {"passed": 1}


def test_information_is_not_a_warning(caplog):
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("fine")
    assert caplog.messages == ["fine"]
