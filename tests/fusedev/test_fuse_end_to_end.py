"""`fusedev` against `nvmfd`, over TCP: the programs themselves."""

# ruff: noqa: PTH123
import concurrent.futures
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys

import pytest

from fusedev import mountinfo
from tests.fusedev.mounted import ROOT, running, until

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

SUBNQN = "nqn.2024-01.org.example:disks"
MIB = 1 << 20


@contextlib.contextmanager
def nvmfd(*devices, port=0):
    """Runs a controller; gives its process and port."""
    options = f"-p {port} -P 0 -n {SUBNQN}".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "nvmf_controller.main", *options, *map(str, devices)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        found = re.match(r"ready io=127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def environment(tmp_path, way):
    return way | {"XDG_STATE_HOME": str(tmp_path / "state"), "NVMF_DEV": str(tmp_path / "mount")}


@pytest.fixture
def fusedev(tmp_path, environment):
    """Gives a function that runs the daemon, connected to ports of this machine."""
    directory = tmp_path / "mount"
    directory.mkdir()

    def run(*ports):
        targets = [f"--connect=127.0.0.1:{port}/{SUBNQN}" for port in ports]
        return running(
            directory, ("-m", "fusedev.main"), environment=environment, arguments=targets
        )

    return run


def test_data_comes_back_through_a_second_mount(fusedev):
    data = random.Random(1).randbytes(3 * MIB + 12345)
    with nvmfd("ramdisk:8M", "ramdisk:8M:4096") as (_, port):
        with fusedev(port) as daemon:
            for name, bs in (("nvme0ns1", "12345"), ("nvme0ns2", "1M")):
                subprocess.run(
                    ["dd", f"of={daemon.path(name)}", f"bs={bs}", "status=none"],
                    input=data,
                    check=True,
                )
            with open(daemon.path("nvme0"), encoding="utf-8") as file:
                state = json.load(file)
            assert (state["name"], state["state"]) == ("nvme0", "live")
            assert os.getxattr(daemon.path("nvme0ns2"), "user.nvme.lba_bytes") == b"4096"
            assert daemon.end() == 0
        with fusedev(port) as daemon:
            for name in ("nvme0ns1", "nvme0ns2"):
                with open(daemon.path(name), "rb") as file:
                    assert file.read(len(data)) == data
            assert daemon.end() == 0


def test_random_writes_verify(fusedev):
    with nvmfd("ramdisk:4M") as (_, port), fusedev(port) as daemon:
        for direct in ("0", "1"):
            options = f"""
                --name=verify --rw=randrw --verify=crc32c --bs=4k --size=4M --iodepth=16 --thread
                --ioengine=libaio --direct={direct} --allow_file_create=0
                --verify_state_save=0
            """.split()
            node = daemon.path("nvme0ns1")
            subprocess.run(["fio", f"--filename={node}", *options], check=True, stdout=-3)
        assert daemon.end() == 0


def test_a_first_attempt_that_fails_is_named_and_goes_on(fusedev):
    with nvmfd("ramdisk:1M") as (process, port):
        process.kill()
        process.wait()
        with fusedev(port) as daemon:
            said = daemon.errors.read_text()
            assert f"fusedev: --connect 127.0.0.1:{port}/{SUBNQN}: " in said
            assert "nvme0 goes on trying" in said
            with nvmfd("ramdisk:1M", port=port):
                until(lambda: os.path.exists(daemon.path("nvme0ns1")), 20)  # noqa: PTH110
                assert daemon.end() == 0


def test_io_waits_while_the_controller_is_away(fusedev, tmp_path):
    disk = tmp_path / "disk"
    data = random.Random(2).randbytes(MIB)
    disk.write_bytes(data)
    with (
        concurrent.futures.ThreadPoolExecutor() as threads,
        nvmfd(disk) as (first, port),
        fusedev(port) as daemon,
    ):
        fd = os.open(daemon.path("nvme0ns1"), os.O_RDWR)
        first.send_signal(signal.SIGKILL)
        first.wait()
        read = threads.submit(os.pread, fd, 4096, 8192)
        written = threads.submit(os.pwrite, fd, b"while away", 100)
        shown = "user.nvme.waiting_requests"
        until(lambda: os.getxattr(daemon.path("nvmf"), shown) == b"2")
        assert os.stat(daemon.path("nvme0ns1")).st_size == MIB  # noqa: PTH116
        assert not read.done()
        assert not written.done()
        with nvmfd(disk, port=port):
            assert read.result(20) == data[8192:12288]
            assert written.result(20) == 10
            os.fsync(fd)
            assert os.pread(fd, 12, 99) == data[99:100] + b"while away" + data[110:111]
            os.close(fd)
            assert daemon.end() == 0


def test_a_signal_ends_it_while_a_first_attempt_hangs(tmp_path, environment):
    directory = tmp_path / "mount"
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}/{SUBNQN}"
        with subprocess.Popen(
            [sys.executable, "-m", "fusedev.main", "--connect", target],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        ) as process:
            until(lambda: (directory / "nvme0").exists())
            process.terminate()
            out, err = process.communicate(timeout=8)
        assert (process.returncode, out) == (0, ""), err
    assert not mountinfo.mounts_at(str(directory))
