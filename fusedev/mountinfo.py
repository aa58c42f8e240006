"""What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

Nothing here looks at a mounted directory itself: a file system that does not answer would keep the
caller waiting.
"""

import re
from pathlib import Path
from typing import Final

import attrs

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@attrs.frozen
class Mount:
    """One line of mountinfo."""

    directory: str
    #: For example ext4, or fuse.nvmf.
    kind: str
    #: Number of the device: for FUSE the name of its folder under /sys/fs/fuse/connections.
    minor: int


def parse(text: str) -> list[Mount]:
    """Parses mountinfo; of two at the same place the later one covers the earlier."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 6:
            continue
        minor = int(fields[2].partition(":")[2])
        mounts.append(Mount(_unescape(fields[4]), after.split(" ")[0], minor))
    return mounts


def mounts_at(directory: str) -> list[Mount]:
    """What is mounted exactly at `directory`, an absolute path without links; last is on top."""
    text = MOUNTINFO.read_text("utf-8", "surrogateescape")
    return [mount for mount in parse(text) if mount.directory == directory]


def _unescape(text: str) -> str:
    # Octal of bytes; all that the kernel escapes is ASCII: space, tab, newline, backslash, #.
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
