"""Puts the load of a row on a file, and measures it: fio, dd and cp."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from .contenders import Contender
from .kernel import drop_caches
from .processes import BenchmarkError
from .results import Latency, Sample
from .rows import MIB, Row, Tool
from .usage import Meter, Usage

_PERCENTILES: Final = "50:99:99.9"


@attrs.frozen
class Memory:
    """Files in memory that dd and cp read from and write to, as large as the contenders'."""

    #: Random data: zeros would be a special case for some.
    source: Path
    sink: Path
    size_bytes: int


@attrs.frozen
class _Done:
    operations: float
    seconds: float
    latency: Latency | None
    host: Usage
    target: Usage


def measure(
    row: Row, contender: Contender, memory: Memory, *, seconds: float, number: int
) -> Sample:
    """One visit.  Raises `BenchmarkError`."""
    if row.tool is Tool.FIO:
        done = _fio(row, contender, memory.size_bytes, seconds, number)
    else:
        done = _copies(row, contender, memory, seconds)
    return Sample(
        row=row.name,
        contender=contender.name,
        round=number,
        operations_per_s=done.operations / done.seconds,
        bytes_per_s=done.operations * row.block_bytes / done.seconds,
        latency=done.latency,
        host_cpu_us=_each_us(done.host, done.operations),
        target_cpu_us=_each_us(done.target, done.operations),
        host_peak_bytes=done.host.peak_bytes,
        target_peak_bytes=done.target.peak_bytes,
    )


def _each_us(usage: Usage, operations: float) -> float | None:
    return None if usage.cpu_s is None else usage.cpu_s * 1e6 / operations


def fio_arguments(row: Row, file: Path, *, size_bytes: int, seconds: float, seed: int) -> list[str]:
    """fio's command line; the seed decides which blocks, so that all are asked the same."""
    return [
        *("fio", "--name=load", f"--filename={file}", f"--size={size_bytes}"),
        *(f"--rw={row.pattern}", f"--bs={row.block_bytes}", "--rwmixread=70"),
        f"--ioengine={'psync' if row.depth == 1 else 'libaio'}",
        *(f"--iodepth={row.depth}", f"--numjobs={row.jobs}", "--thread=1", "--direct=1"),
        *("--time_based=1", f"--runtime={seconds * 1000:.0f}ms", f"--randseed={seed}"),
        *(
            "--group_reporting=1",
            "--unified_rw_reporting=mixed",
            f"--percentile_list={_PERCENTILES}",
        ),
        *("--allow_file_create=0", "--fallocate=none", "--output-format=json"),
    ]


def _fio(row: Row, contender: Contender, size_bytes: int, seconds: float, number: int) -> _Done:
    argv = fio_arguments(
        row, contender.file, size_bytes=size_bytes, seconds=seconds, seed=1000 + number
    )
    host, target = Meter(contender.host_pids), Meter(contender.target_pids)
    host.start()
    target.start()
    text = _run(argv)
    usages = host.stop(), target.stop()
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    mixed: dict[str, Any] = job["mixed"]
    if job["error"] or not mixed["total_ios"]:
        raise BenchmarkError(f"fio: error {job['error']}, {mixed['total_ios']} requests")
    found = {name: us / 1000 for name, us in mixed["clat_ns"]["percentile"].items()}
    latency = Latency(found["50.000000"], found["99.000000"], found["99.900000"])
    return _Done(mixed["total_ios"], mixed["total_ios"] / mixed["iops"], latency, *usages)


def _copies(row: Row, contender: Contender, memory: Memory, seconds: float) -> _Done:
    """Whole copies until the time is over, at least one; the caches are dropped before each."""
    host, target = Meter(contender.host_pids), Meter(contender.target_pids)
    usages: list[tuple[Usage, Usage]] = []
    taken_s = 0.0
    while taken_s < seconds:
        memory.sink.unlink(missing_ok=True)
        drop_caches(contender.file)
        host.start()
        target.start()
        begin = time.perf_counter()
        _run(copy_arguments(row.tool, contender.file, memory))
        taken_s += time.perf_counter() - begin
        usages.append((host.stop(), target.stop()))
    operations = len(usages) * memory.size_bytes / MIB
    hosts, targets = zip(*usages, strict=True)
    return _Done(operations, taken_s, None, _sum(hosts), _sum(targets))


def copy_arguments(tool: Tool, file: Path, memory: Memory) -> list[str]:
    """The command of one copy."""
    commands: dict[Tool, Callable[[], list[str]]] = {
        Tool.DD_READ: lambda: ["dd", f"if={file}", "of=/dev/null", "bs=1M"],
        # Without notrunc it would ask for another size, which not everybody grants.
        Tool.DD_WRITE: lambda: [
            *("dd", f"if={memory.source}", f"of={file}", "bs=1M", "conv=fsync,notrunc")
        ],
        Tool.CP_FROM: lambda: ["cp", str(file), str(memory.sink)],
        Tool.CP_TO: lambda: ["cp", str(memory.source), str(file)],
    }
    return commands[tool]()


def _sum(usages: tuple[Usage, ...]) -> Usage:
    cpu_s = [each.cpu_s for each in usages if each.cpu_s is not None]
    peaks = [each.peak_bytes for each in usages if each.peak_bytes is not None]
    return Usage(sum(cpu_s) if cpu_s else None, max(peaks) if peaks else None)


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split("\n")[:3])
        raise BenchmarkError(f"{argv[0]}: exit code {done.returncode}: {said}")
    return done.stdout
