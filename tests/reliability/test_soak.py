"""Short soaks, beside each other; `make soak` runs them one by one and for long."""

import subprocess
import sys
from pathlib import Path

import pytest

_SOAKS = (
    ("--mode", "cut", "--target", "nvmfd-file", "--lba", "512", "--every", "1.2"),
    ("--mode", "kill", "--target", "nvmfd-file", "--lba", "4096", "--digests", "--every", "1.5"),
    ("--mode", "kill", "--target", "nvmfd-volatile", "--every", "1"),
)
_ROOT = Path(__file__).parents[2]


@pytest.mark.fuse
@pytest.mark.timeout(120)
def test_nothing_is_lost_while_connections_are_cut_and_targets_killed():
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.reliability.soak"),
                *("--seconds", "8", "--mib", "6", "--seed", "1", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_ROOT,
        )
        for options in _SOAKS
    ]
    said = [process.communicate(timeout=110)[0] for process in running]
    print(*said)
    assert [process.returncode for process in running] == [0, 0, 0], "\n".join(said)
