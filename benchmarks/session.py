"""Starts the contenders, checks them, and visits them round by round."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import attrs

from . import checking, loads
from .contenders import TITLES, Contender
from .kernel import Limits, unmount
from .loads import Memory
from .processes import BenchmarkError
from .results import Check, Failure, Results
from .rows import Row, Tool

Starter = Callable[[Path, int], AbstractContextManager[Contender]]
Say = Callable[[str], None]


@attrs.define(eq=False)
class Session:
    """Contenders that run, and are all alike as far as it is up to us."""

    contenders: list[Contender]
    memory: Memory
    results: Results
    say: Say
    _unable: set[tuple[str, str]] = attrs.field(factory=set)

    def round(
        self, rows: Sequence[Row], *, number: int, seconds: float, save: Callable[[], None]
    ) -> None:
        """Visits everybody with the first row, then with the next; who comes first takes turns."""
        for row in rows:
            turn = number % len(self.contenders)
            for contender in self.contenders[turn:] + self.contenders[:turn]:
                self._visit(row, contender, seconds=seconds, number=number)
            save()

    def _visit(self, row: Row, contender: Contender, *, seconds: float, number: int) -> None:
        if (row.name, contender.name) in self._unable:
            return
        try:
            if row.tool is Tool.FIO and not self._direct(contender):
                raise BenchmarkError("does not open with O_DIRECT")  # noqa: TRY301
            sample = loads.measure(row, contender, self.memory, seconds=seconds, number=number)
        except BenchmarkError as error:
            failure = Failure(row=row.name, contender=contender.name, round=number, text=str(error))
            self.results.failures.append(failure)
            self._unable.add((row.name, contender.name))
            self.say(f"{contender.name}, {row.label}: {error}")
            return
        if number:
            self.results.samples.append(sample)
            self.say(
                f"{row.label}, {contender.name}: {sample.operations_per_s:,.0f}/s, "
                f"{sample.bytes_per_s / 2**20:,.0f} MiB/s"
            )

    def _direct(self, contender: Contender) -> bool:
        return any(c.direct for c in self.results.checks if c.contender == contender.name)


@contextlib.contextmanager
def open_session(
    starters: dict[str, Starter],
    results: Results,
    limits: Limits,
    *,
    say: Say,
    look: Callable[[Contender, Memory, str], Check] = checking.check,
) -> Iterator[Session]:
    """Starts everybody and checks them; at the end nothing is left of it, come what may."""
    size_bytes = results.conditions.size_bytes
    folder = Path(tempfile.mkdtemp(prefix="nvmf-benchmark-"))
    try:
        with ExitStack() as stack:
            memory = stack.enter_context(_memory(folder / "memory", size_bytes))
            checksum = checking.fill_source(memory)
            contenders = []
            for name, start in starters.items():
                own = folder / name
                own.mkdir()
                contender = stack.enter_context(start(own, size_bytes))
                limits.impose(contender.file)
                say(f"checking {TITLES.get(name, name)}")
                results.checks.append(look(contender, memory, checksum))
                contenders.append(contender)
            try:
                yield Session(contenders, memory, results, say)
            finally:
                # Whoever is impatient must not keep us from unmounting.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _memory(folder: Path, size_bytes: int) -> Iterator[Memory]:
    """A file system in memory for the other end of copies: /dev/shm may be too small."""
    folder.mkdir()
    size = f"size={2 * size_bytes + (64 << 20)}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder], check=True)
    try:
        yield Memory(folder / "source", folder / "sink", size_bytes)
    finally:
        unmount(folder)
