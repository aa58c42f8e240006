"""Writes and reads nodes with the programs that people use for it."""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.programs import run

#: nvmecontrol's options for each digest mode.
DIGEST_OPTIONS: dict[str, list[str]] = {
    "none": [],
    "header": ["-g"],
    "data": ["-G"],
    "both": ["-g", "-G"],
}


def random_file(path: Path, size_bytes: int) -> Path:
    """Fills a file with bytes that nobody has seen before."""
    path.write_bytes(os.urandom(size_bytes))
    return path


def sha256(path: Path, size_bytes: int, *, offset_bytes: int = 0, bs: str = "1M") -> str:
    """Reads a range with dd and returns its digest."""
    argv = [
        *("dd", f"if={path}", f"bs={bs}", "status=none", "iflag=skip_bytes,count_bytes,fullblock"),
        *(f"skip={offset_bytes}", f"count={size_bytes}"),
    ]
    data = subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout
    return hashlib.sha256(data).hexdigest()


def _dd(*options: str) -> Callable[[Path, Path], None]:
    def write(source: Path, node: Path) -> None:
        run("dd", f"if={source}", f"of={node}", "status=none", *options)

    return write


def _cp(source: Path, node: Path) -> None:
    run("cp", source, node)


#: Ways to write a file to a node, with the offset where it then lies.
WRITERS: dict[str, tuple[Callable[[Path, Path], None], int]] = {
    "dd bs=1M": (_dd("bs=1M"), 0),
    "dd bs=4k": (_dd("bs=4k", "conv=fsync"), 0),
    "dd bs=12345": (_dd("bs=12345", "conv=notrunc,fsync"), 0),
    "dd bs=12345 at 777": (_dd("bs=12345", "oflag=seek_bytes", "seek=777", "conv=notrunc"), 777),
    "dd direct": (_dd("bs=256k", "oflag=direct", "conv=notrunc"), 0),
    "cp": (_cp, 0),
}


def fio(node: Path, mib: int, *options: str) -> None:
    """Writes at random places and verifies what is read back; raises where it differs."""
    run(
        *("fio", "--name=verify", f"--filename={node}", f"--size={mib}M", "--rw=randrw"),
        *("--verify=crc32c", "--verify_fatal=1", "--allow_file_create=0", "--fallocate=none"),
        "--verify_state_save=0",
        *options,
        timeout_s=240,
    )


@contextlib.contextmanager
def loop_device(file: Path, *options: str) -> Iterator[Path]:
    """A loop device over a file."""
    device = Path(run("losetup", "--find", "--show", *options, file).stdout.strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: Path, folder: Path, options: str = "rw") -> Iterator[Path]:
    """A file system, mounted."""
    folder.mkdir(exist_ok=True)
    run("mount", "-o", options, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)
