"""Nothing stays unkillable because it waits for us: every kind of request, and who must stay."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.fusedev.mounted import ROOT, running, until

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

#: What is promised, and what a busy machine may add.
GONE_S = 2.0
SLACK_S = 1.0
NAME = "nvme0ns1"


@pytest.fixture
def daemon(tmp_path, way):
    directory = tmp_path / "mount"
    directory.mkdir()
    with running(directory, environment=way) as daemon:
        daemon.do("pause", name=NAME)
        yield daemon


def start(*command):
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def waiter(daemon, kind, count):
    return start(sys.executable, "-m", "tests.fusedev.waiters", daemon.path(NAME), kind, str(count))


def fio(daemon, engine, kind, *options):
    return start(
        "fio",
        "--name=waiting",
        f"--filename={daemon.path(NAME)}",
        f"--rw={kind}",
        f"--ioengine={engine}",
        "--direct=1",
        "--bs=4k",
        "--size=1M",
        "--iodepth=16",
        "--invalidate=0",
        "--allow_file_create=0",
        *options,
    )


def waiting(daemon):
    return daemon.do("waiting", name=NAME)


def dies(process, number=signal.SIGKILL, group=False):
    """How long a process takes to be gone, once it is told to."""
    before = time.monotonic()
    process.send_signal(number)
    with process:
        process.wait(GONE_S + SLACK_S)
    return time.monotonic() - before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("kind", ["read", "write", "fsync"])
def test_a_waiter_that_is_killed_is_gone(daemon, kind, number):
    process = waiter(daemon, kind, 1)
    until(lambda: waiting(daemon) == 1)

    assert dies(process, number) < GONE_S + SLACK_S

    assert process.returncode == -number
    until(lambda: waiting(daemon) == 0)


@pytest.mark.parametrize("kind", ["read", "write", "fsync"])
def test_threads_that_wait_in_the_kernel_behind_each_other_go_too(daemon, kind):
    process = waiter(daemon, kind, 20)
    # Writes and fsyncs hold their inode: the kernel lets one at a time through to us.
    until(lambda: waiting(daemon) == (20 if kind == "read" else 1))

    dies(process)

    until(lambda: waiting(daemon) == 0)


@pytest.mark.parametrize("options", [(), ("--thread",)])
@pytest.mark.parametrize("kind", ["randread", "randwrite"])
def test_asynchronous_requests_go_too(daemon, kind, options):
    # Without --thread it is a child of fio's that waits, and fio that is not killed.
    with fio(daemon, "libaio", kind, *options) as process:
        until(lambda: waiting(daemon) == 16)
        pids = {wait["pid"] for wait in daemon.do("waits", name=NAME)}
        [pid] = pids

        os.kill(pid, signal.SIGKILL)
        process.wait(GONE_S + SLACK_S)

    assert waiting(daemon) == 0


def test_who_is_not_killed_waits_on_and_finishes(daemon):
    killed, stays = waiter(daemon, "read", 5), waiter(daemon, "read", 5)
    until(lambda: waiting(daemon) == 10)

    dies(killed)

    until(lambda: waiting(daemon) == 5)
    time.sleep(1.5)
    assert waiting(daemon) == 5
    daemon.do("resume", name=NAME)
    assert stays.communicate(timeout=10)[0].endswith("5 []\n")


def test_a_descriptor_outlives_whoever_opened_it(daemon):
    """As a loop device goes on with the file that losetup gave it."""
    code = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "if os.fork() == 0:\n"
        "    print(len(os.pread(fd, 512, 0)), flush=True)\n"
    )
    with start(sys.executable, "-c", code, daemon.path(NAME)) as opener:
        until(lambda: waiting(daemon) == 1)
        # A zombie first, and then nobody.
        until(lambda: opener.poll() is not None)
        time.sleep(2.5)
        assert waiting(daemon) == 1
        daemon.do("resume", name=NAME)
        assert opener.stdout.read() == "512\n"
