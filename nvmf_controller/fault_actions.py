"""What a fault plan can do, and the names that it is called by in a plan.

`docs/faults.md` describes each with an example.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from nvmf_transport.errors import ConfigError
from nvmf_transport.faults import PduFault, PduKind, PduMutation
from nvmf_transport.status import Status


class When(enum.Enum):
    """Which moment of a command a fault strikes at."""

    #: It is not executed (a delay excepted: it is, later).
    BEFORE = "before"
    #: It is executed, its answer is not sent (a delay excepted: it is, later).
    AFTER = "after"
    #: It is executed and its answer is on its way.
    ANSWERED = "answered"


class Scope(enum.Enum):
    """What a cut takes."""

    QUEUE = "queue"
    ASSOCIATION = "association"


class Part(enum.Enum):
    """What `flip` flips one bit of."""

    HEADER_DIGEST = "header_digest"
    DATA_DIGEST = "data_digest"
    PAYLOAD = "payload"


def _at_least(low: float, high: float | None = None) -> Callable[[Any, Any, Any], None]:
    """A validator whose error names field, value and remedy."""

    def check(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
        if value < low or (high is not None and value > high):
            remedy = f"give {low:g} or more" if high is None else f"give {low:g} to {high:g}"
            raise ConfigError(remedy, field=attribute.name, value=value)

    return check


def _one_of(*allowed: enum.Enum) -> Callable[[Any, Any, Any], None]:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: enum.Enum) -> None:
        if value not in allowed:
            names = " or ".join(str(one.value) for one in allowed)
            raise ConfigError(f"give {names}", field=attribute.name, value=value.value)

    return check


_NOT_ANSWERED: Final = _one_of(When.BEFORE, When.AFTER)
_POSITIVE: Final = _at_least(1)


@attrs.frozen(kw_only=True)
class Delay:
    """Lets time pass before the command is executed, or between that and its answer."""

    do: Literal["delay"] = "delay"
    seconds: float = attrs.field(validator=_at_least(0))
    when: When = attrs.field(default=When.BEFORE, validator=_NOT_ANSWERED)


@attrs.frozen(kw_only=True)
class Drop:
    """Never answers."""

    do: Literal["drop"] = "drop"
    when: When = attrs.field(default=When.BEFORE, validator=_NOT_ANSWERED)


@attrs.frozen(kw_only=True)
class Answer:
    """Answers with a status of the plan's choice."""

    do: Literal["status"] = "status"
    sct: int = attrs.field(validator=_at_least(0, 7))
    sc: int = attrs.field(validator=_at_least(0, 255))
    dnr: bool = False
    when: When = attrs.field(default=When.BEFORE, validator=_NOT_ANSWERED)

    @property
    def status(self) -> Status:
        """As a value."""
        return Status(self.sct, self.sc, dnr=self.dnr)


@attrs.frozen(kw_only=True)
class Close:
    """Closes the connection in order: everything that was queued is sent first."""

    do: Literal["close"] = "close"
    scope: Scope = Scope.QUEUE
    when: When = When.BEFORE


@attrs.frozen(kw_only=True)
class Reset:
    """Breaks the connection, by RST on TCP; what was queued is lost."""

    do: Literal["reset"] = "reset"
    scope: Scope = Scope.QUEUE
    when: When = When.BEFORE


@attrs.frozen(kw_only=True)
class Ghost:
    """Takes the command, cuts, lets the host in again at once, and executes the command later."""

    do: Literal["ghost"] = "ghost"
    seconds: float = attrs.field(validator=_at_least(0))
    scope: Scope = Scope.ASSOCIATION


@attrs.frozen(kw_only=True)
class Truncate:
    """Closes the connection in the middle of a PDU."""

    do: Literal["truncate"] = "truncate"
    pdu: PduKind = PduKind.RESPONSE
    bytes: int = attrs.field(default=8, validator=_at_least(0))

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation.TRUNCATE, self.bytes)


@attrs.frozen(kw_only=True)
class Flip:
    """Flips one bit of a digest or of the data."""

    do: Literal["flip"] = "flip"
    part: Part
    pdu: PduKind = PduKind.DATA

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation[self.part.name])


@attrs.frozen(kw_only=True)
class WrongCid:
    """Sends a PDU for another command."""

    do: Literal["wrong_cid"] = "wrong_cid"
    pdu: PduKind = PduKind.RESPONSE
    add: int = attrs.field(default=1000, validator=_at_least(1, 65535))

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation.CID, self.add)


@attrs.frozen(kw_only=True)
class ShortData:
    """Sends less data than was asked for, and says that it is all."""

    do: Literal["short_data"] = "short_data"
    bytes: int = attrs.field(default=4, validator=_POSITIVE)

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(PduKind.DATA, PduMutation.SHORT, self.bytes)


@attrs.frozen(kw_only=True)
class OverlappingData:
    """Sends a part of the data twice."""

    do: Literal["overlapping_data"] = "overlapping_data"
    bytes: int = attrs.field(default=4, validator=_POSITIVE)

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(PduKind.DATA, PduMutation.OVERLAP, self.bytes)


@attrs.frozen(kw_only=True)
class BadOffset:
    """Asks for data, or sends it, that begins elsewhere than it should: R2TO or DATAO."""

    do: Literal["bad_offset"] = "bad_offset"
    pdu: PduKind = attrs.field(default=PduKind.R2T, validator=_one_of(PduKind.R2T, PduKind.DATA))
    add: int = attrs.field(default=1 << 20, validator=_POSITIVE)

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation.OFFSET, self.add)


@attrs.frozen(kw_only=True)
class BadLength:
    """Asks for more data than there is, or says so of what it sends: R2TL or DATAL."""

    do: Literal["bad_length"] = "bad_length"
    pdu: PduKind = attrs.field(default=PduKind.R2T, validator=_one_of(PduKind.R2T, PduKind.DATA))
    add: int = attrs.field(default=4096, validator=_POSITIVE)

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation.LENGTH, self.add)


@attrs.frozen(kw_only=True)
class BadPlen:
    """Sends a PDU whose PLEN is not its length."""

    do: Literal["bad_plen"] = "bad_plen"
    pdu: PduKind = PduKind.RESPONSE
    add: int = attrs.field(default=1 << 20, validator=_POSITIVE)

    @property
    def fault(self) -> PduFault:
        """For the transport."""
        return PduFault(self.pdu, PduMutation.PLEN, self.add)


@attrs.frozen(kw_only=True)
class GrantQueues:
    """Grants the host's controller fewer I/O queues than it asks for, from now on."""

    do: Literal["grant_queues"] = "grant_queues"
    queues: int = attrs.field(validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class LoseCache:
    """Drops what `--volatile-cache` holds: of one namespace, or of all."""

    do: Literal["lose_cache"] = "lose_cache"
    nsid: int | None = None


@attrs.frozen(kw_only=True)
class OtherData:
    """The namespace keeps its identity, and all its blocks become zeroes.

    They come from memory: a file behind the namespace is left as it is.
    """

    do: Literal["other_data"] = "other_data"
    nsid: int = attrs.field(default=1, validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class NewIdentity:
    """The namespace keeps its data and gets another UUID."""

    do: Literal["new_identity"] = "new_identity"
    nsid: int = attrs.field(default=1, validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class Remap:
    """Two namespaces change their NSIDs; one that is alone gets the other NSID."""

    do: Literal["remap"] = "remap"
    nsid: int = attrs.field(validator=_POSITIVE)
    to: int = attrs.field(validator=_POSITIVE)


@attrs.frozen(kw_only=True)
class Resize:
    """The namespace gets another size, at most what its store holds."""

    do: Literal["resize"] = "resize"
    nsid: int = attrs.field(default=1, validator=_POSITIVE)
    blocks: int = attrs.field(validator=_POSITIVE)


PduAction = (
    Truncate | Flip | WrongCid | ShortData | OverlappingData | BadOffset | BadLength | BadPlen
)
SubsystemAction = LoseCache | OtherData | NewIdentity | Remap | Resize
CommandAction = Delay | Drop | Answer | Close | Reset | Ghost | GrantQueues | PduAction
Action = CommandAction | SubsystemAction

ACTIONS: Final[dict[str, type[Action]]] = {
    attrs.fields(kind).do.default: kind
    for kind in (
        Delay,
        Drop,
        Answer,
        Close,
        Reset,
        Ghost,
        Truncate,
        Flip,
        WrongCid,
        ShortData,
        OverlappingData,
        BadOffset,
        BadLength,
        BadPlen,
        GrantQueues,
        LoseCache,
        OtherData,
        NewIdentity,
        Remap,
        Resize,
    )
}
