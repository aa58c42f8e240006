"""disconnect and disconnect-all."""

import pytest

from nvmf_host.messages import DisconnectResult, ErrorInfo

from .fakes import FakeDaemon, run

DONE = {"disconnect": DisconnectResult(devices=("nvme0",))}


@pytest.mark.parametrize(
    ("given", "device", "directory"),
    [
        ("nvme0", "nvme0", "/default"),
        ("nvme0ns2", "nvme0ns2", "/default"),
        ("/mnt/d/nvme0", "nvme0", "/mnt/d"),
        ("/mnt/d/nvme0ns2", "nvme0ns2", "/mnt/d"),
        ("nqn.2014-08.org.example:a/b", "nqn.2014-08.org.example:a/b", "/default"),
        ("nqn.2014-08.org.example:a/nvme0", "nqn.2014-08.org.example:a/nvme0", "/default"),
        ("odd-nqn", "odd-nqn", "/default"),
    ],
)
def test_by_name_path_or_subnqn(given, device, directory, monkeypatch):
    monkeypatch.setenv("NVMF_DEV", "/default")
    daemon = FakeDaemon(dict(DONE))

    outcome = run("disconnect", given, daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert daemon.requests == [{"command": "disconnect", "device": device}]
    assert daemon.directories == [directory]


def test_all():
    daemon = FakeDaemon(dict(DONE))

    assert run("disconnect-all", daemon=daemon).code == 0
    assert daemon.requests == [{"command": "disconnect", "device": None}]


def test_json():
    outcome = run("disconnect", "nvme0", "--json", daemon=FakeDaemon(dict(DONE)))

    assert outcome.json == {"schema": 1, "devices": ["nvme0"], "problems": {}}


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_shutdown_that_was_not_seen_is_told(arguments):
    result = DisconnectResult(devices=("nvme0",), problems={"nvme0": "SHST=10b not seen in 5 s"})

    outcome = run("disconnect-all", *arguments, daemon=FakeDaemon({"disconnect": result}))

    assert outcome.code == 74
    assert outcome.err == "nvmecontrol disconnect-all: nvme0: SHST=10b not seen in 5 s\n"


def test_no_such_device():
    error = ErrorInfo(kind="no-such-device", message="no such controller", field="device",
                      value="nvme7")  # fmt: skip

    outcome = run("disconnect", "nvme7", daemon=FakeDaemon({"disconnect": error}))

    assert outcome.code == 72
    assert outcome.err == (
        "nvmecontrol disconnect: DEVICE nvme7: no such controller; "
        "`nvmecontrol devlist` names those there are\n"
    )
