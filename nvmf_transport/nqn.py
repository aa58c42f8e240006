"""NVMe Qualified Names (Base 2.1, section 4.7)."""

import re
import uuid
from typing import Final

from .errors import ConfigError

MAX_NQN_BYTES: Final = 223
_UUID_PREFIX: Final = "nqn.2014-08.org.nvmexpress:uuid:"
# uuid.UUID() also takes braces, "urn:" and digits without hyphens.
_UUID_NQN: Final = re.compile(
    re.escape(_UUID_PREFIX) + "([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})"
)
_STRICT: Final = re.compile(r"nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[^\s:]+(:.+)?", re.DOTALL)


def check_nqn(nqn: str, field: str) -> str:
    """Returns `nqn` where it can stand in a CONNECT: 1 to 223 bytes of UTF-8 without NUL.

    Form is not asked for, because targets in use are not strict; `is_strict` tells.
    Raises `ConfigError` naming `field`.
    """
    try:
        size = len(nqn.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigError("not valid UTF-8; give an NQN", field=field, value=repr(nqn)) from None
    if size == 0:
        raise ConfigError("the NQN is empty; give one of 1 to 223 bytes", field=field, value=nqn)
    if size > MAX_NQN_BYTES:
        raise ConfigError(
            f"the NQN has {size} bytes, {MAX_NQN_BYTES} are allowed; shorten it",
            field=field,
            value=nqn,
        )
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in nqn):
        raise ConfigError(
            "the NQN has control characters; remove them", field=field, value=repr(nqn)
        )
    return nqn


def is_strict(nqn: str) -> bool:
    """True where `nqn` has the form nqn.YYYY-MM.reversed-domain[:name] of the specification."""
    return len(nqn.encode("utf-8", "replace")) <= MAX_NQN_BYTES and bool(_STRICT.fullmatch(nqn))


def uuid_nqn(identifier: uuid.UUID) -> str:
    """The NQN made of a UUID (Base 2.1, section 4.7.1)."""
    return f"{_UUID_PREFIX}{identifier}"


def uuid_of_nqn(nqn: str) -> uuid.UUID | None:
    """The UUID in an NQN of that form, else None."""
    found = _UUID_NQN.fullmatch(nqn)
    return None if found is None else uuid.UUID(found[1])
