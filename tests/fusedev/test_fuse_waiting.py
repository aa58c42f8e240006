"""A thousand requests that wait, of every kind, keep nothing else waiting."""

# ruff: noqa: PTH116, PTH123

import errno
import os
import signal
import statistics
import subprocess
import time

import pytest

from tests.fusedev.mounted import control, known_size, running, until, waiters

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's 12 background requests stand"),
    pytest.mark.timeout(60),
]

PROMPT_S = 0.1
ENDED = (errno.EIO, errno.ECONNABORTED, errno.ENOTCONN)
#: Kind, processes, requests of each.
SYNCHRONOUS = (("read", 6, 60), ("write", 4, 25), ("fsync", 4, 25))
DEPTH = 256


def fio(path: str, kind: str) -> "subprocess.Popen[str]":
    """`DEPTH` asynchronous direct requests of one process."""
    return subprocess.Popen(
        [
            "fio",
            "--name=waiting",
            f"--filename={path}",
            f"--rw={kind}",
            "--ioengine=libaio",
            "--direct=1",
            "--bs=4k",
            "--size=1M",
            f"--iodepth={DEPTH}",
            "--invalidate=0",
            "--allow_file_create=0",
            "--thread",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def prompt(what, call):
    """`call` is answered in time: the median of five tries, because others use this machine too."""
    times = []
    for _ in range(5):
        before = time.monotonic()
        call()
        times.append(time.monotonic() - before)
    assert statistics.median(times) < PROMPT_S, (what, times)


def open_and_close(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags))


def read_all(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def daemon(tmp_path, way):
    directory = tmp_path / "mount"
    directory.mkdir()
    with running(directory, environment=way) as daemon:
        yield daemon


@pytest.fixture
def waiting(daemon):
    """The processes whose requests wait, on both namespaces of nvme0."""
    for name in ("nvme0ns1", "nvme0ns2"):
        daemon.do("pause", name=name)
    processes = [
        waiters(daemon.path("nvme0ns1"), kind, count)
        for kind, how_many, count in SYNCHRONOUS
        for _ in range(how_many)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
    # On a node of their own: an asynchronous write is submitted under the lock of the inode,
    # which a waiting synchronous write holds.
    processes += [fio(daemon.path("nvme0ns2"), kind) for kind in ("randread", "randwrite")]
    # One synchronous write comes as far as us; the others, and fsyncs, wait behind it, unseen.
    until(lambda: daemon.do("waiting", name="nvme0ns1") >= 361)
    until(lambda: daemon.do("waiting", name="nvme0ns2") == 2 * DEPTH)
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_thousand_waiting_requests_keep_nothing_else_waiting(daemon, waiting):
    path = daemon.path
    total = sum(how_many * count for _, how_many, count in SYNCHRONOUS) + 2 * DEPTH
    assert total >= 1000
    for name in ("nvme0ns1", "nvme0ns2", "nvme0", "nvmf", "nvme1ns1"):
        prompt(f"stat {name}", lambda name=name: os.stat(path(name)))
    prompt("ls", lambda: subprocess.run(["ls", "-l", daemon.directory], check=True, stdout=-3))
    prompt("open for reading", lambda: open_and_close(path("nvme0ns1")))
    prompt("open for writing", lambda: open_and_close(path("nvme0ns2"), os.O_WRONLY))
    prompt("state of a controller", lambda: read_all(path("nvme0")))
    prompt("xattr", lambda: os.getxattr(path("nvme0ns1"), "user.nvme.state"))
    with control(path("nvmf")) as ask:
        prompt("control file", lambda: ask({"do": "echo", "text": "x"}))
    shown = int(os.getxattr(path("nvmf"), "user.nvme.waiting_requests"))
    assert shown >= 361 + 2 * DEPTH

    # The other controller's namespace, in both manners.
    data = os.urandom(1 << 20)
    with open(path("nvme1ns1"), "r+b", buffering=0) as file:
        prompt("write elsewhere", lambda: file.seek(0) or file.write(data))
        prompt("read elsewhere", lambda: file.seek(0) or file.read(1 << 20))
    done = fio(path("nvme1ns1"), "randrw")
    said, _ = done.communicate(timeout=20)
    assert done.returncode == 0, said

    for name in ("nvme0ns1", "nvme0ns2"):
        daemon.do("resume", name=name)
    said_by = [process.communicate(timeout=30)[0] for process in waiting]
    counts = [count for _, how_many, count in SYNCHRONOUS for _ in range(how_many)]
    assert said_by[:-2] == [f"{count} []\n" for count in counts]
    assert [process.returncode for process in waiting[-2:]] == [0, 0], said_by[-2:]
    assert daemon.end() == 0


def test_all_that_waits_fails_when_the_daemon_ends(daemon, waiting):
    before = time.monotonic()
    assert daemon.end(signal.SIGTERM) == 0
    assert time.monotonic() - before < 5
    for process in waiting[:-2]:
        said = process.communicate(timeout=10)[0]
        assert said.startswith("0 ["), said
        # Those that waited in the kernel, behind a write, find the mount gone.
        assert any(os.strerror(number) in said for number in ENDED), said
    for process in waiting[-2:]:
        process.communicate(timeout=10)
        assert process.returncode != 0


def test_a_new_size_is_known_to_asynchronous_readers_at_once(daemon):
    # They trust the size that the kernel has, and nobody asks for the attributes here.
    with open(daemon.path("nvme0ns1"), "rb") as file:
        daemon.do("resize", name="nvme0ns1", size_bytes=2 << 20)
        until(lambda: known_size(file.fileno()) == 2 << 20, 2)
