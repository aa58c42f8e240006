"""What the tests against other implementations share: the matrix, the kernel's target, mounts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import Mount, fusedev

from .guests import Target, kernel_target

#: How much data each test moves, from an environment variable: more is slow, see the README.
MIB = int(os.environ.get("INTEROP_MIB", "8"))


def _matrix(short: list[str], full: list[str]) -> list[object]:
    return [*short, *(pytest.param(each, marks=pytest.mark.full) for each in full)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that asks for `digests` or `kernel` the values of the matrix."""
    if "digests" in metafunc.fixturenames:
        metafunc.parametrize("digests", _matrix(["none", "both"], ["header", "data"]))
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", _matrix(["6.12"], ["6.1"]), scope="session")


@pytest.fixture(scope="session")
def target(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A kernel's target, the same one for all tests that use this kernel."""
    with kernel_target(kernel, tmp_path_factory.mktemp(f"target-{kernel}")) as target:
        yield target
        assert target.faults() == []


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Mount, Mount]]:
    """Two mounts, each with a daemon of its own: what one writes the other must read."""
    with (
        fusedev(tmp_path / "one", log=tmp_path / "one.log") as one,
        fusedev(tmp_path / "two", log=tmp_path / "two.log") as two,
    ):
        yield one, two
        assert [one.stop(), two.stop()] == [0, 0]
        # A lost association that was made again is still one too many.
        warnings = [
            f"{mount.path.name}: {line}"
            for mount in (one, two)
            for line in mount.log.read_text().splitlines()
            if "WARNING" in line or "ERROR" in line
        ]
        assert "\n".join(warnings) == ""
