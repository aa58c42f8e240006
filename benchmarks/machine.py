"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from .contenders import ROOT
from .results import Machine

_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_PACKAGES = ("pyfuse3", "trio", "attrs", "crc32c")


def describe(qemu_program: Path | None, tree: Path | None = None) -> Machine:
    """This machine and the versions of what takes part."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    versions = {"nvmf-fuse": commit(ROOT), "Python": platform.python_version()}
    if tree is not None:
        versions["the other tree"] = commit(tree)
    versions |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    versions["libfuse"] = _said("pkg-config", "--modversion", "fuse3")
    versions["fio"] = _said("fio", "--version").removeprefix("fio-")
    versions["nbdfuse"] = _said("nbdfuse", "--version").split()[1]
    versions["nbdkit"] = _said("nbdkit", "--version").split()[1]
    if qemu_program is not None:
        versions["qemu-storage-daemon"] = _said(qemu_program, "--version").split()[2]
    return Machine(
        cpu=model[1] if model else platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        load_before=os.getloadavg()[0],
        congestion_control=_CONGESTION_CONTROL.read_text().strip(),
        versions=versions,
    )


def commit(tree: Path) -> str:
    """What a tree is a state of."""
    git = ("git", "-C", tree)
    head = _said(*git, "rev-parse", "--short", "HEAD")
    if not head:
        return importlib.metadata.version("nvmf-fuse")
    changed = _said(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{head}, changed" if changed else head


def _said(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
