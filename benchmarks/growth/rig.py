"""The programs that the measurements need: a daemon, and targets that can be killed."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from tests import programs
from tests.programs import Mount, Program

#: A thousand devices take a while to be opened.
_READY_S: Final = 60.0


@attrs.frozen
class Setting:
    """Where to work, and how much of it: `quick` is for a look, not for a result."""

    folder: Path
    quick: bool

    def some(self, numbers: Sequence[int]) -> list[int]:
        """These, or of a quick run every other one, the last included."""
        return list(numbers[::-2][::-1]) if self.quick else list(numbers)

    @property
    def idle_s(self) -> float:
        """How long to look at a process that has nothing to do: more than a Keep Alive."""
        return 3.0 if self.quick else 16.0

    @contextmanager
    def daemon(self) -> Iterator[Mount]:
        """A `fusedev` on an empty directory."""
        with programs.fusedev(self.folder / "dev", log=self.folder / "fusedev.log") as mount:
            yield mount

    @contextmanager
    def nvmfd(self, *devices: str) -> Iterator[programs.Nvmfd]:
        """An `nvmfd` with these devices."""
        with programs.nvmfd(*devices, log=self.folder / "nvmfd.log") as program:
            yield program

    @contextmanager
    def target(
        self, subsystems: int, *, ports: Sequence[int] = (), records: int = 0
    ) -> Iterator["Target"]:
        """Many subsystems in one process."""
        plan = json.dumps({"subsystems": subsystems, "ports": list(ports), "records": records})
        argv = [sys.executable, "-m", "benchmarks.growth.target", plan]
        with programs.running(argv, self.folder / "target.log", ready_within_s=_READY_S) as program:
            yield Target(program, tuple(json.loads(program.ready.removeprefix("ready "))))


@attrs.frozen
class Target:
    """A process with subsystems, by their numbers."""

    program: Program
    ports: tuple[int, ...]

    def address(self, number: int) -> str:
        """Where a subsystem is reached."""
        return f"127.0.0.1:{self.ports[number]}"
