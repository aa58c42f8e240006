"""Property Get and Set: CAP, VS, CC, CSTS (Base 2.1, sections 3.1.4, 6.5, 6.6)."""

from typing import Final

from nvmf_transport.capsule import ReceivedCommand
from nvmf_transport.errors import CommandError
from nvmf_transport.fabrics import (
    PROPERTY_4_BYTES,
    PROPERTY_8_BYTES,
    PropertyGetCommand,
    PropertySetCommand,
)
from nvmf_transport.nvme import Cap, Cc, Property, Vs
from nvmf_transport.status import COMMAND_SEQUENCE_ERROR, INVALID_FIELD

from .association import Association, State

VERSION: Final = Vs.of(major=1, minor=4)
#: Memory pages up to 64 KiB, so that hosts with large pages can name theirs.
_MPSMAX: Final = 4
_IOSQES: Final = 6
_IOCQES: Final = 4
_CC_FIELDS: Final = Cc.of(en=1, css=7, mps=15, ams=7, shn=3, iosqes=15, iocqes=15).value


def cap_of(association: Association) -> Cap:
    """Controller Capabilities."""
    config = association.subsystem.config
    return Cap.of(
        mqes=config.max_queue_entries - 1,
        cqr=1,
        to=config.cap_to,
        css=Cap.CSS_NVM,
        mpsmin=0,
        mpsmax=_MPSMAX,
    )


def property_get(association: Association, command: ReceivedCommand) -> int:
    """Returns the value; raises `CommandError`."""
    fields = PropertyGetCommand.unpack(command.sqe)
    sizes = {
        Property.CAP: (PROPERTY_8_BYTES, lambda: cap_of(association).value),
        Property.VS: (PROPERTY_4_BYTES, lambda: VERSION.value),
        Property.CC: (PROPERTY_4_BYTES, lambda: association.cc.value),
        Property.CSTS: (PROPERTY_4_BYTES, lambda: association.csts.value),
    }
    size, value = sizes.get(fields.ofst, (None, None))  # type: ignore[call-overload]
    if value is None or fields.size != size:
        raise CommandError(INVALID_FIELD.with_dnr())
    return int(value())


def property_set(association: Association, command: ReceivedCommand) -> None:
    """Sets CC, the only property that can be set; raises `CommandError`."""
    fields = PropertySetCommand.unpack(command.sqe)
    if fields.ofst != Property.CC or fields.size != PROPERTY_4_BYTES or fields.value >> 32:
        raise CommandError(INVALID_FIELD.with_dnr())
    old, new = association.cc, Cc(fields.value)
    _check_cc(old, new)
    if new.en and not old.en and association.state is not State.DISABLED:
        # CC.EN may be set again only after CSTS.RDY=0 was seen.
        raise CommandError(COMMAND_SEQUENCE_ERROR.with_dnr())
    association.cc = new
    if old.en and not new.en:
        if association.state in {State.ENABLED, State.SHUTTING_DOWN, State.SHUT_DOWN}:
            association.set_state(State.RESETTING)
        return
    if new.en and not old.en:
        association.set_state(State.ENABLED)
    if new.shn and not old.shn and association.state in {State.DISABLED, State.ENABLED}:
        association.set_state(State.SHUTTING_DOWN)


def _check_cc(old: Cc, new: Cc) -> None:
    if (
        new.value & ~_CC_FIELDS
        or new.shn == 3
        or new.css != 0
        or new.ams != 0
        or new.mps > _MPSMAX
        # Discovery controllers have no I/O queues; their hosts leave the entry sizes zero.
        or new.iosqes not in {0, _IOSQES}
        or new.iocqes not in {0, _IOCQES}
        or (old.en and new.en and (old.mps, old.ams, old.css) != (new.mps, new.ams, new.css))
    ):
        raise CommandError(INVALID_FIELD.with_dnr())
