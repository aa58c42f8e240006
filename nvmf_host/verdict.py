"""Whether a namespace is still the one that it was: looked at before any I/O resumes.

The same one has the same subsystem (NQN, serial number, model), the same set of identifiers (one
more or fewer is a difference), the same LBA size, and is not smaller.
"""

import enum

import attrs

from .scan import NamespaceDescription


class Sameness(enum.Enum):
    """How a namespace compares with what it was."""

    SAME = enum.auto()
    GREW = enum.auto()
    DIFFERENT = enum.auto()


@attrs.frozen
class SubsystemIdentity:
    """What makes a subsystem the same one."""

    subnqn: str
    serial: str
    model: str


@attrs.frozen
class Verdict:
    """`reason` says what differs, old and new value and the cure; or a warning, if the same."""

    sameness: Sameness
    reason: str = ""


_CURE = (
    "nothing was sent to it; if this is the right namespace, give it back its old identity or let "
    "it go on with `nvmecontrol resume --accept`, else disconnect (waiting I/O fails) and connect "
    "again"
)


def judge(
    was: NamespaceDescription,
    now: NamespaceDescription,
    subsystem_was: SubsystemIdentity,
    subsystem_now: SubsystemIdentity,
) -> Verdict:
    """Compares a namespace with what it was when it was last live."""
    differences = [
        f"{name} was {old!r}, is {new!r}"
        for name, old, new in (
            ("SUBNQN", subsystem_was.subnqn, subsystem_now.subnqn),
            ("serial number", subsystem_was.serial, subsystem_now.serial),
            ("model", subsystem_was.model, subsystem_now.model),
        )
        if old != new
    ]
    ids_was, ids_now = was.identifiers, now.identifiers
    changed = [
        f"{name} was {ids_was.get(name, 'absent')}, is {ids_now.get(name, 'absent')}"
        for name in ("UUID", "NGUID", "EUI64")
        if ids_was.get(name) != ids_now.get(name)
    ]
    hint = ""
    if changed:
        hint = (
            "; RAM disks are new at every start, and some targets give random UUIDs unless told one"
        )
    differences += changed
    if was.lba_bytes != now.lba_bytes:
        differences.append(f"LBA size was {was.lba_bytes}, is {now.lba_bytes}")
    elif now.size_lbas < was.size_lbas:
        differences.append(f"size was {was.size_lbas} LBAs, is {now.size_lbas}")
    anonymous = not ids_was and not ids_now
    if anonymous and (now.size_lbas != was.size_lbas or now.nsid != was.nsid):
        differences.append(
            f"without any identifier NSID and size must be equal: NSID {was.nsid} with "
            f"{was.size_lbas} LBAs became NSID {now.nsid} with {now.size_lbas}"
        )
    if differences:
        return Verdict(
            Sameness.DIFFERENT,
            f"not the same namespace: {'; '.join(differences)}{hint}; {_CURE}",
        )
    warning = "it has no identifier; only size and format could be compared" if anonymous else ""
    if now.size_lbas > was.size_lbas:
        return Verdict(Sameness.GREW, warning)
    return Verdict(Sameness.SAME, warning)
