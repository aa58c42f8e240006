"""Where to mount, whether that is possible, and the mount itself."""

import errno
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pyfuse3

from . import libc, mountinfo
from .device import open_devices

_log = logging.getLogger(__name__)

KIND: Final = "fuse.nvmf"
_DEV_FUSE: Final = Path("/dev/fuse")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_TIMEOUT_LIMITS: Final = ("max_request_timeout", "default_request_timeout")
#: Asynchronous requests that the kernel has under way at a time; by default 12, for all nodes.
MAX_BACKGROUND: Final = 4096
_DEFAULT_BACKGROUND: Final = 12
#: What the longest write takes up while it waits: 1 MiB where it was read, and perhaps again where
#: it is merged with what is around it, or by libfuse.
HELD_BY_WRITE_BYTES: Final = 2 << 20
MIN_HELD_BYTES: Final = _DEFAULT_BACKGROUND * HELD_BY_WRITE_BYTES
#: How long a mount may take to say that it is alive.
_PROBE_S: Final = 2.0
_MAX_LINKS: Final = 40

EX_OSERR: Final = 71
EX_OSFILE: Final = 72
EX_CANTCREAT: Final = 73
EX_USAGE: Final = 64


class StartError(Exception):
    """The mount cannot be made; `exit_code` is the program's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@attrs.frozen
class MountPoint:
    """A directory to mount on: absolute, without links."""

    path: str
    #: The default one, made for this mount and removed with it.
    temporary: bool


@attrs.frozen
class Mount:
    """What was mounted."""

    #: Its number in sysfs.
    connection: int
    #: pyfuse3's descriptor of /dev/fuse; None where it cannot be told which that is.
    device: int | None


def choose(argument: str | None, environment: Mapping[str, str], uid: int) -> MountPoint:
    """DIR: what was given, else $NVMF_DEV, else the default.  Touches nothing."""
    named = argument or environment.get("NVMF_DEV")
    if named:
        return MountPoint(resolve(named), temporary=False)
    if uid == 0:
        return MountPoint(resolve("/run/nvmf"), temporary=True)
    runtime = environment.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise StartError("DIR: none given and XDG_RUNTIME_DIR is not set; name one", EX_USAGE)
    return MountPoint(resolve(f"{runtime}/nvmf"), temporary=True)


def resolve(path: str) -> str:
    """The absolute path without links, without asking a file system mounted at its end.

    `os.path.realpath` looks at the last component, and a dead or hanging mount answers badly.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100  # Path.absolute() keeps `..`
    for _ in range(_MAX_LINKS):
        parent, name = os.path.split(absolute)
        absolute = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118
        try:
            target = os.readlink(absolute)  # noqa: PTH115
        except OSError:
            return os.path.normpath(absolute)
        absolute = os.path.join(os.path.dirname(absolute), target)  # noqa: PTH118, PTH120
    raise StartError(f"{path}: too many links; name the directory itself", EX_OSFILE)


def prepare(point: MountPoint) -> None:
    """Makes sure that the directory can be mounted on.  Raises `StartError`."""
    _check_device()
    _clear_dead_mounts(point.path)
    if point.temporary:
        try:
            Path(point.path).mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise StartError(
                f"{point.path}: cannot be made: {error.strerror}; name another DIR", EX_OSFILE
            ) from None
    if not Path(point.path).is_dir():
        what = "not a directory" if os.path.lexists(point.path) else "no such directory"
        raise StartError(f"{point.path}: {what}; make it, or name another DIR", EX_OSFILE)


def _check_device() -> None:
    try:
        os.close(os.open(_DEV_FUSE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = (
            "allow this user to open it"
            if error.errno == errno.EACCES
            else "load the kernel's module fuse, or give the container this device"
        )
        raise StartError(f"{_DEV_FUSE}: {error.strerror}; {remedy}", EX_OSFILE) from None


def _clear_dead_mounts(directory: str) -> None:
    """Detaches our own type's dead mounts from the directory; refuses any other."""
    while mounts := mountinfo.mounts_at(directory):
        top = mounts[-1]
        if top.kind != KIND or not _is_dead(directory):
            who = "another fusedev" if top.kind == KIND else f"a file system of type {top.kind}"
            raise StartError(
                f"{directory}: busy: {who} is mounted there; unmount it, or name another DIR",
                EX_CANTCREAT,
            )
        _log.info("%s: detaching the mount of a daemon that is gone", directory)
        try:
            detach(directory)
        except OSError as error:
            raise StartError(
                f"{directory}: busy: a dead mount cannot be detached: {error.strerror}; "
                f"try fusermount3 -uz {directory}",
                EX_CANTCREAT,
            ) from None


def _is_dead(directory: str) -> bool:
    """Whether nobody serves the mount any more.  One that is slow to answer is not dead."""
    dead = threading.Event()

    def look() -> None:
        try:
            os.stat(directory)  # noqa: PTH116
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                dead.set()

    probe = threading.Thread(target=look, daemon=True)
    probe.start()
    probe.join(_PROBE_S)
    return dead.is_set()


def detach(directory: str) -> None:
    """Takes the mount away even if it is in use.  Raises OSError."""
    if os.geteuid() == 0:
        libc.detach_mount(directory)
        return
    command = ["fusermount3", "-u", "-z", "--", directory]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=5, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, "fusermount3 does not end", directory) from None
    if done.returncode != 0:
        raise OSError(errno.EPERM, done.stderr.strip() or "fusermount3 failed", directory)


@contextmanager
def mounted(
    operations: pyfuse3.Operations, point: MountPoint, *, allow_other: bool
) -> Iterator[Mount]:
    """Mounts, and unmounts at the end.

    Waiting requests that nobody answered by then end with ECONNABORTED.  One mount per process.
    Raises `StartError`.
    """
    options = {*pyfuse3.default_options, "fsname=nvmf", "subtype=nvmf"}
    if allow_other:
        options.add("allow_other")
    before = open_devices()
    with _c_stderr() as said:
        try:
            pyfuse3.init(operations, point.path, options)
        except RuntimeError as error:
            failure: str | None = str(error)
        else:
            failure = None
    if failure is not None:
        why = " ".join(said()) or failure
        raise StartError(f"{point.path}: mount failed: {why}", EX_OSERR)
    try:
        mounts = mountinfo.mounts_at(point.path)
        if len(mounts) > 1:
            raise StartError(
                f"{point.path}: busy: something else was mounted there in this moment; try again",
                EX_CANTCREAT,
            )
        # libfuse may have been given one, or open more than one: both are its own business.
        found = open_devices() - before
        device = found.pop() if len(found) == 1 else None
        yield Mount(connection=mounts[-1].minor if mounts else -1, device=device)
    finally:
        pyfuse3.close(unmount=True)
        _detach_aborted(point.path)
        if point.temporary:
            remove(point)


def _detach_aborted(directory: str) -> None:
    """Takes away what libfuse leaves where the connection was aborted from outside (sysfs).

    By now another daemon may have its mount there, which is alive.
    """
    mounts = mountinfo.mounts_at(directory)
    if mounts and mounts[-1].kind == KIND and _is_dead(directory):
        try:
            detach(directory)
        except OSError as error:
            _log.warning("%s: the aborted mount stays: %s", directory, error)


def remove(point: MountPoint) -> None:
    """Removes the directory that was made for the mount, where it is empty."""
    try:
        Path(point.path).rmdir()
    except OSError as error:
        _log.debug("%s stays: %s", point.path, error)


@contextmanager
def _c_stderr() -> Iterator["_Said"]:
    """Catches what C code writes to standard error: libfuse and fusermount3 explain there."""
    with tempfile.TemporaryFile() as caught:
        saved = os.dup(2)
        os.dup2(caught.fileno(), 2)
        said = _Said()
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            said.lines = caught.read().decode("utf-8", "replace").splitlines()


@attrs.define(eq=False)
class _Said:
    lines: list[str] = attrs.field(factory=list)

    def __call__(self) -> list[str]:
        return [line.strip() for line in self.lines if line.strip()]


def raise_limits(connection: int, max_held_bytes: int) -> int:
    """Lets the kernel have many asynchronous requests under way, where we may (root).

    Else its 12 stand, for all nodes together: as many that wait keep all later ones waiting.

    This bounds memory too, because a write that waits holds its data here, and no request can be
    left unread while others are to be answered: what is more than `max_held_bytes` allows stays
    with its callers.  Synchronous writes come on top, of which the kernel sends one for each node.
    Returns the bound in effect, in bytes.
    """
    folder = _CONNECTIONS / str(connection)
    limit = max(_DEFAULT_BACKGROUND, min(MAX_BACKGROUND, max_held_bytes // HELD_BY_WRITE_BYTES))
    try:
        if not folder.exists():
            libc.mount_filesystem("fusectl", str(_CONNECTIONS))
        for name in ("max_background", "congestion_threshold"):
            (folder / name).write_text(f"{limit}\n")
    except OSError as error:
        limit = _DEFAULT_BACKGROUND
        _log.info(
            "the kernel's limit of 12 background requests stands (%s); with more that wait, "
            "others on this mount wait too",
            error,
        )
    return limit * HELD_BY_WRITE_BYTES


def warn_of_request_timeout(sysctls: Path = Path("/proc/sys/fs/fuse")) -> None:
    """Warns where the kernel is to end mounts whose requests wait for long."""
    for name in _TIMEOUT_LIMITS:
        try:
            seconds = int((sysctls / name).read_text())
        except (OSError, ValueError):
            continue
        if seconds > 0:
            _log.warning(
                "fs.fuse.%s is %d: the kernel ends this mount where a request waits that long; "
                "set it to 0",
                name,
                seconds,
            )
