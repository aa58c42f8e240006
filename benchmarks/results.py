"""What was measured, as it is kept: attrs classes, written as JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs
import cattrs

SCHEMA: Final = 1


@attrs.frozen
class Latency:
    """Percentiles of the time that requests took, in microseconds."""

    p50_us: float
    p99_us: float
    p999_us: float


@attrs.frozen(kw_only=True)
class Sample:
    """One visit to one contender with one row's load."""

    row: str
    contender: str
    round: int
    operations_per_s: float
    bytes_per_s: float
    latency: Latency | None
    #: CPU time of an operation; None where the processes are not ours to see.
    host_cpu_us: float | None
    target_cpu_us: float | None
    #: The most memory meanwhile (VmHWM, started anew for each visit).
    host_peak_bytes: int | None
    target_peak_bytes: int | None
    #: A byte's way from one processor to another and back, just before: see `processors`.
    processors_apart_ns: float | None = None


@attrs.frozen(kw_only=True)
class Failure:
    """A load that a contender did not bear."""

    row: str
    contender: str
    round: int
    text: str


@attrs.frozen(kw_only=True)
class Check:
    """What was found of a contender before anything was timed."""

    contender: str
    size_bytes: int
    #: Opens with O_DIRECT; None where there is no file.
    direct: bool | None
    #: Whether the kernel caches what others read and write without O_DIRECT.
    page_cache: bool | None
    #: What was verified, in words.
    verified: str


@attrs.frozen(kw_only=True)
class Machine:
    """Where and with what it was measured."""

    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    load_before: float
    #: The system's congestion control of TCP.
    congestion_control: str = ""
    versions: dict[str, str]


@attrs.frozen(kw_only=True)
class Conditions:
    """What was asked for."""

    kind: str
    begun: str
    rounds: int
    seconds: float
    size_bytes: int
    max_background: int
    congestion_threshold: int
    read_ahead_kib: int
    #: Row names to what the tables call them, in their order.
    rows: dict[str, str]
    #: Rows of which operations a second are told, not bytes.
    in_operations: list[str]
    contenders: dict[str, str]


@attrs.define
class Results:
    """One run."""

    machine: Machine
    conditions: Conditions
    checks: list[Check] = attrs.field(factory=list)
    samples: list[Sample] = attrs.field(factory=list)
    failures: list[Failure] = attrs.field(factory=list)
    schema: int = SCHEMA

    def of(self, row: str, contender: str) -> list[Sample]:
        """One row of one contender, by rounds."""
        return [s for s in self.samples if s.row == row and s.contender == contender]

    def rows(self) -> Iterable[tuple[str, str]]:
        """Names and labels of rows in which something was measured."""
        measured = {sample.row for sample in self.samples}
        return [(n, label) for n, label in self.conditions.rows.items() if n in measured]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(cattrs.unstructure(self), indent=1) + "\n")


def load(path: Path) -> Results:
    """Reads what `Results.save` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text())
    return cattrs.structure(raw, Results)
