"""Tests that mount need a device to do it with."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, and says so, where the kernel or the container has no FUSE."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return
    for item in items:
        if item.get_closest_marker("fuse") is not None:
            item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be opened"))
