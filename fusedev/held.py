"""How much memory waiting writes may hold: what was asked for, or what this machine can bear."""

import os
import re
from pathlib import Path
from typing import Final

from nvmf_transport.errors import ConfigError

from .mount import HELD_BY_WRITE_BYTES, MAX_BACKGROUND, MIN_HELD_BYTES

_MOST_BYTES: Final = MAX_BACKGROUND * HELD_BY_WRITE_BYTES
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)", re.IGNORECASE)
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def parse(text: str) -> int:
    """Parses SIZE, in bytes.  Raises `ConfigError`."""
    found = _SIZE.fullmatch(text)
    size = int(found[1]) << _UNITS[found[2].upper()] if found else 0
    if size < MIN_HELD_BYTES:
        raise ConfigError(
            f"not a size from {MIN_HELD_BYTES >> 20}M on; write it as 512M or 2G",
            field="--max-held",
            value=text,
        )
    return size


def default_bytes(cgroup: Path = _CGROUP) -> int:
    """Half of the memory that this process can have, within what is of any use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = cgroup.read_text().strip()
    except OSError:
        limit = "max"
    if limit.isdecimal():
        memory = min(memory, int(limit))
    return max(MIN_HELD_BYTES, min(_MOST_BYTES, memory // 2))
