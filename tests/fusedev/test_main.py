"""The command line: what is refused, how, and with which exit code."""

import logging
import re
import uuid

import pytest

from fusedev import main
from nvmf_host.identity import HostIdentity

IDENTITY = HostIdentity(nqn="nqn.2024-01.org.example:host", hostid=uuid.UUID(int=1))


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """No look at this machine's."""
    monkeypatch.setattr("nvmf_host.identity.resolve", lambda: IDENTITY)
    yield
    for package in ("pyfuse3", "fusedev", "nvmf_host", "nvmf_tcp", "nvmf_transport"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--nonsense"], 64, "No such option"),
        (["one", "two"], 64, "unexpected extra argument"),
        (["--connect"], 64, "requires an argument"),
        (["--connect", "127.0.0.1:4420", "{dir}"], 64, "no SUBNQN; write ADDRESS:PORT/SUBNQN"),
        (["--connect", "127.0.0.1/nqn.x", "{dir}"], 64, "explicit port required"),
        (["--connect", "127.0.0.1:x/nqn.x", "{dir}"], 64, "'x' is not a port"),
        (["--connect", "a:1/" + "n" * 224, "{dir}"], 64, "the NQN has 224 bytes"),
        (["--connect", "a:1/", "{dir}"], 64, "the NQN is empty"),
        (["--max-held", "1M", "{dir}"], 64, "--max-held: 1M: not a size from 24M on"),
        (["{dir}/none"], 72, "no such directory; make it"),
        (["{dir}/file"], 72, "not a directory; make it"),
        (["/proc"], 73, "busy: a file system of type proc is mounted there"),
    ],
)
def test_every_refusal_is_one_line_and_an_exit_code(arguments, code, said, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = [each.replace("{dir}", str(tmp_path)) for each in arguments]
    assert main._exit_code(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fusedev: ")
    assert err.count("\n") == 1
    assert said in err


def test_version(capsys):
    assert main._exit_code(["--version"]) == 0
    assert re.fullmatch(r"fusedev, version \S+\n", capsys.readouterr().out)


def test_help_is_no_error(capsys):
    assert main._exit_code(["--help"]) == 0
    assert "ADDRESS:PORT/SUBNQN" in capsys.readouterr().out


def test_a_target_is_an_address_and_a_name():
    params = main.parse_target("[fe80::1%lo]:4420/nqn.2024-01.org.example:a/b", IDENTITY)
    assert str(params.address) == "[fe80::1%lo]:4420"
    assert params.subnqn == "nqn.2024-01.org.example:a/b"
    assert params.identity is IDENTITY
