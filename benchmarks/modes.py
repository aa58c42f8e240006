"""The kinds of run: who takes part in each, with which rows, and how they are started."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from . import checking, controller_alone
from .contenders import (
    DIGESTS,
    NBDFUSE,
    OURS,
    QEMU,
    ROOT,
    TREE,
    Contender,
    Starter,
    Target,
    hosts,
    nvmfd,
    peers,
    responder,
)
from .kernel import Limits
from .loads import Memory
from .processes import BenchmarkError
from .responder import PATTERN
from .results import Check, Results
from .rows import QUEUE_ROWS, ROWS, Row
from .session import Say, Session, open_session

Open = Callable[[Results, Say], AbstractContextManager[Session[Any]]]


@attrs.frozen(kw_only=True)
class Mode:
    """A kind of run."""

    title: str
    #: Of the files that the results go to.
    stem: str
    rows: tuple[Row, ...]
    #: Who takes part, in order, and what the tables call them.
    contenders: dict[str, str]
    qemu_program: Path | None = None
    #: Starts all of them.
    open: Open


def _choose(
    titles: dict[str, str], names: Sequence[str] | None, tree: Path | None
) -> dict[str, str]:
    """Those asked for, the other tree always where there is one.  Raises `BenchmarkError`."""
    wanted = [name for name in titles if name != TREE] if names is None else list(names)
    for name in wanted:
        if name not in titles or name == TREE:
            known = ", ".join(each for each in titles if each != TREE)
            raise BenchmarkError(f"{name}: not one that can take part; there are {known}")
    if tree is not None:
        if TREE not in titles:
            raise BenchmarkError("another tree cannot take part in this kind of run")
        wanted.append(TREE)
    return {name: titles[name] for name in wanted}


def _mounted(
    known: dict[str, Starter],
    names: Sequence[str],
    limits: Limits,
    look: Callable[[Contender, Memory, str], Check] = checking.check,
) -> Open:
    chosen = {name: known[name] for name in names}
    return lambda results, say: open_session(chosen, results, limits, say=say, look=look)


def beside_peers(names: Sequence[str] | None, tree: Path | None, limits: Limits) -> Mode:
    """Our host and controller, and those whose place they take."""
    titles = {
        OURS: "fusedev + nvmfd",
        DIGESTS: "fusedev + nvmfd, both digests",
        NBDFUSE: "nbdfuse + nbdkit memory",
        QEMU: "qemu-storage-daemon FUSE export + nbdkit memory",
        TREE: "fusedev + nvmfd of the other tree",
    }
    chosen = _choose(titles, names, tree)
    program = Path(_newest_qemu()) if QEMU in chosen else None
    known = hosts(nvmfd, tree) | peers(program or Path())
    return Mode(
        title="fusedev and nvmfd beside nbdfuse and qemu-storage-daemon",
        stem="comparison",
        rows=ROWS,
        contenders=chosen,
        qemu_program=program,
        open=_mounted(known, list(chosen), limits),
    )


def _newest_qemu() -> str:
    done = subprocess.run(
        [ROOT / "benchmarks" / "get-qemu"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(done.stderr.strip())
    return done.stdout.strip()


def on_target(
    target: Target, names: Sequence[str] | None, tree: Path | None, limits: Limits
) -> Mode:
    """Our host on a target that somebody else has started."""

    @contextlib.contextmanager
    def serve(_folder: Path, _size_bytes: int, _tree: Path) -> Iterator[Target]:
        yield target

    titles = {
        OURS: f"fusedev on {target.address}",
        DIGESTS: f"fusedev on {target.address}, both digests",
        TREE: f"fusedev of the other tree on {target.address}",
    }
    chosen = _choose(titles, names or [OURS], tree)
    return Mode(
        title=f"fusedev on {target.subnqn} at {target.address}",
        stem="target",
        rows=ROWS,
        contenders=chosen,
        open=_mounted(hosts(serve, tree), list(chosen), limits),
    )


def host_alone(names: Sequence[str] | None, tree: Path | None, limits: Limits) -> Mode:
    """Our host on a responder; without Keep Alive, of which the responder knows nothing."""

    def look(contender: Contender, _memory: Memory, _checksum: str) -> Check:
        return checking.check_pattern(contender, PATTERN)

    titles = {
        OURS: "fusedev on a minimal responder",
        TREE: "fusedev of the other tree on a minimal responder",
    }
    chosen = _choose(titles, names, tree)
    return Mode(
        title="fusedev alone",
        stem="host-alone",
        rows=ROWS,
        contenders=chosen,
        open=_mounted(hosts(responder, tree, always=("-k", "0")), list(chosen), limits, look),
    )


def controller_by_itself(names: Sequence[str] | None, tree: Path | None) -> Mode:
    """nvmfd, loaded through our host's queues."""
    titles = {OURS: "nvmfd", DIGESTS: "nvmfd, both digests", TREE: "nvmfd of the other tree"}
    chosen = _choose(titles, names, tree)
    return Mode(
        title="nvmfd alone (the host is what generates the load)",
        stem="controller-alone",
        rows=QUEUE_ROWS,
        contenders=chosen,
        open=lambda results, say: controller_alone.open_session(
            list(chosen), results, tree, say=say
        ),
    )
