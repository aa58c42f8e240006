"""Fixtures of the controller's tests."""

import subprocess

import pytest

from tests.controller.nvmfd_process import NVMFD, READY


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts nvmfd; returns the process, its addresses, where discovery is, and the NQN."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [*NVMFD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        match = READY.fullmatch(process.stdout.readline())
        assert match is not None, process.stderr.read()
        return process, match[1].replace(" io=", " ").split(), match[2], match[3]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
