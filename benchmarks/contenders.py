"""Who is measured: each serves a remote disk of the same size as a file, all over TCP."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import attrs

from .kernel import is_mount_point, unmount
from .processes import BenchmarkError, free_port, run, running
from .usage import family

OURS, DIGESTS, TREE = "ours", "digests", "tree"
NBDFUSE, QEMU = "nbdfuse", "qemu"
#: The peers that ours is compared with.
PEERS: Final = (NBDFUSE, QEMU)
ROOT: Final = Path(__file__).resolve().parent.parent
SUBNQN: Final = "nqn.2024-01.org.example:benchmark"


@attrs.frozen
class Contender:
    """A file to measure, and the processes behind it."""

    name: str
    file: Path
    host_pids: tuple[int, ...]
    #: Empty where the target is not ours to see.
    target_pids: tuple[int, ...]


@attrs.frozen
class Target:
    """An NVMe/TCP target, at ADDRESS:PORT."""

    address: str
    subnqn: str
    pids: tuple[int, ...] = ()


#: Starts a contender in an empty folder, with a size in bytes.
Starter = Callable[[Path, int], AbstractContextManager[Contender]]
#: Starts a target likewise, of the source in a tree.
Serve = Callable[[Path, int, Path], AbstractContextManager[Target]]


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


@contextmanager
def nvmfd(folder: Path, size_bytes: int, tree: Path = ROOT) -> Iterator[Target]:
    """A RAM disk, of the source in `tree`."""
    argv = [
        *_python("nvmf_controller.main"),
        *("-p", "0", "-P", "0", "-n", SUBNQN, f"ramdisk:{size_bytes // 1024}K"),
    ]
    with running(argv, folder / "nvmfd.log", folder=tree, ready="ready ") as program:
        yield Target(program.words["io"], SUBNQN, (program.pid,))


@contextmanager
def fusedev(
    name: str, folder: Path, target: Target, *options: str, tree: Path = ROOT
) -> Iterator[Contender]:
    """Our host on a target, connected with these options of nvmecontrol's."""
    mount = folder / "dev"
    mount.mkdir()
    argv: list[str | Path] = [*_python("fusedev.main"), mount]
    try:
        with running(argv, folder / "fusedev.log", folder=tree, ready="ready ") as program:
            connect: tuple[str | Path, ...] = (
                "--dev",
                mount,
                "connect",
                *options,
                target.address,
                target.subnqn,
            )
            device = run(*_python("nvmecontrol"), *connect, folder=tree).strip()
            state = json.loads((mount / device).read_text())
            digests = "-G" in options
            if any(
                (q["header_digest"], q["data_digest"]) != (digests, digests)
                for q in state["queues"]
            ):
                raise BenchmarkError(f"{target.address}: does not grant the digests asked for")
            nsids = [each["nsid"] for each in state["namespaces"]]
            if not nsids:
                raise BenchmarkError(f"{target.address} {target.subnqn}: no namespace")
            yield Contender(
                name, mount / f"{device}ns{nsids[0]}", (program.pid,), family(target.pids)
            )
    finally:
        unmount(mount)


@contextmanager
def responder(folder: Path, size_bytes: int, _tree: Path = ROOT) -> Iterator[Target]:
    """A target that costs next to nothing, for the host alone."""
    with nvmfd(folder, size_bytes) as admin:
        argv = [*_python("benchmarks.responder"), admin.address]
        with running(argv, folder / "responder.log", folder=ROOT, ready="ready ") as program:
            yield Target(program.words["io"], SUBNQN, (program.pid,))


@contextmanager
def _nvme(
    name: str, folder: Path, size_bytes: int, *options: str, serve: Serve, tree: Path = ROOT
) -> Iterator[Contender]:
    with (
        serve(folder, size_bytes, tree) as target,
        fusedev(name, folder, target, *options, tree=tree) as contender,
    ):
        yield contender


@contextmanager
def _nbdkit(folder: Path, size_bytes: int) -> Iterator[tuple[int, int]]:
    """An NBD server of a disk in memory: its port and process id."""
    port, ready = free_port(), folder / "nbdkit.pid"
    argv: list[str | Path] = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "-P", ready]
    with running([*argv, "memory", str(size_bytes)], folder / "nbdkit.log") as program:
        program.wait_until(ready.exists, "listening")
        yield port, program.pid


@contextmanager
def _nbdfuse(folder: Path, size_bytes: int) -> Iterator[Contender]:
    mount = folder / "dev"
    mount.mkdir()
    with _nbdkit(folder, size_bytes) as (port, target_pid):
        argv: list[str | Path] = ["nbdfuse", mount / "disk", f"nbd://127.0.0.1:{port}"]
        try:
            with running(argv, folder / "nbdfuse.log") as program:
                program.wait_until(lambda: is_mount_point(mount), "mounted")
                yield Contender(NBDFUSE, mount / "disk", (program.pid,), (target_pid,))
        finally:
            unmount(mount)


@contextmanager
def _qemu(folder: Path, size_bytes: int, program_path: Path) -> Iterator[Contender]:
    file = folder / "disk"
    file.touch()
    with _nbdkit(folder, size_bytes) as (port, target_pid):
        server = f"server.type=inet,server.host=127.0.0.1,server.port={port}"
        argv: list[str | Path] = [
            program_path,
            *("--blockdev", f"driver=nbd,node-name=disk,{server}"),
            *("--export", f"type=fuse,id=file,node-name=disk,mountpoint={file},writable=on"),
        ]
        try:
            with running(argv, folder / "qemu-storage-daemon.log") as program:
                program.wait_until(lambda: is_mount_point(file), "mounted")
                yield Contender(QEMU, file, (program.pid,), (target_pid,))
        finally:
            unmount(file)


def peers(qemu_program: Path) -> dict[str, Starter]:
    """How to start those that ours is compared with."""
    return {
        NBDFUSE: _nbdfuse,
        QEMU: lambda folder, size_bytes: _qemu(folder, size_bytes, qemu_program),
    }


def hosts(serve: Serve, tree: Path | None, *, always: Sequence[str] = ()) -> dict[str, Starter]:
    """How to start our host, on a target of its own each, with `always` for nvmecontrol."""

    def starter(name: str, *options: str, tree: Path = ROOT) -> Starter:
        return lambda folder, size_bytes: _nvme(
            name, folder, size_bytes, *always, *options, serve=serve, tree=tree
        )

    known = {OURS: starter(OURS), DIGESTS: starter(DIGESTS, "-g", "-G")}
    return known if tree is None else known | {TREE: starter(TREE, tree=tree)}
