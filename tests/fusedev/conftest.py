"""Tests that mount need a device to do it with."""

import logging
import os
from collections.abc import Iterator

import pytest

from fusedev.device import SWITCH


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, and says so, where the kernel or the container has no FUSE."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return
    for item in items:
        if item.get_closest_marker("fuse") is not None:
            item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be opened"))


@pytest.fixture(scope="session", params=["data path", "plain"])
def way(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a daemon for each way of serving: callers see the same in both."""
    return {SWITCH: "1" if request.param == "plain" else ""}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For what is said in the log on purpose."""
    with caplog.at_level(logging.CRITICAL + 1, "fusedev"):
        yield
