"""Starts programs that run beside the measurements, and ends those and no others."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

_READY_WITHIN_S: Final = 20.0
_END_WITHIN_S: Final = 20.0


class BenchmarkError(Exception):
    """Something cannot be measured; the text says what and why."""


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path], log: Path, *, folder: Path | None = None, ready: str | None = None
) -> Iterator["Started"]:
    """Runs a program for as long as the block lasts, in `folder`; its log goes to `log`.

    With `ready`, the program must first write a line to standard output that begins with it.

    Ctrl-C is for us alone: programs are ended one after the other, in order.  Should we be killed,
    the kernel ends them.
    """
    environment = os.environ | {"XDG_STATE_HOME": str(log.parent / "state")}
    environment.pop("PYTHONPATH", None)
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=stderr if ready is None else subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        started = Started(log.stem, process, log)
        try:
            if ready is not None:
                started.ready_line = _line(process)
                if not started.ready_line.startswith(ready):
                    raise started.error(f"said {started.ready_line!r} at its start")
            yield started
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _READY_WITHIN_S)[0]:
        return ""
    return process.stdout.readline().rstrip("\n")


class Started:
    """A program that runs."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.name = name
        self.log = log
        self.ready_line = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def words(self) -> dict[str, str]:
        """The NAME=VALUE words of the line that it said when it was ready."""
        return dict(word.split("=", 1) for word in self.ready_line.split() if "=" in word)

    def error(self, what: str) -> BenchmarkError:
        """An error with what the program said last."""
        said = self.log.read_text().strip()[-2000:]
        return BenchmarkError(f"{self.name}: {what}; {said or 'it said nothing'}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for the program to get somewhere."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while not condition():
            if self.process.poll() is not None:
                raise self.error(f"ended with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.error(f"not within {_READY_WITHIN_S:g} s: {what}")
            time.sleep(0.02)


def run(*argv: str | Path, folder: Path | None = None) -> str:
    """Runs a command to its end and returns what it said; a failure is a `BenchmarkError`."""
    done = subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise BenchmarkError(f"{Path(argv[0]).name}: exit code {done.returncode}: {said}")
    return done.stdout


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
