"""What the kernel lets a mount do, made the same for all, and its caches."""

import os
import subprocess
from pathlib import Path
from typing import Final

import attrs

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")


@attrs.frozen
class Limits:
    """For every FUSE mount that is measured."""

    #: Asynchronous requests that may be under way; the kernel's own default is 12.
    max_background: int = 4096
    congestion_threshold: int = 4096
    read_ahead_kib: int = 1024

    def impose(self, file: Path) -> None:
        """Sets them for the mount that serves this file.  Needs root."""
        minor = os.minor(file.stat().st_dev)
        if not _CONNECTIONS.is_dir() or not any(_CONNECTIONS.iterdir()):
            subprocess.run(["mount", "-t", "fusectl", "none", _CONNECTIONS], check=True)
        folder = _CONNECTIONS / str(minor)
        settings = {
            folder / "max_background": self.max_background,
            folder / "congestion_threshold": self.congestion_threshold,
            Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb"): self.read_ahead_kib,
        }
        for path, value in settings.items():
            path.write_text(f"{value}\n")
            if int(path.read_text()) != value:
                raise OSError(f"{path}: the kernel made {path.read_text().strip()} of {value}")


def drop_caches(file: Path) -> None:
    """Drops what the kernel caches of files, this one's data written first.  Needs root.

    No `sync` of everything: it would wait for mounts that are none of ours.
    """
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def is_mount_point(path: Path) -> bool:
    """Something is mounted there, be it a directory or, as qemu does it, a file."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(path) for line in lines)


def unmount(path: Path) -> None:
    """Takes a mount away that whoever served it left behind."""
    while is_mount_point(path):
        subprocess.run(["umount", "-l", path], check=True)
