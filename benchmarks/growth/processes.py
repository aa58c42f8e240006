"""What a process costs, whatever else runs on the machine; and a session of the control node."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used so far, of all its threads."""
    # clock_getcpuclockid(3): the complement of the process id, and CPUCLOCK_SCHED.
    return time.clock_gettime(~pid << 3 | 2)


def memory_bytes(pid: int) -> int:
    """What of the process's memory is its own or its share (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no Pss")


def idle_share(pid: int, seconds: float) -> float:
    """Of one processor, what a process takes while nobody asks for anything."""
    begin, cpu = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - cpu) / (time.monotonic() - begin)


@attrs.define
class Stopwatch:
    """Wall time, and CPU time of one process, of a `with` block."""

    pid: int
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures the block."""
        begin, cpu = time.monotonic(), cpu_s(self.pid)
        yield
        self.wall_s, self.cpu_s = time.monotonic() - begin, cpu_s(self.pid) - cpu


class RequestError(Exception):
    """The daemon answered with an error."""


@attrs.define(eq=False)
class Session:
    """One open of the control node; any number of requests may be under way."""

    _descriptor: int
    _received: bytearray = attrs.field(init=False, factory=bytearray)
    _submitted: int = attrs.field(init=False, default=0)

    def submit(self, command: str, **fields: object) -> int:
        """Makes a request; returns the number that its answer will have."""
        self._submitted += 1
        line = json.dumps({"id": self._submitted, "command": command, **fields})
        os.write(self._descriptor, line.encode() + b"\n")
        return self._submitted

    def answer(self) -> tuple[int, Any]:
        """The next answer to come; raises `RequestError`."""
        while (end := self._received.find(b"\n")) < 0:
            self._received += os.read(self._descriptor, 1 << 20)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        fields = json.loads(line)
        if "error" in fields:
            raise RequestError(fields["error"]["message"])
        return fields["id"], fields["result"]

    def ask(self, command: str, **fields: object) -> Any:
        """Makes a request and waits for its answer, which must be the next."""
        number = self.submit(command, **fields)
        answered, result = self.answer()
        assert answered == number
        return result


@contextmanager
def session(directory: Path) -> Iterator[Session]:
    """A session with the daemon that serves this directory."""
    descriptor = os.open(directory / "nvmf", os.O_RDWR)
    try:
        yield Session(descriptor)
    finally:
        os.close(descriptor)
