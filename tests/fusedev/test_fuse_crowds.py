"""Much at once through a real mount, long names, and ends from outside."""

# ruff: noqa: PTH116, PTH208

import concurrent.futures
import errno
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fusedev import mountinfo
from fusedev.device import SWITCH
from tests.fusedev.mounted import running, started_waiters, until

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

NAME = "nvme0ns1"
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


@pytest.fixture
def daemon(tmp_path, way):
    directory = tmp_path / "mount"
    directory.mkdir()
    with running(directory, environment=way) as daemon:
        yield daemon


def waiters(daemon, kind, count):
    """A process with so many requests that wait, on a namespace that is paused."""
    return started_waiters(daemon.path(NAME), kind, count)


@pytest.mark.parametrize("flag", [os.RWF_DSYNC, os.RWF_SYNC])
def test_a_single_synchronous_write_is_fua_but_where_pyfuse3_serves_it(daemon, way, flag):
    fd = os.open(daemon.path(NAME), os.O_RDWR)
    try:
        assert os.pwritev(fd, [b"x" * 512], 512, flag) == 512
        assert os.pwritev(fd, [b"y" * 512], 1024) == 512
    finally:
        os.close(fd)
    # pyfuse3 does not say which flags a write has.
    fua = not way[SWITCH]
    assert daemon.do("calls", name=NAME) == [["write", 512, 512, fua], ["write", 1024, 512, False]]


def test_a_thousand_nodes_are_all_listed(daemon):
    """In pieces: the answer to each request has to fit into a socket."""
    names = {f"nvme7ns{number}" for number in range(1, 1001)}
    for name in names:
        daemon.do("add", name=name, size_bytes=4096)
    listed = os.listdir(daemon.directory)
    assert len(listed) == len(set(listed))
    assert names <= set(listed)
    with os.scandir(daemon.directory) as entries:
        sizes = [entry.stat().st_size for entry in entries if entry.name in names]
    assert sizes == [4096] * 1000
    done = subprocess.run(["ls", "-l", daemon.directory], check=True, capture_output=True)
    assert done.stdout.count(b"nvme7ns") == 1000
    assert daemon.end() == 0


def test_long_names_and_values(daemon):
    node = daemon.path(NAME)
    with pytest.raises(FileNotFoundError):
        os.stat(daemon.path("n" * 1000))
    with pytest.raises(OSError, match="No data"):
        os.getxattr(node, "user.nvme." + "n" * 245)

    def set_one(_: int) -> int:
        with pytest.raises(PermissionError) as raised:
            os.setxattr(node, "user.nvme." + "n" * 245, bytes(65536))
        return raised.value.errno or 0

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert set(threads.map(set_one, range(64))) == {errno.EPERM}


def test_many_callers_at_once_while_others_wait(daemon):
    daemon.do("pause", name=NAME)
    processes = [waiters(daemon, "read", 200), waiters(daemon, "write", 5)]
    until(lambda: daemon.do("waiting", name=NAME) == 201)
    node, other = daemon.path(NAME), daemon.path("nvme1ns1")

    def look(number: int) -> None:
        path = node if number % 2 else other
        for _ in range(20):
            assert os.stat(path).st_size
            fd = os.open(path, os.O_RDWR)
            assert os.getxattr(fd, "user.nvme.state") == b"live"
            if path == other:
                data = bytes([number]) * 4096
                assert os.pwrite(fd, data, number * 4096) == 4096
                assert os.pread(fd, 4096, number * 4096) == data
            os.close(fd)
            assert NAME in os.listdir(daemon.directory)

    before = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(64) as threads:
        list(threads.map(look, range(64)))
    assert time.monotonic() - before < 30
    daemon.do("resume", name=NAME)
    assert [process.communicate(timeout=20)[0] for process in processes] == ["200 []\n", "5 []\n"]
    assert daemon.end() == 0
    assert "Traceback" not in daemon.errors.read_text()


def abort(daemon):
    (daemon.connection() / "abort").write_text("1")


def umount_lazily(daemon):
    subprocess.run(["umount", "-l", daemon.directory], check=True)


def fusermount_lazily(daemon):
    subprocess.run(["fusermount3", "-uz", daemon.directory], check=True)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(abort, marks=ONLY_ROOT),
        pytest.param(umount_lazily, marks=ONLY_ROOT),
        fusermount_lazily,
    ],
)
def test_an_end_from_outside_is_in_order(daemon, how):
    assert os.listdir(daemon.directory)
    how(daemon)
    assert daemon.process.wait(15) == 0
    assert "Traceback" not in daemon.errors.read_text()
    assert not mountinfo.mounts_at(str(daemon.directory))


@ONLY_ROOT
def test_an_abort_while_requests_wait_is_an_end_too(daemon, way):
    daemon.do("pause", name=NAME)
    with waiters(daemon, "read", 20) as process:
        until(lambda: daemon.do("waiting", name=NAME) == 20)
        abort(daemon)
        said = process.communicate(timeout=10)[0]
    assert said.startswith("0 ["), said
    if way[SWITCH]:
        # pyfuse3 ends with the last of its requests only.
        daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_a_lazy_unmount_lets_what_is_open_finish_first(daemon):
    daemon.do("pause", name=NAME)
    ask = os.open(daemon.path("nvmf"), os.O_RDWR)
    fd = os.open(daemon.path(NAME), os.O_RDONLY)
    results: list[int] = []
    reader = threading.Thread(target=lambda: results.append(len(os.pread(fd, 512, 0))))
    reader.start()
    until(lambda: daemon.do("waiting", name=NAME) == 1)
    fusermount_lazily(daemon)
    time.sleep(0.2)
    assert daemon.process.poll() is None
    os.write(ask, b'{"do": "resume", "name": "nvme0ns1"}\n')
    reader.join(10)
    assert results == [512]
    os.close(fd)
    os.close(ask)
    assert daemon.process.wait(15) == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_the_end_leaves_no_request_without_an_answer(daemon):
    """Lookups and opens go on until the very end: each gets an answer, or an error."""
    stop = threading.Event()

    def look() -> int:
        count = 0
        while not stop.is_set():
            try:
                os.stat(daemon.path(NAME))
                os.close(os.open(daemon.path(NAME), os.O_RDONLY))
            except OSError:
                stop.wait(0.001)
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        looks = [threads.submit(look) for _ in range(8)]
        time.sleep(0.3)
        code = daemon.end()
        stop.set()
        assert all(each.result(10) for each in looks)
    assert code == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_descriptors_do_not_pile_up(daemon):
    folder = Path(f"/proc/{daemon.process.pid}/fd")

    def work() -> None:
        for _ in range(50):
            daemon.do("echo", text="x")
            os.getxattr(daemon.path(NAME), "user.nvme.state")

    work()
    before = len(os.listdir(folder))
    work()
    assert len(os.listdir(folder)) <= before + 1
