"""Requests that no task waits for, of a real namespace, when things go wrong."""

# ruff: noqa: PTH116

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.fusedev.mounted import running, started_waiters, until
from tests.fusedev.test_fuse_end_to_end import SUBNQN, nvmfd
from tests.reliability.aio import BLOCK_BYTES, Aio

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

SHOWN = "user.nvme.waiting_requests"


@pytest.fixture
def pair(tmp_path, way):
    """A controller's process, and the daemon that is connected to it."""
    directory = tmp_path / "mount"
    directory.mkdir()
    environment = way | {"XDG_STATE_HOME": str(tmp_path / "state"), "NVMF_DEV": str(directory)}
    with nvmfd("ramdisk:16M") as (process, port):
        arguments = [f"--connect=127.0.0.1:{port}/{SUBNQN}"]
        command = ("-m", "fusedev.main")
        with running(directory, command, environment=environment, arguments=arguments) as daemon:
            yield process, daemon
            process.send_signal(signal.SIGCONT)


def shown(daemon) -> int:
    return int(os.getxattr(daemon.path("nvmf"), SHOWN))


def start(daemon, kind, count):
    return started_waiters(daemon.path("nvme0ns1"), kind, count)


def test_whoever_is_killed_while_the_controller_is_silent_is_gone_and_others_finish(pair):
    controller, daemon = pair
    controller.send_signal(signal.SIGSTOP)
    with start(daemon, "read", 10) as killed, start(daemon, "read", 10) as stays:
        until(lambda: shown(daemon) == 20)
        assert os.stat(daemon.path("nvme0ns1")).st_size == 16 << 20
        killed.kill()
        killed.wait(3)
        until(lambda: shown(daemon) == 10)
        controller.send_signal(signal.SIGCONT)
        assert stays.communicate(timeout=20)[0] == "10 []\n"
    until(lambda: shown(daemon) == 0)
    assert daemon.end() == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_the_end_while_the_controller_is_silent(pair):
    controller, daemon = pair
    controller.send_signal(signal.SIGSTOP)
    with start(daemon, "read", 50) as readers, start(daemon, "write", 3) as writers:
        until(lambda: shown(daemon) == 51)
        before = time.monotonic()
        # What has become of the write is not known.
        assert daemon.end() in {0, 74}
        assert time.monotonic() - before < 12
        for process in (readers, writers):
            assert process.communicate(timeout=10)[0].startswith("0 [")
    assert "Traceback" not in daemon.errors.read_text()


def test_many_asynchronous_requests_survive_the_end_of_the_controller(tmp_path, way):
    directory, disk = tmp_path / "mount", tmp_path / "disk"
    directory.mkdir()
    disk.write_bytes(bytes(16 << 20))
    environment = way | {"XDG_STATE_HOME": str(tmp_path / "state"), "NVMF_DEV": str(directory)}
    with nvmfd(disk) as (first, port):
        arguments = [f"--connect=127.0.0.1:{port}/{SUBNQN}"]
        command = ("-m", "fusedev.main")
        with running(directory, command, environment=environment, arguments=arguments) as daemon:
            aio = Aio(Path(daemon.path("nvme0ns1")))
            # They are with the controller when it dies.
            first.send_signal(signal.SIGSTOP)
            aio.submit(200)
            aio.submit(200, write=True, first=1000)
            until(lambda: shown(daemon) >= 400)
            first.kill()
            first.wait()
            with nvmfd(disk, port=port):
                assert aio.wait() == [BLOCK_BYTES] * 400
                aio.close()
                assert shown(daemon) == 0
                assert daemon.end() == 0


def test_every_byte_of_many_sizes_side_by_side_is_where_it_belongs(pair):
    """Writes share buffers with nobody: short ones are copied, long ones keep theirs."""
    _, daemon = pair
    path = daemon.path("nvme0ns1")
    sizes = [512, 4096, 32256, 32768, 33280, 65536, 131072, 262144, 1 << 20, 777, 40000]
    failures: list[str] = []

    def work(number: int) -> None:
        source = random.Random(number)
        first = number << 20
        fd = os.open(path, os.O_RDWR)
        for _ in range(30):
            size = source.choice(sizes)
            offset = first + source.randrange((1 << 20) - size + 1) // 512 * 512
            data = source.randbytes(size)
            if os.pwrite(fd, data, offset) != size or os.pread(fd, size, offset) != data:
                failures.append(f"{size} bytes at {offset}")
        os.close(fd)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert daemon.end() == 0
