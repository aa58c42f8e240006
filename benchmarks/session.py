"""Starts the contenders, checks them, and visits them round by round."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import attrs

from . import checking, loads
from .contenders import Contender, Starter
from .kernel import Limits, unmount
from .loads import Memory
from .processes import BenchmarkError
from .processors import round_trip_ns
from .results import Check, Failure, Results, Sample
from .rows import Row, Tool

Say = Callable[[str], None]


class Named(Protocol):
    """Whoever is visited."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


@attrs.define(eq=False)
class Session(Generic[NamedT]):
    """Contenders that run, and are all alike as far as it is up to us."""

    contenders: list[NamedT]
    results: Results
    #: One visit: row, contender, seconds, number of the round.  Raises `BenchmarkError`.
    measure: Callable[[Row, NamedT, float, int], Sample]
    _unable: set[tuple[str, str]] = attrs.field(factory=set)

    def round(
        self,
        rows: Sequence[Row],
        *,
        number: int,
        seconds: float,
        say: Say,
        save: Callable[[], None],
    ) -> None:
        """Visits everybody with the first row, then with the next; who comes first takes turns."""
        for row in rows:
            turn = number % len(self.contenders)
            for contender in self.contenders[turn:] + self.contenders[:turn]:
                if (row.name, contender.name) not in self._unable:
                    said = self._visit(row, contender, seconds, number)
                    say(f"{row.label}, {contender.name}: {said}")
            save()

    def _visit(self, row: Row, contender: NamedT, seconds: float, number: int) -> str:
        apart_ns = round_trip_ns()
        try:
            sample = self.measure(row, contender, seconds, number)
        except BenchmarkError as error:
            # Whoever does not bear a load is not asked again.
            self._unable.add((row.name, contender.name))
            self.results.failures.append(
                Failure(row=row.name, contender=contender.name, round=number, text=str(error))
            )
            return str(error)
        self.results.samples.append(attrs.evolve(sample, processors_apart_ns=apart_ns))
        mib_per_s = sample.bytes_per_s / 2**20
        return f"{sample.operations_per_s:,.0f}/s, {mib_per_s:,.0f} MiB/s"


@contextlib.contextmanager
def open_session(
    starters: dict[str, Starter],
    results: Results,
    limits: Limits,
    *,
    say: Say,
    look: Callable[[Contender, Memory, str], Check] = checking.check,
) -> Iterator[Session[Contender]]:
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
                say(f"checking {results.conditions.contenders[name]}")
                results.checks.append(look(contender, memory, checksum))
                contenders.append(contender)
            try:
                yield Session(contenders, results, partial(_measure, results, memory))
            finally:
                # Whoever is impatient must not keep us from unmounting.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(
    results: Results,
    memory: Memory,
    row: Row,
    contender: Contender,
    seconds: float,
    number: int,
) -> Sample:
    direct = any(c.direct for c in results.checks if c.contender == contender.name)
    if row.tool is Tool.FIO and not direct:
        raise BenchmarkError("the file does not open with O_DIRECT")
    return loads.measure(row, contender, memory, seconds=seconds, number=number)


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
