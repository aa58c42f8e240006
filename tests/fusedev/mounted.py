"""A daemon in a process of its own, seen as everybody sees it: through its mount."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from fusedev import mountinfo

ROOT = Path(__file__).parent.parent.parent
START_S = 15.0


@attrs.define(eq=False)
class Daemon:
    """A process that has said `ready`."""

    process: subprocess.Popen[str]
    directory: Path
    errors: Path

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def do(self, command: str, **arguments: Any) -> Any:
        """Asks the fake host for something, through the control node."""
        with control(self.path("nvmf")) as ask:
            return ask({"do": command, **arguments})

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def connection(self) -> Path:
        """The mount's folder in sysfs."""
        [mount] = mountinfo.mounts_at(str(self.directory))
        return Path(f"/sys/fs/fuse/connections/{mount.minor}")


@contextlib.contextmanager
def control(path: str) -> Iterator[Callable[[Any], Any]]:
    """A session of the control node: gives a function that asks and returns the answer."""
    fd = os.open(path, os.O_RDWR)
    pending = bytearray()

    def ask(request: Any) -> Any:
        os.write(fd, json.dumps(request).encode() + b"\n")
        until = time.monotonic() + 10
        while b"\n" not in pending:
            assert time.monotonic() < until
            pending.extend(os.read(fd, 65536))
        line, _, rest = bytes(pending).partition(b"\n")
        pending[:] = rest
        return json.loads(line)

    try:
        yield ask
    finally:
        os.close(fd)


@contextlib.contextmanager
def running(
    directory: Path,
    command: Sequence[str] = ("-m", "tests.fusedev.daemon_process"),
    *,
    environment: dict[str, str] | None = None,
    arguments: Sequence[str] | None = None,
) -> Iterator[Daemon]:
    """Starts a daemon on a directory, and sees to it that process and mount are gone afterwards."""
    errors = directory.parent / f"{directory.name}.stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command, *([str(directory)] if arguments is None else arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line == f"ready {directory}\n", errors.read_text()
        yield Daemon(process, directory, errors)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        while mountinfo.mounts_at(str(directory)):
            subprocess.run(["fusermount3", "-uz", str(directory)], check=True)


def waiters(path: str, kind: str, count: int) -> "subprocess.Popen[str]":
    """A process that makes so many requests of a node; it says `started` when they are made."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fusedev.waiters", path, kind, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def started_waiters(path: str, kind: str, count: int) -> "subprocess.Popen[str]":
    """The same, once it has said so."""
    process = waiters(path, kind, count)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def known_size(fd: int) -> int:
    """The size that the kernel believes in, without asking: statx(AT_STATX_DONT_SYNC).

    By descriptor: a walk along the path is a lookup, and that brings attributes with it.
    """
    path = f"/proc/{os.getpid()}/fd/{fd}"
    command = ["stat", "-L", "--cached=always", "-c", "%s", path]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)
