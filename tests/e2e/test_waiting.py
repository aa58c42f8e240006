"""What waits, and the ways out: by hand, by a signal, at the end.  The real programs, over TCP."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests import programs

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(90)]

SUBNQN = "nqn.2024-01.org.example:waiting"
GONE_S = 3.0
_NO_CROSS_CONTROLLER_RESET = """
[[rule]]
queue = "admin"
opcode = 0x38
action = { do = "status", sct = 0, sc = 1, dnr = true }
"""
BLOCK = 4096


@attrs.define(eq=False)
class Stage:
    """A mount, and controllers that may be frozen and killed."""

    folder: Path
    mount: programs.Mount
    disk: Path
    _stack: contextlib.ExitStack

    @property
    def node(self) -> str:
        return f"{self.mount.path}/nvme0ns1"

    def start(self, *options: str, port: int = 0) -> programs.Nvmfd:
        """A controller that serves the disk: each is the same one to the host."""
        arguments: list[str | Path] = ["-n", SUBNQN, *options, self.disk]
        target = self._stack.enter_context(
            programs.nvmfd(*arguments, log=self.folder / "nvmfd.log", port=port)
        )
        self._stack.callback(target.process.kill)
        return target

    def ask(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.mount.nvmecontrol(*arguments, "--json").stdout)
        return answer

    def waits(self) -> list[dict[str, Any]]:
        return list(self.ask("paused")["requests"])

    def open(self, flags: int) -> int:
        fd = os.open(self.node, flags)
        self._stack.callback(os.close, fd)
        return fd

    def waiter(self, kind: str, offset: int = 0) -> "subprocess.Popen[bytes]":
        """A process with one request of a kind; its exit code is the errno."""
        code = (
            "import os, sys\n"
            "path, kind, offset = sys.argv[1], sys.argv[2], int(sys.argv[3])\n"
            "fd = os.open(path, os.O_RDWR | (os.O_DSYNC if kind == 'dsync' else 0))\n"
            "try:\n"
            "    if kind == 'read':\n"
            "        os.pread(fd, 4096, offset)\n"
            "    elif kind == 'fsync':\n"
            "        os.fsync(fd)\n"
            "    else:\n"
            "        os.pwrite(fd, bytes([len(kind)]) * 4096, offset)\n"
            "except OSError as error:\n"
            "    sys.exit(error.errno)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, self.node, kind, str(offset)])
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with (
        programs.fusedev(tmp_path / "mount", log=tmp_path / "fusedev.log") as mount,
        contextlib.ExitStack() as stack,
    ):
        yield Stage(tmp_path, mount, disk, stack)


def until(condition, limit_s=15.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def freeze(target):
    target.process.send_signal(signal.SIGSTOP)


def assert_gone(process):
    before = time.monotonic()
    process.kill()
    assert process.wait(GONE_S) == -signal.SIGKILL
    return time.monotonic() - before


def test_waiters_can_be_killed_before_the_loss_is_noticed(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-k", "60")
    freeze(target)
    kinds = [stage.waiter("read"), stage.waiter("dsync", BLOCK)]
    until(lambda: len(stage.waits()) == 2)
    assert {wait["operation"] for wait in stage.waits()} == {"read", "write"}
    assert {wait["pid"] for wait in stage.waits()} == {each.pid for each in kinds}
    assert {wait["reason"] for wait in stage.waits()} == {"sent, and not answered yet"}

    # It waits behind the write, in the kernel, and then with us.
    kinds.append(stage.waiter("fsync"))
    for process in kinds:
        assert_gone(process)

    assert stage.waits() == []


def test_waiters_can_be_killed_while_the_controller_is_away(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-r", "0")
    target.kill()
    kinds = [stage.waiter("read"), stage.waiter("write", 100)]
    until(lambda: len(stage.waits()) == 2)
    assert all(wait["reason"].startswith("connection lost: ") for wait in stage.waits())
    for process in kinds:
        assert_gone(process)
    fsync = stage.waiter("fsync")
    until(lambda: len(stage.waits()) == 1)
    assert_gone(fsync)
    stays = stage.waiter("read")
    until(lambda: len(stage.waits()) == 1)
    stage.start(port=target.port)
    stage.mount.nvmecontrol("reconnect", "nvme0")
    assert stays.wait(10) == 0


def test_newer_writes_wait_for_quarantine_until_killed_failed_or_vouched_for(stage):
    first = stage.start()
    stage.mount.connect(first.address, SUBNQN, "-k", "30", "-r", "0")
    freeze(first)
    older = stage.waiter("write")
    until(lambda: len(stage.waits()) == 1)
    first.kill()
    until(lambda: stage.waits()[0]["ambiguous"])
    # As a target that cannot say whether the old controller has stopped.
    plan = stage.folder / "plan.toml"
    plan.write_text(_NO_CROSS_CONTROLLER_RESET)
    stage.start("--faults", str(plan), port=first.port)
    stage.mount.nvmecontrol("reconnect", "nvme0")
    assert older.wait(10) == 0
    shown = stage.ask("paused")
    [quarantine] = shown["quarantine"]
    assert (quarantine["slba"], quarantine["length_lbas"]) == (0, BLOCK // 512)
    assert quarantine["lifts_in_s"] > 30

    elsewhere = stage.waiter("write", BLOCK)
    assert elsewhere.wait(10) == 0
    newer = stage.waiter("dsync")
    until(lambda: len(stage.waits()) == 1)
    assert stage.waits()[0]["quarantined"]
    print(stage.mount.nvmecontrol("paused").stdout, stage.mount.nvmecontrol("devlist").stdout)
    assert_gone(newer)

    newer = stage.waiter("write")
    until(lambda: len(stage.waits()) == 1)
    stage.mount.nvmecontrol("fail", "nvme0ns1")
    assert newer.wait(10) == errno.EIO
    assert len(stage.ask("paused")["quarantine"]) == 1

    newer = stage.waiter("write")
    until(lambda: len(stage.waits()) == 1)
    stage.mount.nvmecontrol("reconnect", "--fenced", "nvme0")
    assert newer.wait(10) == 0
    assert stage.ask("paused")["quarantine"] == []


def test_a_loss_is_told_to_fsync_once(stage):
    target = stage.start("--volatile-cache")
    stage.mount.connect(target.address, SUBNQN, "-r", "0.2")
    fd, dsync = stage.open(os.O_RDWR), stage.open(os.O_RDWR | os.O_DSYNC)
    os.pwrite(fd, b"x" * BLOCK, 0)
    assert namespace(stage)["unflushed_bytes"] == BLOCK
    target.kill()
    stage.start("--volatile-cache", port=target.port)
    until(lambda: namespace(stage)["state"] == "paused")
    refused = stage.mount.nvmecontrol("resume", "nvme0ns1", check=False)
    assert refused.returncode == 64
    assert "--rewrite or --accept" in refused.stderr
    stage.mount.nvmecontrol("resume", "--accept", "nvme0ns1")

    with pytest.raises(OSError, match="Input/output error"):
        os.fsync(fd)
    os.fsync(fd)
    with pytest.raises(OSError, match="Input/output error"):
        os.pwrite(dsync, b"y" * BLOCK, BLOCK)
    assert os.pwrite(dsync, b"y" * BLOCK, BLOCK) == BLOCK
    assert os.pread(fd, 1, 0) == b"\0"
    assert stage.mount.stop() == 0


def test_what_was_lost_can_be_written_again(stage):
    target = stage.start("--volatile-cache")
    stage.mount.connect(target.address, SUBNQN, "-r", "0.2")
    fd = stage.open(os.O_RDWR)
    os.pwrite(fd, b"x" * BLOCK, 0)
    target.kill()
    stage.start("--volatile-cache", port=target.port)
    until(lambda: namespace(stage)["state"] == "paused")
    stage.mount.nvmecontrol("resume", "--rewrite", "nvme0ns1")
    os.fsync(fd)
    assert stage.disk.read_bytes()[:BLOCK] == b"x" * BLOCK


def namespace(stage):
    [controller] = stage.ask("devlist")["controllers"]
    [found] = controller["namespaces"]
    return found


def test_the_end_says_what_was_sent_and_not_answered(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-k", "2", "-r", "0")
    freeze(target)
    write = stage.waiter("write", 2 * BLOCK)
    until(lambda: any(wait["ambiguous"] for wait in stage.waits()))

    assert stage.mount.stop() == 74

    assert write.wait(5) != 0
    said = stage.mount.log.read_text()
    assert "1 interrupted writes have an unknown outcome, at (SLBA, LBAs) [(16, 8)]" in said


def test_the_end_says_what_could_not_be_flushed(stage):
    target = stage.start("--volatile-cache")
    stage.mount.connect(target.address, SUBNQN, "-r", "0")
    fd = stage.open(os.O_RDWR)
    os.pwrite(fd, b"x" * BLOCK, 0)
    target.kill()
    until(lambda: namespace(stage)["state"] == "held")

    assert stage.mount.stop() == 74

    assert "nvme0ns1: acknowledged writes were not flushed" in stage.mount.log.read_text()


def test_the_end_flushes_what_can_be(stage):
    target = stage.start("--volatile-cache")
    stage.mount.connect(target.address, SUBNQN)
    os.pwrite(stage.open(os.O_RDWR), b"x" * BLOCK, 0)

    assert stage.mount.stop() == 0

    assert stage.disk.read_bytes()[:BLOCK] == b"x" * BLOCK


def test_a_read_that_waits_does_not_make_the_end_a_bad_one(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-r", "0")
    target.kill()
    read = stage.waiter("read")
    until(lambda: len(stage.waits()) == 1)

    assert stage.mount.stop() == 0

    assert read.wait(5) == errno.ENXIO


def test_a_namespace_that_goes_under_an_open_file_is_enxio(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-r", "0")
    fd = stage.open(os.O_RDWR)
    target.kill()
    read = stage.waiter("read")
    until(lambda: len(stage.waits()) == 1)

    stage.mount.nvmecontrol("disconnect", "nvme0", check=False)

    assert read.wait(5) == errno.ENXIO
    for call in (
        lambda: os.pread(fd, 512, 0),
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.fsync(fd),
    ):
        with pytest.raises(OSError, match="No such device or address"):
            call()
    assert not os.path.lexists(stage.node)


def test_limits_are_changed_while_the_controller_is_away(stage):
    target = stage.start()
    stage.mount.connect(target.address, SUBNQN, "-r", "0")
    target.kill()
    read = stage.waiter("read")
    until(lambda: len(stage.waits()) == 1)

    stage.mount.nvmecontrol("set", "--fast-io-fail-tmo", "0", "nvme0")
    assert read.wait(5) == errno.EIO
    assert stage.waiter("read").wait(5) == errno.EIO
    shown = stage.mount.nvmecontrol("devlist").stdout
    assert "I/O fails until the controller is back (fast I/O fail)" in shown

    stage.mount.nvmecontrol("set", "-l", "0.1", "nvme0")
    until(lambda: not os.path.lexists(f"{stage.mount.path}/nvme0"))
