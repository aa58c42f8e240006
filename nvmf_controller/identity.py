"""Identity that outlives the process: of this machine's subsystem, of files and of disks.

A host resumes writing to a namespace after an outage only if it has the same UUID, so a UUID must
never stand for other data: it is kept with the file, bound to that very file, and made anew where
there is any doubt.  It is never derived from a path.
"""

import contextlib
import logging
import os
import stat
import uuid
from pathlib import Path
from typing import Final

from nvmf_transport.nqn import uuid_nqn

from . import libc

_log = logging.getLogger(__name__)

UUID_XATTR: Final = "user.nvmf.uuid"
#: Which file the UUID was made for: a copy takes the attributes along but is another namespace.
FILE_XATTR: Final = "user.nvmf.file"
_SYSFS_NAMES: Final = ("wwid", "device/wwid", "dm/uuid", "md/uuid")


def state_folder() -> Path:
    """Where state is kept: $XDG_STATE_HOME/nvmf, else /var/lib/nvmf (root) or ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "nvmf"
    if os.geteuid() == 0:
        return Path("/var/lib/nvmf")
    return Path("~/.local/state/nvmf").expanduser()


def default_subnqn(folder: Path | None = None) -> str:
    """The subsystem's NQN where none was given: made once, kept in the state folder."""
    return uuid_nqn(_kept_uuid("subsystem", folder or state_folder()))


def file_uuid(fd: int, path: str, folder: Path | None = None) -> uuid.UUID:
    """The UUID of an open file or block device, made now if it has none."""
    info = os.fstat(fd)
    folder = folder or state_folder()
    if stat.S_ISBLK(info.st_mode):
        key = _disk_key(info.st_rdev)
        if key is None:
            _log.warning("%s: no lasting identity; its UUID is new at every start", path)
            return uuid.uuid4()
        return _kept_uuid(f"disk-{uuid.uuid5(uuid.NAMESPACE_OID, key)}", folder)
    mark = f"{info.st_ino}:{libc.birth_time_ns(fd) or 0}"
    try:
        return _xattr_uuid(fd, path, mark)
    except OSError as error:
        _log.debug("%s: no extended attributes (%s)", path, error)
    name = f"{info.st_dev:x}-{mark.replace(':', '-')}"
    return _kept_uuid(f"file-{name}", folder)


def _xattr_uuid(fd: int, path: str, mark: str) -> uuid.UUID:
    names = os.listxattr(fd)
    if UUID_XATTR in names and FILE_XATTR in names:
        with contextlib.suppress(ValueError):
            known = uuid.UUID(os.getxattr(fd, UUID_XATTR).decode("ascii", "replace"))
            if os.getxattr(fd, FILE_XATTR) == mark.encode():
                return known
            _log.warning("%s: a copy of the file that had UUID %s; it gets its own", path, known)
    made = uuid.uuid4()
    os.setxattr(fd, UUID_XATTR, str(made).encode())
    os.setxattr(fd, FILE_XATTR, mark.encode())
    return made


def _disk_key(rdev: int) -> str | None:
    """A name for the very disk behind a device node, not for the node."""
    folder = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    part = _text(folder / "partition")
    disk = folder.resolve().parent if part else folder
    for name in _SYSFS_NAMES:
        if value := _text(disk / name):
            return f"{name}={value} partition={part or 0}"
    # Counts every disk that ever appeared, a loop device with another file too; until reboot.
    sequence = _text(disk / "diskseq")
    boot = _text(Path("/proc/sys/kernel/random/boot_id"))
    if sequence and boot:
        return f"boot={boot} diskseq={sequence} partition={part or 0}"
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _kept_uuid(name: str, folder: Path) -> uuid.UUID:
    """Reads the UUID `name` of the state folder, or makes it, safely against a second process."""
    path = folder / f"{name}.uuid"
    made = uuid.uuid4()
    try:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return uuid.UUID(path.read_text("ascii").strip())
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = folder / f".{name}.{made}"
        draft.write_text(f"{made}\n", "ascii")
        try:
            # Unlike rename, link fails where another process was faster.
            os.link(draft, path)
        except FileExistsError:
            with contextlib.suppress(ValueError):
                return uuid.UUID(path.read_text("ascii").strip())
            draft.replace(path)
        else:
            return made
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, UnicodeError) as error:
        _log.warning("%s cannot be kept (%s); a new one is used until the end", path, error)
    return made
