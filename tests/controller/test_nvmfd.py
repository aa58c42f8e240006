"""nvmfd as a process: what it says, how it ends, what it refuses."""

import json
import os
import re
import select
import signal
import socket
import subprocess

import pytest
import trio

from nvmf_transport.nvme import RW_FUA
from tests.controller.nvmfd_process import ANY_PORT, NVMFD, hosted
from tests.controller.raw_host import SUBNQN


def refuse(*arguments):
    """Runs nvmfd, which must not start; returns its exit code and the line it says."""
    done = subprocess.run(
        [*NVMFD, *arguments], capture_output=True, text=True, timeout=15, check=False
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("nvmfd: ")
    return done.returncode, done.stderr


def test_ready_line_and_orderly_end(start):
    process, io, discovery, subnqn = start(*ANY_PORT, "-n", SUBNQN, "ramdisk:1M")
    assert [re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", at) is not None for at in (*io, discovery)]
    assert len(io) == 1
    assert subnqn == SUBNQN
    for at in (*io, discovery):
        host, _, port = at.rpartition(":")
        socket.create_connection((host, int(port)), 5).close()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=15)
    assert (process.returncode, output, errors) == (0, "", "")


def test_interrupt_is_an_orderly_end_too(start):
    process, *_ = start(*ANY_PORT, "ramdisk:1M")
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0


def test_several_addresses(start):
    _, io, _, _ = start(*ANY_PORT, "-l", "127.0.0.1", "-l", "[::1]:0", "ramdisk:1M")
    assert [at.rpartition(":")[0] for at in io] == ["127.0.0.1", "[::1]"]


def test_default_nqn_is_the_same_at_every_start(start):
    first = start(*ANY_PORT, "ramdisk:1M")
    second = start(*ANY_PORT, "ramdisk:1M")
    assert first[3] == second[3]
    assert first[3].startswith("nqn.2014-08.org.nvmexpress:uuid:")


def test_service_manager_is_told(start, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        start(*ANY_PORT, "ramdisk:1M")
        assert select.select([notify], [], [], 10)[0]
        assert notify.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 64, "DEVICE"),
        (("--nonsense", "ramdisk:1M"), 64, "--nonsense"),
        (("-p", "65536", "ramdisk:1M"), 64, "65536"),
        (("-p", "-1", "ramdisk:1M"), 64, "-1"),
        (("-l", "300.1.1.1", "ramdisk:1M"), 64, "300.1.1.1"),
        (("-n", "x" * 224, "ramdisk:1M"), 64, "224 bytes, 223 are allowed"),
        (("-t", "rdma", "ramdisk:1M"), 64, "rdma.*available: tcp"),
        (("-H", "4098", "ramdisk:1M"), 64, "4098"),
        (("--in-capsule", "8", "ramdisk:1M"), 64, "in-capsule data 8: not allowed"),
        (("--in-capsule", "2097152", "ramdisk:1M"), 64, "2097152"),
        (("ramdisk:1X",), 64, "1X"),
        (("--faults", __file__, "ramdisk:1M"), 64, "faults .*test_nvmfd.py: not TOML"),
        ((*ANY_PORT, "/nonexistent"), 1, "/nonexistent: No such file"),
        ((*ANY_PORT, "-l", "192.0.2.1", "ramdisk:1M"), 1, "192.0.2.1"),
    ],
)
def test_refusals(arguments, code, words):
    status, line = refuse(*arguments)
    assert status == code
    assert re.search(words, line), line


def test_port_in_use():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        for ports in (("-p", port, "-P", "0"), ("-p", "0", "-P", port)):
            status, line = refuse(*ports, "ramdisk:1M")
            assert status == 1
            assert port in line


def test_file_size_that_does_not_fit(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(5120))
    status, line = refuse(*ANY_PORT, f"{path}:4096")
    assert status == 1
    assert "5120 bytes" in line
    assert "4096 bytes" in line


async def test_file_over_tcp(start, tmp_path):
    """Digests, in-capsule data, R2T and FUA; the data is in the file after the end."""
    path = tmp_path / "a:512:disk"
    path.write_bytes(bytes(4 << 20))
    process, (at,), _, _ = start(*ANY_PORT, "-n", SUBNQN, "-H", "4096", f"{path}:4096")
    async with hosted(at, cattr=4, header_digest=True, data_digest=True) as (admin, io):
        small, large = os.urandom(8192), os.urandom(1 << 20)
        assert (await io.write(0, small, lba_bytes=4096)).ok
        assert (await io.write(100, large, lba_bytes=4096, cdw12=RW_FUA)).ok
        assert (await io.read(100, 256, lba_bytes=4096))[1] == large
        process.send_signal(signal.SIGUSR1)
        counters = json.loads(await trio.to_thread.run_sync(process.stderr.readline))
        assert counters["fua_writes"] == 1
        assert counters["io_commands"] == {"1": 2, "2": 1}
        process.send_signal(signal.SIGTERM)
        await admin.dead.wait()
        await io.dead.wait()
    assert process.wait(15) == 0
    content = path.read_bytes()
    assert content[:8192] == small
    assert content[409600 : 409600 + (1 << 20)] == large
