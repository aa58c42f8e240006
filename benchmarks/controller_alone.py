"""The controller without FUSE: generators of load in processes of their own, on its queues."""

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import cattrs

from .contenders import DIGESTS, ROOT, TREE, Target, nvmfd
from .generator import Done, Job
from .processes import BenchmarkError, run
from .results import Check, Latency, Results, Sample
from .rows import Row
from .session import Say, Session
from .usage import Meter

_PYTHON: Final = (sys.executable, "-m", "benchmarks.generator")
#: More than this many would take the controller's processor.
_GENERATORS: Final = 2


@attrs.frozen
class Loaded:
    """A controller, and how it is connected to."""

    name: str
    target: Target

    def job(self, size_bytes: int) -> Job:
        return Job(
            address=self.target.address,
            subnqn=self.target.subnqn,
            size_bytes=size_bytes,
            digests=self.name == DIGESTS,
        )


@contextlib.contextmanager
def open_session(
    names: Sequence[str], results: Results, tree: Path | None, *, say: Say
) -> Iterator[Session[Loaded]]:
    """Starts a controller for each name, and checks it."""
    size_bytes = results.conditions.size_bytes
    folder = Path(tempfile.mkdtemp(prefix="nvmf-benchmark-"))
    try:
        with ExitStack() as stack:
            contenders = []
            for name in names:
                own = folder / name
                own.mkdir()
                source = tree if name == TREE and tree is not None else ROOT
                target = stack.enter_context(nvmfd(own, size_bytes, source))
                contender = Loaded(name, target)
                say(f"checking {results.conditions.contenders[name]}")
                results.checks.append(_check(contender, size_bytes))
                contenders.append(contender)
            yield Session(contenders, results, partial(_measure, size_bytes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _argument(job: Job) -> str:
    return json.dumps(cattrs.unstructure(job))


def _check(contender: Loaded, size_bytes: int) -> Check:
    job = attrs.evolve(contender.job(size_bytes), check=True)
    verified: str = json.loads(run(*_PYTHON, _argument(job), folder=ROOT))
    return Check(
        contender=contender.name,
        size_bytes=size_bytes,
        direct=None,
        page_cache=None,
        verified=verified,
    )


def _measure(size_bytes: int, row: Row, contender: Loaded, seconds: float, number: int) -> Sample:
    count = min(_GENERATORS, row.jobs)
    job = attrs.evolve(
        contender.job(size_bytes),
        queues=row.jobs // count,
        depth=row.depth,
        write=row.writes,
        sequential=not row.pattern.startswith("rand"),
        block_bytes=row.block_bytes,
        seconds=seconds,
    )
    with ExitStack() as stack:
        generators = [
            stack.enter_context(_generator(attrs.evolve(job, seed=1000 * number + index)))
            for index in range(count)
        ]
        for generator in generators:
            assert generator.stdout is not None
            if generator.stdout.readline() != "ready\n":
                raise _error(generator)
        meter = Meter(contender.target.pids)
        meter.start()
        for generator in generators:
            assert generator.stdin is not None
            generator.stdin.write("\n")
            generator.stdin.flush()
        done = [_result(generator) for generator in generators]
        used = meter.stop()
    operations = sum(each.operations for each in done)
    assert used.cpu_s is not None
    per_s = sum(each.operations / each.seconds for each in done)
    return Sample(
        row=row.name,
        contender=contender.name,
        round=number,
        operations_per_s=per_s,
        bytes_per_s=per_s * row.block_bytes,
        latency=_latency([us for each in done for us in each.latencies_us]),
        host_cpu_us=sum(each.cpu_s for each in done) * 1e6 / operations,
        target_cpu_us=used.cpu_s * 1e6 / operations,
        host_peak_bytes=None,
        target_peak_bytes=used.peak_bytes,
    )


@contextlib.contextmanager
def _generator(job: Job) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *_PYTHON, _argument(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            yield process
        finally:
            # One that has ended is not there to be killed.
            process.kill()


def _result(generator: subprocess.Popen[str]) -> Done:
    assert generator.stdout is not None
    line = generator.stdout.readline()
    if not line:
        raise _error(generator)
    return cattrs.structure(json.loads(line), Done)


def _error(generator: subprocess.Popen[str]) -> BenchmarkError:
    generator.kill()
    lines = generator.communicate()[1].splitlines()
    # Groups of exceptions are drawn with frames.
    said = [line.strip(" |+-") for line in lines if "Error: " in line or "unanswered" in line]
    return BenchmarkError(f"the generator of load ended: {said[-1] if said else 'it said nothing'}")


def _latency(values_us: list[float]) -> Latency:
    values_us.sort()
    if len(values_us) < 2:
        return Latency(*(values_us[0],) * 3)
    cuts = statistics.quantiles(values_us, n=1000, method="inclusive")
    return Latency(cuts[499], cuts[989], cuts[998])
