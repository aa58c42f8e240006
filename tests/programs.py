"""Starts this project's programs the way a user does, and ends them by their process id."""

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs

#: Where the commands were installed: beside the interpreter that runs the tests.
BIN = Path(sys.executable).parent


class ProgramError(Exception):
    """A program ended, or stayed silent, where it should have said that it is ready."""


def free_port() -> int:
    """Returns a TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.define(eq=False)
class Program:
    """A program that runs in the background, after its `ready` line."""

    process: subprocess.Popen[str]
    ready: str
    log: Path

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self, *, within_s: float = 20) -> int:
        """Ends it in order and returns its exit code; it must not take longer than this."""
        self.process.terminate()
        return self.process.wait(within_s)


def _ready_line(output: IO[str], *, within_s: float) -> str:
    deadline = time.monotonic() + within_s
    if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
        return ""
    return output.readline().rstrip("\n")


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path], log: Path, *, ready_within_s: float = 20, ready: str = "ready "
) -> Iterator[Program]:
    """Runs a program for as long as the block lasts; its standard error goes to `log`.

    The program must say `ready` first.  At the end it gets SIGTERM, and SIGKILL if it does not end.
    """
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = _ready_line(process.stdout, within_s=ready_within_s)
            if not line.startswith(ready):
                raise ProgramError(f"{argv[0]} said {line!r}; its log: {log.read_text()}")
            yield Program(process, line, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@attrs.define(eq=False)
class Nvmfd(Program):
    """A running `nvmfd`, on ports that it chose."""

    @property
    def _words(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.ready.split()[1:])

    @property
    def address(self) -> str:
        """Where it serves the subsystem, as ADDRESS:PORT."""
        return self._words["io"]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def discovery_address(self) -> str:
        return self._words["discovery"]

    @property
    def discovery_port(self) -> int:
        return int(self.discovery_address.rpartition(":")[2])

    @property
    def subnqn(self) -> str:
        return self._words["subnqn"]


@contextlib.contextmanager
def nvmfd(*arguments: str | Path, log: Path, port: int = 0) -> Iterator[Nvmfd]:
    """Runs `nvmfd` with these arguments (devices, options) on free ports of the loopback."""
    argv = [BIN / "nvmfd", "-p", str(port), "-P", "0", *arguments]
    with running(argv, log) as program:
        yield Nvmfd(program.process, program.ready, program.log)


@attrs.define(eq=False)
class Mount(Program):
    """A running `fusedev`, and `nvmecontrol` for it."""

    path: Path

    def nvmecontrol(
        self, *arguments: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs `nvmecontrol` on this mount."""
        return nvmecontrol("--dev", self.path, *arguments, check=check)

    def connect(self, address: str, subnqn: str, *options: str) -> str:
        """Connects and returns the controller's name (`nvme0`)."""
        return self.nvmecontrol("connect", *options, address, subnqn).stdout.strip()


@contextlib.contextmanager
def fusedev(path: Path, *options: str, log: Path) -> Iterator[Mount]:
    """Runs `fusedev` on this directory, which is made if it is not there."""
    path.mkdir(exist_ok=True)
    with running([BIN / "fusedev", *options, path], log) as program:
        yield Mount(program.process, program.ready, program.log, path)


def nvmecontrol(
    *arguments: str | Path, check: bool = True, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs `nvmecontrol`; with `check`, an exit code other than 0 is an error that shows stderr."""
    return run(BIN / "nvmecontrol", *arguments, check=check, timeout_s=timeout_s)


def run(
    *argv: str | Path, check: bool = True, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with its output kept; a failure shows it."""
    done = subprocess.run(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise ProgramError(f"{' '.join(map(str, argv))}: exit code {done.returncode}: {said}")
    return done
