"""nvmecontrol as its own process, against fusedev and nvmfd."""

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from .fakes import Outcome

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]


def _program(module):
    return [sys.executable, "-c", f"from {module}.main import main; main()"]


@contextmanager
def running(module, *arguments, log):
    """A program from its line `ready ...`, which is the value, to its orderly end."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*_program(module), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], 20)
            line = process.stdout.readline() if readable else ""
            assert line.startswith("ready "), log.read_text()
            yield process, line.strip()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A controller with two namespaces: (its I/O address, its discovery address, its SUBNQN)."""
    arguments = ["-p", "0", "-P", "0", "ramdisk:64M", "ramdisk:32M:4096"]
    log = tmp_path_factory.mktemp("target") / "log"
    with running("nvmf_controller", *arguments, log=log) as (_, line):
        found = re.fullmatch(r"ready io=(\S+) discovery=(\S+) subnqn=(\S+)", line)
        assert found
        yield found.groups()


@pytest.fixture
def mount(tmp_path):
    """A directory that fusedev serves."""
    directory = tmp_path / "dev"
    directory.mkdir()
    with running("fusedev", str(directory), log=tmp_path / "log") as (process, line):
        assert line == f"ready {directory}"
        yield directory, process


def nvmecontrol(directory, *arguments):
    environment = os.environ | {"NVMF_DEV": str(directory)}
    ended = subprocess.run(
        [*_program("nvmecontrol"), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def _nodes(directory):
    return {node.name for node in directory.iterdir()}


def test_the_life_of_a_connection(mount, target):
    directory, _ = mount
    address, discovery, subnqn = target

    assert nvmecontrol(directory, "devlist").code == 69
    assert nvmecontrol(directory, "connect", address, subnqn) == Outcome(0, "nvme0\n", "")
    assert _nodes(directory) == {"nvme0", "nvme0ns1", "nvme0ns2", "nvmf"}
    listed = nvmecontrol(directory, "devlist")
    assert listed.code == 0
    assert listed.out.splitlines()[0].endswith(f" (connected via TCP {address})")
    assert listed.out.splitlines()[1:] == ["    nvme0ns1 (64MB)", "    nvme0ns2 (32MB)"]
    again = nvmecontrol(directory, "connect", address, subnqn)
    assert (again.code, again.out) == (74, "")
    assert "already connected as nvme0" in again.err
    every = nvmecontrol(directory, "connect-all", discovery)
    assert (every.code, every.out) == (0, "")
    assert "skipped: already connected as nvme0" in every.err
    busy = nvmecontrol(directory, "reconnect", "nvme0", "--json")
    assert (busy.code, json.loads(busy.out)["error"]["kind"]) == (74, "busy")
    assert nvmecontrol(directory, "disconnect", str(directory / "nvme0ns1")).code == 0
    assert _nodes(directory) == {"nvmf"}
    assert nvmecontrol(directory, "connect-all", discovery) == Outcome(0, "nvme0\n", "")
    assert nvmecontrol(directory, "disconnect", subnqn).code == 0
    assert nvmecontrol(directory, "disconnect-all").code == 0


def test_what_a_controller_tells(mount, target):
    directory, _ = mount
    address, _, subnqn = target
    assert nvmecontrol(directory, "connect", "-i", "1", address, subnqn).code == 0

    assert (
        f"NVM Subsystem Name:          {subnqn}\n"
        in nvmecontrol(directory, "identify", "nvme0").out
    )
    assert (
        "Size:                        8192 blocks\n"
        in nvmecontrol(directory, "identify", "nvme0ns2").out
    )
    assert nvmecontrol(directory, "identify", "-n", "9", "nvme0").code == 74
    assert nvmecontrol(directory, "ns", "active", "nvme0").out.split()[2:] == ["1", "2"]
    assert nvmecontrol(directory, "nsid", "nvme0ns2").out == "nvme0\t2\n"
    for page in ("error", "health", "firmware", "changed-ns", "effects"):
        assert nvmecontrol(directory, "logpage", "-p", page, "nvme0").code == 0
    assert nvmecontrol(directory, "logpage", "-p", "0xc0", "nvme0").code == 69
    assert nvmecontrol(directory, "identify", "nvme7").code == 72


def test_zeroes_are_written(mount, target):
    directory, _ = mount
    address, _, subnqn = target
    assert nvmecontrol(directory, "connect", address, subnqn).code == 0
    node = directory / "nvme0ns1"
    with node.open("r+b", buffering=0) as file:
        file.write(b"x" * 8192)

    assert nvmecontrol(directory, "write-zeroes", "-s", "1", "-b", "2", "nvme0ns1").code == 0
    assert nvmecontrol(directory, "dsm", "-s", "8", "-b", "4", "nvme0ns1").code == 0
    assert nvmecontrol(directory, "flush", str(node)).code == 0

    with node.open("rb", buffering=0) as file:
        assert file.read(2048) == b"x" * 512 + bytes(1024) + b"x" * 512
    past = nvmecontrol(directory, "write-zeroes", "-s", "131071", "-b", "2", "nvme0ns1")
    assert (past.code, past.out) == (64, "")


def test_discover_needs_no_daemon(target, tmp_path):
    address, discovery, subnqn = target

    found = nvmecontrol(tmp_path / "none", "discover", discovery, "--json")

    assert found.code == 0
    entries = json.loads(found.out)["entries"]
    assert [f"{each['traddr']}:{each['trsvcid']}" for each in entries] == [address]
    assert entries[0]["subnqn"] == subnqn


def test_a_controller_that_refuses(mount, target):
    directory, _ = mount
    address, _, subnqn = target

    wrong = nvmecontrol(directory, "connect", address, "nqn.2014-08.org.example:none")
    queues = nvmecontrol(directory, "connect", "-i", "1000", address, subnqn)
    nobody = nvmecontrol(directory, "connect", "127.0.0.1:1", subnqn)

    assert (wrong.code, queues.code, nobody.code) == (74, 76, 68)
    for outcome in (wrong, queues, nobody):
        assert re.fullmatch(r"nvmecontrol connect: .+: .+; .+\n", outcome.err)
    assert nvmecontrol(directory, "devlist").code == 69


def test_a_dead_mount_is_told(mount):
    directory, process = mount
    process.kill()
    process.wait()

    outcome = nvmecontrol(directory, "devlist")

    assert outcome.code == 72
    assert "dead mount" in outcome.err
    subprocess.run(["fusermount3", "-u", "-z", directory], check=True)


def test_an_unmounted_directory_is_told(tmp_path):
    outcome = nvmecontrol(tmp_path, "devlist")

    assert outcome.code == 72
    assert outcome.err == (
        f"nvmecontrol devlist: DIR {tmp_path}: no fusedev serves it; "
        f"start `fusedev {tmp_path}`, or name its DIR with --dev\n"
    )


def test_control_c_ends_a_wait(mount, target, tmp_path):
    """What waits for a lost controller ends at once, and is taken back."""
    directory, _ = mount
    arguments = ["-p", "0", "-P", "0", "ramdisk:1M"]
    with running("nvmf_controller", *arguments, log=tmp_path / "lost") as (process, line):
        found = re.fullmatch(r"ready io=(\S+) \S+ subnqn=(\S+)", line)
        assert found
        address, subnqn = found.groups()
        assert nvmecontrol(directory, "connect", "-r", "0", address, subnqn).code == 0
        process.kill()
    deadline = time.monotonic() + 10
    while "disconnected for" not in nvmecontrol(directory, "devlist").out:
        assert time.monotonic() < deadline
    waiting = subprocess.Popen(
        [*_program("nvmecontrol"), "--dev", str(directory), "write-zeroes", "-s", "0", "-b", "1",
         "nvme0ns1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while "request waiting" not in nvmecontrol(directory, "devlist").out:
        assert time.monotonic() < deadline

    waiting.send_signal(signal.SIGINT)

    out, err = waiting.communicate(timeout=5)
    assert (out, err.strip()) == ("", "")
    assert waiting.returncode == 130
    while "request waiting" in nvmecontrol(directory, "devlist").out:
        assert time.monotonic() < deadline
    assert nvmecontrol(directory, "disconnect-all").code in {0, 74}


def test_devlist_starts_in_a_quarter_of_a_second(tmp_path):
    """Of CPU time, once of several times: other work on the machine must not decide.

    There is nothing for it to wait for: no daemon is there.
    """
    assert any(_cpu_s(tmp_path) < 0.25 for _ in range(10))


def _cpu_s(directory):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    nvmecontrol(directory, "devlist")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
