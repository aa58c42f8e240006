"""From start to end: what is refused, and every way of stopping."""

# ruff: noqa: PTH116, PTH123

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fusedev import mountinfo
from tests.fusedev.mounted import ROOT, Daemon, running, until

pytestmark = pytest.mark.fuse


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "a mount"
    directory.mkdir()
    return directory


@pytest.fixture
def daemon(directory, way):
    with running(directory, environment=way) as daemon:
        yield daemon


def refused(directory) -> tuple[int, str]:
    """Exit code and standard error of a daemon that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fusedev.daemon_process", str(directory)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=15,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def mounts(directory) -> list[str]:
    return [mount.kind for mount in mountinfo.mounts_at(str(directory))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(daemon, number):
    assert mounts(daemon.directory) == ["fuse.nvmf"]
    assert daemon.end(number) == 0
    assert mounts(daemon.directory) == []
    assert daemon.process.stdout.read() == ""
    assert "Traceback" not in daemon.errors.read_text()


def test_a_signal_that_comes_twice_at_once_is_one(daemon):
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.end() == 0


def test_unmounting_from_outside_ends_it_in_order(daemon):
    subprocess.run(["fusermount3", "-u", daemon.directory], check=True)
    assert daemon.process.wait(10) == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_problems_at_the_end_are_named_and_give_74(daemon):
    daemon.do("problem", text="nvme0ns1: LBAs 0 to 7 may be lost")
    assert daemon.end() == 74
    assert "LBAs 0 to 7 may be lost" in daemon.errors.read_text()


def test_a_waiting_request_fails_at_the_end_and_a_file_left_open_does_not_keep_it(daemon):
    daemon.do("pause", name="nvme0ns1")
    fd = os.open(daemon.path("nvme0ns1"), os.O_RDWR)
    outcome = []

    def read() -> None:
        try:
            os.pread(fd, 512, 0)
        except OSError as error:
            outcome.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: daemon.do("waiting", name="nvme0ns1") == 1)
    assert daemon.end() == 0
    reader.join(5)
    assert outcome == [errno.EIO]
    with pytest.raises(OSError) as raised:  # noqa: PT011
        os.pread(fd, 512, 0)
    assert raised.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    os.close(fd)


def test_a_second_signal_ends_it_at_once(daemon):
    daemon.do("hang_at_close")
    daemon.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(0.3)
    before = time.monotonic()
    assert daemon.end() == 1
    assert time.monotonic() - before < 1
    assert mounts(daemon.directory) == []


def test_a_second_signal_works_while_the_event_loop_does_not(daemon):
    daemon.do("hang_at_close")
    blocker = threading.Thread(target=_swallow, args=(daemon, 5.0))
    blocker.start()
    time.sleep(0.2)
    daemon.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    before = time.monotonic()
    assert daemon.end() == 1
    assert time.monotonic() - before < 2
    blocker.join(5)


def _swallow(daemon: Daemon, seconds: float) -> None:
    with contextlib.suppress(OSError, AssertionError):
        daemon.do("block", seconds=seconds)


def test_a_host_that_does_not_end_is_left_in_time(directory):
    with running(directory, environment={"CLOSE_S": "0.5"}) as daemon:
        daemon.do("hang_at_close")
        assert daemon.end() == 74
        assert "did not come to its end in 0.5 s" in daemon.errors.read_text()
        assert mounts(daemon.directory) == []


def test_a_directory_in_use_is_refused(daemon):
    code, said = refused(daemon.directory)
    assert code == 73
    assert "another fusedev is mounted there; unmount it" in said
    assert mounts(daemon.directory) == ["fuse.nvmf"]
    assert os.stat(daemon.path("nvmf")).st_mode


def test_a_dead_mount_is_detached_first(directory):
    with running(directory) as first:
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(OSError, match="not connected"):
            os.stat(directory)
        assert mounts(directory) == ["fuse.nvmf"]
        with running(directory) as second:
            assert mounts(directory) == ["fuse.nvmf"]
            assert second.end() == 0


def test_callers_get_an_error_at_once_when_the_daemon_is_killed(daemon):
    daemon.do("pause", name="nvme0ns1")
    fd = os.open(daemon.path("nvme0ns1"), os.O_RDONLY)
    outcome = []

    def read() -> None:
        try:
            os.pread(fd, 512, 0)
        except OSError as error:
            outcome.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: daemon.do("waiting", name="nvme0ns1") == 1)
    daemon.end(signal.SIGKILL)
    reader.join(5)
    os.close(fd)
    assert outcome in ([errno.ECONNABORTED], [errno.ENOTCONN])


def test_a_daemon_that_ends_late_leaves_the_mount_of_the_next_one(directory, way):
    environment = way | {"CLOSE_S": "2"}
    with running(directory, environment=environment) as first:
        first.do("hang_at_close")
        subprocess.run(["fusermount3", "-u", directory], check=True)
        with running(directory, environment=way) as second:
            assert first.process.wait(10) == 74
            assert mounts(directory) == ["fuse.nvmf"]
            assert os.stat(second.path("nvmf")).st_mode
            assert second.end() == 0


def test_a_missing_directory_is_refused(tmp_path):
    code, said = refused(tmp_path / "none")
    assert code == 72
    assert "no such directory" in said


def test_an_output_that_takes_no_ready_line_ends_it(directory):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fusedev.main", str(directory)],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=15,
        )  # fmt: skip
    assert done.returncode == 71
    assert done.stderr == (
        "fusedev: standard output: No space left on device; give one that can be written to\n"
    )
    assert not mounts(directory)


def test_readiness_and_the_end_are_told_to_a_service_manager(directory, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with running(directory, environment=environment) as daemon:
            assert manager.recv(100) == b"READY=1"
            assert daemon.end() == 0
            assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise them")
def test_kernels_limits_are_raised(daemon):
    folder = daemon.connection()
    assert (folder / "max_background").read_text() == "4096\n"
    assert (folder / "congestion_threshold").read_text() == "4096\n"


@pytest.mark.parametrize("found", [set(), {0, 1}])
def test_pyfuse3_serves_everything_where_its_descriptor_is_not_found(directory, found):
    """libfuse may have been given one, or open several."""
    program = (
        "import sys; from fusedev import mount; from tests.fusedev import daemon_process; "
        f"found = iter([set(), {found or 'set()'}]); mount.open_devices = lambda: next(found); "
        "sys.exit(daemon_process.main())"
    )
    with running(directory, ("-c", program)) as daemon:
        with open(daemon.path("nvme0ns1"), "r+b", buffering=0) as node:
            assert node.write(b"x" * 4096) == 4096
            assert os.pread(node.fileno(), 4096, 0) == b"x" * 4096
        assert daemon.end() == 0
        errors = daemon.errors.read_text()
        assert "its descriptor was not found: pyfuse3 serves everything" in errors
