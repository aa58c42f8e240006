"""Who this host says it is: its NQN and its Host ID, which are a pair (Base 2.1, section 6.3).

Controllers tell hosts apart by these two: reservations, the list of allowed hosts and the fencing
of a lost association all hang on them.  Two hosts under one Host ID are taken for one, and Linux
refuses to use one Host ID under two NQNs.  So no Host ID is ever put together with an NQN that it
was not made for; `resolve` has the rule.
"""

import os
import re
import tempfile
import uuid
from pathlib import Path
from typing import Final

import attrs

from nvmf_transport.errors import ConfigError
from nvmf_transport.nqn import check_nqn, uuid_nqn, uuid_of_nqn

ETC_DIR: Final = Path("/etc/nvme")
_ROOT_STATE_DIR: Final = Path("/var/lib/nvmf")
_NQN_FILE: Final = "hostnqn"
_HOSTID_FILE: Final = "hostid"
_GIVEN: Final = "given"
#: Far more than a line of 223 bytes; whatever is longer is something else.
_MAX_FILE_BYTES: Final = 4096
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
#: Namespace of the Host IDs that are derived from NQNs without a UUID.  Never changes.
_DERIVED: Final = uuid.UUID("6f1d2c5e-7f0b-5d0e-9a41-52cbd4a0f8d3")


@attrs.frozen(kw_only=True)
class HostIdentity:
    """The host's NQN and Host ID, and for people where each came from.

    The 16 bytes of the Host ID in CONNECT are `hostid.bytes`: the order of the text, as Linux
    sends them.
    """

    nqn: str
    hostid: uuid.UUID
    nqn_origin: str = _GIVEN
    hostid_origin: str = _GIVEN


def resolve(
    hostnqn: str | None = None,
    hostid: str | uuid.UUID | None = None,
    *,
    etc_dir: Path = ETC_DIR,
    state_dir: Path | None = None,
) -> HostIdentity:
    """Returns the identity to use; raises `ConfigError` naming the option or the file.

    The stored pair is that of `etc_dir` (`hostnqn`, `hostid`: nvme-cli's files), else that of
    `state_dir`, where it is made at the first use; several starts at once agree on it.  Then:

    - nothing given: the stored pair.
    - one half given, and it is that of the stored pair: the stored pair.
    - only an NQN, otherwise: the Host ID is the NQN's UUID, or derived from an NQN without one,
      always the same for the same NQN.  nvme-cli would take the stored Host ID, which then has two
      NQNs.
    - only a Host ID, otherwise: the NQN is the one made of that UUID.
    - both given: these two; refused where the Host ID is stored with another NQN.

    A stored pair of which only one file exists is completed in the same way.
    """
    given_id = None if hostid is None else _hostid(str(hostid), "hostid")
    if hostnqn is not None:
        check_nqn(hostnqn, "hostnqn")
    if hostnqn is not None and given_id is not None:
        _refuse_borrowed(hostnqn, given_id, etc_dir, state_dir)
        return HostIdentity(nqn=hostnqn, hostid=given_id)
    if hostnqn is None and given_id is None:
        return _stored(etc_dir) or _made(_state_dir(state_dir))
    stored = _peek(etc_dir, state_dir)
    if stored is not None and hostnqn == stored.nqn:
        return attrs.evolve(stored, nqn_origin=_GIVEN)
    if stored is not None and given_id == stored.hostid:
        return attrs.evolve(stored, hostid_origin=_GIVEN)
    return _completed(hostnqn, given_id, _GIVEN)


def default_state_dir() -> Path:
    """Where a pair is made and kept: /var/lib/nvmf for root, $XDG_STATE_HOME/nvmf for others."""
    if os.geteuid() == 0:
        return _ROOT_STATE_DIR
    configured = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    base = Path(configured) if configured.startswith("/") else Path.home() / ".local/state"
    return base / "nvmf"


def _state_dir(state_dir: Path | None) -> Path:
    return default_state_dir() if state_dir is None else state_dir


def _completed(nqn: str | None, hostid: uuid.UUID | None, origin: str) -> HostIdentity:
    derived = f"derived from the {'Host ID' if nqn is None else 'NQN'}"
    if nqn is None:
        assert hostid is not None
        return HostIdentity(
            nqn=uuid_nqn(hostid), hostid=hostid, nqn_origin=derived, hostid_origin=origin
        )
    if hostid is not None:
        return HostIdentity(nqn=nqn, hostid=hostid, nqn_origin=origin, hostid_origin=origin)
    found = uuid_of_nqn(nqn)
    if found is None or found.int == 0:
        found = uuid.uuid5(_DERIVED, nqn)
    return HostIdentity(nqn=nqn, hostid=found, nqn_origin=origin, hostid_origin=derived)


def _refuse_borrowed(nqn: str, hostid: uuid.UUID, etc_dir: Path, state_dir: Path | None) -> None:
    stored = _peek(etc_dir, state_dir)
    if stored is not None and stored.hostid == hostid and stored.nqn != nqn:
        raise ConfigError(
            f"Host ID {hostid} belongs to {stored.nqn} ({stored.hostid_origin}); "
            "give that NQN, or another Host ID",
            field="hostid",
            value=hostid,
        )


def _peek(etc_dir: Path, state_dir: Path | None) -> HostIdentity | None:
    """The stored pair if there is one that can be read: what was given does not depend on it."""
    try:
        return _stored(etc_dir) or _stored(_state_dir(state_dir))
    except ConfigError:
        return None


def _stored(directory: Path) -> HostIdentity | None:
    nqn_path, hostid_path = directory / _NQN_FILE, directory / _HOSTID_FILE
    nqn, text = _line(nqn_path, "hostnqn"), _line(hostid_path, "hostid")
    if nqn is None and text is None:
        return None
    path = nqn_path
    try:
        if nqn is not None:
            check_nqn(nqn, "hostnqn")
        path = hostid_path
        hostid = None if text is None else _hostid(text, "hostid")
    except ConfigError as error:
        raise ConfigError(
            f"{path}: {error}", field=error.field or "hostnqn", value=error.value
        ) from None
    found = _completed(nqn, hostid, str(nqn_path if hostid is None else hostid_path))
    return found if nqn is None else attrs.evolve(found, nqn_origin=str(nqn_path))


def _made(directory: Path) -> HostIdentity:
    """The pair in `directory`, made now if there is none."""
    found = _stored(directory)
    if found is not None:
        return found
    try:
        _publish(directory, uuid_nqn(uuid.uuid4()))
    except OSError as error:
        raise ConfigError(
            f"cannot keep a host NQN in {directory}: {error.strerror}; make that folder writable, "
            "or give the host NQN (-q)",
            field="hostnqn",
            value=directory,
        ) from error
    found = _stored(directory)
    assert found is not None
    return found


def _publish(directory: Path, nqn: str) -> None:
    """Makes `hostnqn` whole or not at all; one that another start has made is left alone."""
    directory.mkdir(parents=True, exist_ok=True)
    # One file, and no `hostid`: the UUID of the NQN is the Host ID, so the pair cannot be torn.
    descriptor, name = tempfile.mkstemp(prefix=".hostnqn-", dir=directory)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{nqn}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        try:
            (directory / _NQN_FILE).hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(path: Path, field: str) -> str | None:
    """The one line of a file; None where there is no file."""
    remedy = f"put one line with the host's {field} into it, or remove it"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; make it readable, or give both host NQN (-q) and "
            "Host ID (-I)",
            field=field,
            value=path,
        ) from error
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text; {remedy}", field=field, value=path) from None
    filled = [line.strip() for line in lines if line.strip()]
    if len(data) > _MAX_FILE_BYTES or len(filled) != 1:
        raise ConfigError(f"{path}: {len(filled)} lines; {remedy}", field=field, value=path)
    return filled[0]


def _hostid(text: str, field: str) -> uuid.UUID:
    if not _UUID.fullmatch(text):
        raise ConfigError(
            "not a Host ID; give a UUID such as 12345678-9abc-4def-8123-456789abcdef",
            field=field,
            value=text,
        )
    found = uuid.UUID(text)
    if found.int == 0:
        raise ConfigError(
            "a Host ID of zeroes stands for no host; give another", field=field, value=text
        )
    return found
