"""What callers see when the connection is lost and made again, with the real programs."""

import errno
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from tests import programs
from tests.programs import Mount, Nvmfd

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

_MIB = 1 << 20
_SUBNQN = "nqn.2024-01.org.example:reconnect"
#: What is under way must not be over before the loss, on any machine: it takes seconds so.
_SLOW = """
[[rule]]
opcode = "read"
action = {{ do = "delay", seconds = {seconds} }}

[[rule]]
opcode = "write"
action = {{ do = "delay", seconds = {seconds} }}
"""
_READS = 1600


def eventually(condition: Callable[[], object], what: str, *, within_s: float = 15) -> None:
    """Waits for another process to get somewhere."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


@attrs.define(eq=False)
class Setting:
    """A mount, and a target that can be killed and started again."""

    folder: Path
    mount: Mount
    _stack: ExitStack
    target: Nvmfd | None = None
    port: int = 0

    @property
    def node(self) -> Path:
        return self.mount.path / "nvme0ns1"

    @property
    def log(self) -> Path:
        return self.folder / "nvmfd.log"

    def start(self, *arguments: str | Path) -> Nvmfd:
        """Starts the target, on the port of its predecessor if it has one."""
        entered = programs.nvmfd("-n", _SUBNQN, *arguments, log=self.log, port=self.port)
        self.target = self._stack.enter_context(entered)
        self.port = self.target.port
        return self.target

    def start_slow(self, disk: Path, seconds: float = 0.005) -> Nvmfd:
        """The same, where every read and write takes so long."""
        plan = self.folder / "slow.toml"
        plan.write_text(_SLOW.format(seconds=seconds))
        return self.start("--faults", plan, disk)

    def connect(self, *options: str) -> None:
        assert self.target is not None
        assert self.mount.connect(self.target.address, _SUBNQN, *options) == "nvme0"

    def lose(self) -> None:
        """Kills the target, and returns when the host has seen it."""
        assert self.target is not None
        self.target.kill()
        self.wait_for("lost", "reconnecting")

    def state(self, name: str = "nvme0") -> dict[str, object]:
        """What the controller's node says."""
        found: dict[str, object] = json.loads((self.mount.path / name).read_text())
        return found

    def commands(self) -> int:
        """How many were sent on the I/O queues of this association."""
        queues = json.loads((self.mount.path / "nvme0").read_text())["queues"]
        return sum(queue["commands"] for queue in queues if queue["qid"])

    def wait_for(self, *states: str) -> None:
        eventually(lambda: self.state()["state"] in states, f"nvme0 is {states}")

    def attribute(self, name: str) -> str:
        return os.getxattr(self.node, f"user.nvme.{name}").decode()


@contextmanager
def _setting(folder: Path) -> Iterator[Setting]:
    with ExitStack() as stack:
        mount = stack.enter_context(programs.fusedev(folder / "dev", log=folder / "fusedev.log"))
        yield Setting(folder, mount, stack)


@pytest.fixture
def setting(tmp_path) -> Iterator[Setting]:
    with _setting(tmp_path) as setting:
        yield setting


def _disk(folder: Path, size_bytes: int, name: str = "disk") -> tuple[Path, bytes]:
    data = os.urandom(size_bytes)
    path = folder / name
    path.write_bytes(data)
    return path, data


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


class _Caller(threading.Thread):
    """Reads or writes a node piece by piece, as a process does: it waits where the node does."""

    PIECE_BYTES = 4096

    def __init__(self, node: Path, offset: int, length: int, data: bytes | None = None) -> None:
        super().__init__(daemon=True)
        self.node, self.offset, self.length, self.data = node, offset, length, data
        self.done_bytes = 0
        self.read = bytearray()
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        flags = os.O_RDONLY if self.data is None else os.O_WRONLY
        try:
            fd = os.open(self.node, flags)
            try:
                while self.done_bytes < self.length:
                    self._move(fd, self.offset + self.done_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            self.error = error

    def _move(self, fd: int, offset: int) -> None:
        if self.data is None:
            self.read += os.pread(fd, self.PIECE_BYTES, offset)
            self.done_bytes += self.PIECE_BYTES
        else:
            piece = self.data[self.done_bytes : self.done_bytes + self.PIECE_BYTES]
            self.done_bytes += os.pwrite(fd, piece, offset)

    def has_begun(self) -> bool:
        return self.done_bytes >= 64 * self.PIECE_BYTES

    def waits(self) -> None:
        """Sees that it makes no progress, and has not failed."""
        before = self.done_bytes
        time.sleep(0.3)
        assert self.is_alive(), self.error
        assert self.done_bytes == before < self.length

    def finish(self) -> None:
        self.join(20)
        assert not self.is_alive()
        assert self.error is None


def test_a_read_and_a_write_in_flight_finish_after_a_manual_reconnect(setting, tmp_path):
    half = 4 * _MIB
    disk, data = _disk(tmp_path, 2 * half)
    setting.start_slow(disk)
    setting.connect("-r", "0")
    new = os.urandom(half)
    reader = _Caller(setting.node, 0, half)
    writer = _Caller(setting.node, half, half, new)
    eventually(lambda: reader.has_begun() and writer.has_begun(), "both are under way")

    setting.lose()
    reader.waits()
    writer.waits()
    # Whatever waits, these answer.
    assert setting.node.stat().st_size == 2 * half
    assert (setting.mount.path / "nvmf").exists()
    setting.start(disk)
    setting.mount.nvmecontrol("reconnect", "nvme0")
    reader.finish()
    writer.finish()

    assert bytes(reader.read) == data[:half]
    assert setting.node.read_bytes() == data[:half] + new
    assert setting.mount.stop() == 0
    assert disk.read_bytes() == data[:half] + new


def test_asynchronous_reads_and_a_copy_go_on_after_a_loss(setting, tmp_path):
    disk, _ = _disk(tmp_path, 64 * _MIB)
    original, data = _disk(tmp_path, 64 * _MIB, "original")
    # Few and long writes make the copy.
    setting.start_slow(disk, 0.05)
    setting.connect("-r", "0")
    fio = subprocess.Popen(
        [
            *("fio", "--name=reads", f"--filename={setting.node}", "--rw=randread", "--bs=4k"),
            *("--ioengine=libaio", "--iodepth=16", "--direct=1", "--size=64M", "--rate_iops=400"),
            *(f"--number_ios={_READS}", "--output-format=json"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: setting.commands() > 50, "fio has begun")
    copy = subprocess.Popen(["cp", original, setting.node])
    eventually(lambda: _head(disk) == data[:4096], "cp has begun")

    setting.lose()
    assert copy.poll() is None, "the copy was over before the loss"
    time.sleep(0.3)
    assert copy.poll() is None
    assert fio.poll() is None
    setting.start(disk)
    setting.mount.nvmecontrol("reconnect", "nvme0")
    assert copy.wait(30) == 0
    report = json.loads(fio.communicate(timeout=30)[0])

    job = report["jobs"][0]
    assert (fio.returncode, job["error"]) == (0, 0)
    assert job["read"]["total_ios"] == _READS
    assert setting.node.read_bytes() == data


def test_it_reconnects_by_itself(setting, tmp_path):
    disk, data = _disk(tmp_path, 4 * _MIB)
    setting.start_slow(disk)
    setting.connect("-r", "1")
    reader = _Caller(setting.node, 0, 4 * _MIB)
    eventually(reader.has_begun, "the reader is under way")

    setting.lose()
    reader.waits()
    setting.start(disk)
    returned = time.monotonic()
    setting.wait_for("live")
    within_s = time.monotonic() - returned
    reader.finish()

    # The delay is 1 s at most; an attempt takes a moment besides, on a machine with other work.
    assert within_s < 5
    assert bytes(reader.read) == data


def test_another_disk_in_its_place_stays_paused_until_the_right_one_is_back(setting, tmp_path):
    disk, data = _disk(tmp_path, 4 * _MIB)
    setting.start_slow(disk)
    setting.connect("-r", "0")
    uuid = setting.attribute("uuid")
    reader = _Caller(setting.node, 0, 4 * _MIB)
    eventually(reader.has_begun, "the reader is under way")
    setting.lose()

    setting.start("ramdisk:4M")
    said = setting.mount.nvmecontrol("reconnect", "nvme0", check=False)
    reader.waits()
    listed = setting.mount.nvmecontrol("--json", "devlist").stdout
    (namespace,) = json.loads(listed)["controllers"][0]["namespaces"]

    assert "not the same namespace" in said.stderr
    assert namespace["state"] == "paused"
    for text in (namespace["reason"], setting.attribute("last_error")):
        assert re.search(rf"UUID was {uuid}, is [0-9a-f-]{{36}}", text), text
    assert setting.attribute("state").startswith("paused")

    setting.lose()
    setting.start(disk)
    setting.mount.nvmecontrol("reconnect", "nvme0")
    reader.finish()

    assert bytes(reader.read) == data
    assert setting.attribute("state").startswith("live")


@attrs.frozen
class _Sent:
    """The I/O commands that the controller logged."""

    writes: int
    fua_writes: int
    flushes: int


def _sent(text: str) -> _Sent:
    pairs = re.findall(r"queue [1-9]\d*, CID \d+: opcode (0x\w+) .* CDW12 (0x\w+),", text)
    writes = [int(cdw12, 16) for opcode, cdw12 in pairs if int(opcode, 16) == 0x01]
    return _Sent(
        len(writes),
        sum(bool(cdw12 & 1 << 30) for cdw12 in writes),
        sum(int(opcode, 16) == 0x00 for opcode, _ in pairs),
    )


_FIO = "fio --name=w --filename={node} --rw=write --bs=4k --size=32k --ioengine=psync --direct=1"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dd if=/dev/zero of={node} bs=4k count=8 oflag=dsync", _Sent(8, 8, 0)),
        (f"{_FIO} --sync=1", _Sent(8, 8, 0)),
        ("dd if=/dev/zero of={node} bs=4k count=8", _Sent(8, 0, 0)),
        ("dd if=/dev/zero of={node} bs=4k count=8 conv=fsync", _Sent(8, 0, 1)),
        # fio does it between the fourth and the fifth, and not after the last.
        (f"{_FIO} --fsync=4", _Sent(8, 0, 1)),
    ],
)
def test_synchronous_writes_are_fua_and_fsync_is_flush(setting, tmp_path, command, expected):
    disk, _ = _disk(tmp_path, _MIB)
    setting.start("-vv", disk)
    setting.connect()
    before = len(setting.log.read_text())

    subprocess.run(
        command.format(node=setting.node), shell=True, check=True, capture_output=True, cwd=tmp_path
    )

    assert _sent(setting.log.read_text()[before:]) == expected


def test_a_read_only_connection_writes_nothing(setting, tmp_path):
    disk, data = _disk(tmp_path, _MIB)
    setting.start(disk)
    setting.connect("--read-only")

    assert setting.node.stat().st_mode & 0o777 == 0o400
    assert setting.node.read_bytes() == data
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.close(os.open(setting.node, os.O_RDWR))
    zeroes = ("write-zeroes", "-s", "0", "-c", "0", "nvme0ns1")
    refused = setting.mount.nvmecontrol(*zeroes, check=False)
    assert refused.returncode == 74
    assert disk.read_bytes() == data


def test_losing_one_controller_leaves_the_other_untouched(setting, tmp_path):
    disk, data = _disk(tmp_path, 4 * _MIB)
    other, other_data = _disk(tmp_path, 4 * _MIB, "other")
    setting.start_slow(disk)
    setting.connect("-r", "0")
    with programs.nvmfd(other, log=tmp_path / "other.log") as second:
        assert setting.mount.connect(second.address, second.subnqn) == "nvme1"
        reader = _Caller(setting.node, 0, 4 * _MIB)
        eventually(reader.has_begun, "the reader is under way")

        setting.lose()
        reader.waits()
        node = setting.mount.path / "nvme1ns1"
        assert node.read_bytes() == other_data
        with node.open("r+b", buffering=0) as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
        assert node.read_bytes() == bytes(4096) + other_data[4096:]
        assert setting.state("nvme1")["state"] == "live"
        reader.waits()

        setting.start(disk)
        setting.mount.nvmecontrol("reconnect", "nvme0")
        reader.finish()
    assert bytes(reader.read) == data
