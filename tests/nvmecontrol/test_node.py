"""The control node: the bytes of a session, and finding the daemon."""

import json
import os
import socket

import pytest

from nvmecontrol import node
from nvmecontrol.failure import Failure
from nvmecontrol.node import ControlNode, split_device
from nvmf_host.messages import (
    MAX_REQUEST_BYTES,
    DeallocateRequest,
    DevlistRequest,
    FlushRequest,
    NsidRequest,
)


@pytest.fixture
def session(tmp_path):
    """A control node, and the daemon's end of it.  A read of an empty packet is "nothing yet"."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        control = ControlNode(directory=tmp_path, descriptor=os.dup(ours.fileno()))
        theirs.settimeout(5)
        yield control, theirs
        control.close()


def test_a_request_is_one_write_of_a_line(session):
    control, daemon = session
    daemon.send(b'{"schema":1,"id":1,"result":{"controller":"nvme0","nsid":3}}\n')

    assert control.request(NsidRequest(device="nvme0ns3")) == {"controller": "nvme0", "nsid": 3}
    line = daemon.recv(4096)
    assert line.endswith(b"\n")
    assert json.loads(line) == {"id": 1, "command": "nsid", "device": "nvme0ns3"}


def test_an_answer_may_come_late_in_pieces_and_behind_others(session):
    control, daemon = session
    for piece in (b"", b"", b'{"schema":1,"id":7,"result":{}}\n{"sch', b"", b'ema":1,"id":',
                  b'1,"result":{"controllers":[]}}\n'):  # fmt: skip
        daemon.send(piece)

    assert control.request(DevlistRequest()) == {"controllers": []}


def test_each_request_has_its_own_id(session):
    control, daemon = session
    daemon.send(b'{"schema":1,"id":1,"result":{}}\n')
    daemon.send(b'{"schema":1,"id":2,"result":{}}\n')

    control.request(FlushRequest(device="nvme0ns1"))
    control.request(FlushRequest(device="nvme0ns1"))

    assert [json.loads(daemon.recv(4096))["id"] for _ in range(2)] == [1, 2]


def test_an_error_is_raised_with_all_that_it_says(session):
    control, daemon = session
    daemon.send(
        b'{"schema":1,"id":1,"error":{"kind":"command","message":"m; d","field":"f","value":"v",'
        b'"status":"0/0B","step":"s","of_a_later_version":1}}\n'
    )

    with pytest.raises(Failure) as caught:
        control.request(FlushRequest(device="nvme0ns1"))

    found = caught.value
    assert (found.kind, found.message, found.field, found.value, found.status, found.step) == (
        "command", "m; d", "f", "v", "0/0B", "s",
    )  # fmt: skip


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[]\n", b'"x"\n', b"\xff\n"])
def test_an_answer_that_is_no_object_is_a_fault(session, answer):
    control, daemon = session
    daemon.send(answer)

    with pytest.raises(Failure, match="no JSON object") as caught:
        control.request(DevlistRequest())

    assert caught.value.exit_code == 70


def test_a_daemon_that_ends_is_told(session, tmp_path):
    control, daemon = session
    daemon.close()

    with pytest.raises(Failure, match="the daemon ended before it answered") as caught:
        control.request(DevlistRequest())

    assert (caught.value.exit_code, caught.value.value) == (72, str(tmp_path))


def test_a_request_that_is_too_long_is_not_sent(session):
    control, daemon = session
    ranges = tuple((1 << 60, 1) for _ in range(MAX_REQUEST_BYTES // 20))

    with pytest.raises(Failure, match="65536 are allowed") as caught:
        control.request(DeallocateRequest(device="nvme0ns1", ranges=ranges))

    assert caught.value.exit_code == 64
    daemon.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.recv(1)


def test_no_directory(tmp_path):
    with pytest.raises(Failure, match="no such directory; start `fusedev`") as caught:
        ControlNode.open(tmp_path / "none")

    assert caught.value.exit_code == 72


def test_a_directory_without_a_daemon(tmp_path):
    with pytest.raises(Failure, match="no fusedev serves it; start `fusedev ") as caught:
        ControlNode.open(tmp_path)

    assert caught.value.exit_code == 72


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(Failure, match="no fusedev serves it"):
        ControlNode.open(tmp_path / "file")


def test_a_file_of_that_name_that_is_not_ours_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "nvmf")

    with pytest.raises(Failure, match="not a directory that fusedev serves; name its DIR"):
        ControlNode.open(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(107, "Transport endpoint is not connected"), "dead mount"),
        (PermissionError(13, "Permission denied"), "act as the user who started fusedev"),
        (OSError(5, "Input/output error"), "Input/output error; start `fusedev"),
    ],
)
def test_what_keeps_the_node_from_opening(tmp_path, monkeypatch, error, words):
    def fail(*_):
        raise error

    (tmp_path / "nvmf").touch()
    monkeypatch.setattr(node, "_is_our_mount", fail)

    with pytest.raises(Failure, match=words) as caught:
        ControlNode.open(tmp_path)

    assert caught.value.exit_code == 72


def test_our_mount_is_known_by_its_type_and_device(tmp_path, monkeypatch):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "29 1 0:26 / / rw - ext4 /dev/x rw\n"
        "87 29 0:77 / /mnt/a\\040b rw,nosuid shared:3 - fuse.nvmf nvmf rw\n"
        "88 29 0:78 / /mnt/c rw - fuse.other x rw\n"
    )
    monkeypatch.setattr(node, "_MOUNTINFO", mountinfo)

    found = [minor for minor in (26, 77, 78) if node._is_our_mount(os.makedev(0, minor))]

    assert found == [77]


@pytest.mark.parametrize(
    ("text", "directory", "name"),
    [
        ("nvme0", None, "nvme0"),
        ("nvme12ns34", None, "nvme12ns34"),
        ("/mnt/d/nvme0", "/mnt/d", "nvme0"),
        ("./nvme0ns1", ".", "nvme0ns1"),
        ("/nvme0", "/", "nvme0"),
    ],
)
def test_devices_by_name_and_by_path(text, directory, name):
    found, found_name = split_device(text)

    assert (None if found is None else str(found), found_name) == (directory, name)


@pytest.mark.parametrize(
    "text", ["", "nvme", "nvme0n1", "sda", "/mnt/nvme0/", "nvme0ns1p1", "nvmf"]
)
def test_what_is_no_device(text):
    with pytest.raises(Failure) as caught:
        split_device(text)

    assert caught.value.exit_code == 72
