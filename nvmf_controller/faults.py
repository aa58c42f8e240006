"""Fault plans: which command, connection or moment meets with which fault.

A decision and nothing else: no I/O, no clock of its own, no task.  The same plan and the same
commands give the same faults, chance included, whatever transport they come over.
"""

import enum
import itertools
import random
from collections.abc import Iterator
from typing import Final

import attrs

from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import ConnectCommand, FabricsType
from nvmf_transport.nvme import ADMIN_QID, AdminOpcode, NvmOpcode, SubmissionEntry

from .fault_actions import (
    Action,
    Close,
    Delay,
    Drop,
    Ghost,
    LoseCache,
    NewIdentity,
    OtherData,
    Remap,
    Reset,
    Resize,
)

_ADMIN, _IO = "admin", "io"
ANY_QUEUE: Final = "any"
QUEUES: Final = (_ADMIN, _IO, ANY_QUEUE)
#: By name: the queue that the opcode belongs to, the opcode, and the type of a Fabrics command.
OPCODES: Final[dict[str, tuple[str, int, int | None]]] = (
    {code.name.lower(): (_ADMIN, int(code), None) for code in AdminOpcode}
    | {code.name.lower(): (_IO, int(code), None) for code in NvmOpcode}
    | {kind.name.lower(): (ANY_QUEUE, int(AdminOpcode.FABRICS), int(kind)) for kind in FabricsType}
)
#: Commands that name a range of blocks in CDW10 to CDW12.
_WITH_RANGE: Final = frozenset(
    {
        NvmOpcode.WRITE,
        NvmOpcode.READ,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.COMPARE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.VERIFY,
    }
)


class On(enum.Enum):
    """What a rule is about."""

    COMMAND = "command"
    #: A new connection, before the first byte is said.
    ACCEPT = "accept"
    TIME = "time"


_ALLOWED: Final = {
    On.ACCEPT: (Delay, Drop, Close, LoseCache, OtherData, NewIdentity, Remap, Resize),
    On.TIME: (Close, Reset, LoseCache, OtherData, NewIdentity, Remap, Resize),
}
#: Selectors that mean nothing for rules of these kinds.
_COMMANDS_ONLY: Final = ("queue", "opcode", "nsid", "lba")
_FOREIGN: Final = {
    On.COMMAND: ("every_s",),
    On.ACCEPT: (*_COMMANDS_ONLY, "every_s"),
    On.TIME: (*_COMMANDS_ONLY, "nth", "every"),
}


def _refuse(field: str, value: object, what: str) -> ConfigError:
    return ConfigError(what, field=field, value=value)


@attrs.frozen(kw_only=True)
class Rule:
    """One rule.  Everything but the action narrows what it strikes; times are since the start."""

    action: Action
    on: On = On.COMMAND
    #: "admin", "io", "any", or a QID.
    queue: str | int = ANY_QUEUE
    #: Names or numbers; none is every opcode.
    opcode: tuple[str | int, ...] = ()
    nsid: int | None = None
    #: First and last LBA of a range that the command's has to overlap.
    lba: tuple[int, int] | None = None
    #: Of what matches all the above: the nth, and from there every so many.
    nth: int | None = None
    every: int | None = None
    #: Of a rule of time: again after each such span.
    every_s: float | None = None
    after_s: float = 0.0
    until_s: float | None = None
    probability: float = 1.0
    #: At most so many times.
    count: int | None = None
    name: str = ""

    def __attrs_post_init__(self) -> None:
        self._check_values()
        for name in _FOREIGN[self.on]:
            value = getattr(self, name)
            if value != getattr(attrs.fields(Rule), name).default:
                raise _refuse(name, value, f"not for on = {self.on.value!r}; leave it out")
        allowed = _ALLOWED.get(self.on)
        if allowed is not None and not isinstance(self.action, allowed):
            possible = ", ".join(str(attrs.fields(kind).do.default) for kind in allowed)
            raise _refuse(
                "action.do", self.action.do, f"not for on = {self.on.value!r}; give {possible}"
            )
        if isinstance(self.action, Ghost) and self.queue in {_ADMIN, ADMIN_QID}:
            raise _refuse("queue", self.queue, "ghosts are I/O commands; give queue = 'io'")

    def _check_values(self) -> None:
        if isinstance(self.queue, str) and self.queue not in QUEUES:
            raise _refuse("queue", self.queue, f"give {', '.join(QUEUES)} or a number")
        if isinstance(self.queue, int) and not 0 <= self.queue <= 65535:
            raise _refuse("queue", self.queue, "give a QID from 0 to 65535")
        for code in self.opcode:
            if isinstance(code, str) and code not in OPCODES:
                raise _refuse("opcode", code, f"give a number or one of {', '.join(OPCODES)}")
            if isinstance(code, int) and not 0 <= code <= 255:
                raise _refuse("opcode", code, "give a number from 0 to 255")
        if self.lba is not None and not 0 <= self.lba[0] <= self.lba[1]:
            raise _refuse("lba", list(self.lba), "give the first and the last LBA")
        for name in ("nth", "every", "count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _refuse(name, value, "give at least 1")
        if self.every_s is not None and self.every_s <= 0:
            raise _refuse("every_s", self.every_s, "give more than 0")
        if not 0 <= self.probability <= 1:
            raise _refuse("probability", self.probability, "give a number from 0 to 1")
        if self.after_s < 0:
            raise _refuse("after_s", self.after_s, "give 0 or more")
        if self.until_s is not None and self.until_s <= self.after_s:
            raise _refuse("until_s", self.until_s, f"give more than after_s, {self.after_s:g}")

    def matches(self, qid: int, entry: SubmissionEntry) -> bool:
        """True where queue, opcode, namespace and range are those of the rule."""
        side = _ADMIN if qid == ADMIN_QID else _IO
        if self.queue not in {ANY_QUEUE, side, qid}:
            return False
        if self.opcode and not any(_is_opcode(code, side, entry) for code in self.opcode):
            return False
        fabrics = entry.opc == AdminOpcode.FABRICS
        if self.nsid is not None and (fabrics or entry.nsid != self.nsid):
            return False
        if self.lba is None:
            return True
        if fabrics or side == _ADMIN or entry.opc not in _WITH_RANGE:
            return False
        last = entry.slba + (entry.cdw12 & 0xFFFF)
        return entry.slba <= self.lba[1] and self.lba[0] <= last


def _is_opcode(code: str | int, side: str, entry: SubmissionEntry) -> bool:
    if isinstance(code, int):
        return entry.opc == code
    queue, number, fctype = OPCODES[code]
    # A Fabrics command has its type where others have the NSID.
    return (
        queue in {ANY_QUEUE, side}
        and entry.opc == number
        and (fctype is None or entry.nsid & 0xFF == fctype)
    )


@attrs.frozen(kw_only=True)
class FaultPlan:
    """A whole plan, as a file has it.  `seed` decides what chance does."""

    rule: tuple[Rule, ...] = ()
    seed: int = 0


@attrs.define(eq=False)
class _Counters:
    rule: Rule
    chance: random.Random
    matched: int = 0
    struck: int = 0

    def strikes(self, elapsed_s: float) -> bool:
        """Counts one match; True where the rule's turn has come."""
        rule = self.rule
        if elapsed_s < rule.after_s or (rule.until_s is not None and elapsed_s >= rule.until_s):
            return False
        if rule.count is not None and self.struck >= rule.count:
            return False
        self.matched += 1
        first = rule.nth or rule.every or 1
        step = rule.every or (0 if rule.nth else 1)
        past = self.matched - first
        if past < 0 or (past % step if step else past):
            return False
        if rule.probability < 1 and self.chance.random() >= rule.probability:
            return False
        self.struck += 1
        return True


class Faults:
    """A plan at work: counts what happens and says what is to go wrong."""

    def __init__(self, plan: FaultPlan, *, started_at: float) -> None:
        self.plan = plan
        self.started_at = started_at
        #: For what a fault makes up: a UUID.
        self.chance = random.Random(plan.seed)  # noqa: S311 - it is to be repeatable
        self._counters = [
            _Counters(rule, random.Random(f"{plan.seed}/{index}"))  # noqa: S311
            for index, rule in enumerate(plan.rule)
        ]

    @property
    def struck(self) -> list[int]:
        """How often each rule has struck, in the order of the plan."""
        return [counters.struck for counters in self._counters]

    def of_command(self, qid: int, sqe: bytes, now: float) -> list[Action]:
        """What is to happen to this command, in the order of the plan.

        `qid` is that of the queue, or for CONNECT the one that is asked for (`qid_of`).
        """
        entry = SubmissionEntry.unpack(sqe)
        return [
            counters.rule.action
            for counters in self._counters
            if counters.rule.on is On.COMMAND
            and counters.rule.matches(qid, entry)
            and counters.strikes(now - self.started_at)
        ]

    def of_connection(self, now: float) -> list[Action]:
        """What is to happen to a new connection."""
        return [
            counters.rule.action
            for counters in self._counters
            if counters.rule.on is On.ACCEPT and counters.strikes(now - self.started_at)
        ]

    def moments(self) -> "list[Moment]":
        """The rules of time, each with its own counting."""
        return [Moment(c, self.started_at) for c in self._counters if c.rule.on is On.TIME]


@attrs.frozen(eq=False)
class Moment:
    """A rule of time: it strikes `after_s` after the start, then again every `every_s`."""

    _counters: _Counters
    _started_at: float

    def times(self) -> Iterator[float]:
        """When its turn comes."""
        rule = self._counters.rule
        for index in itertools.count():
            at = rule.after_s + index * (rule.every_s or 0)
            if (index and rule.every_s is None) or (rule.until_s is not None and at > rule.until_s):
                return
            if rule.count is not None and self._counters.struck >= rule.count:
                return
            yield self._started_at + at

    def strike(self) -> Action | None:
        """The action, where chance allows it."""
        rule = self._counters.rule
        if rule.probability < 1 and self._counters.chance.random() >= rule.probability:
            return None
        self._counters.struck += 1
        return rule.action


def qid_of(sqe: bytes) -> int | None:
    """The QID that a CONNECT asks for; None where this is another command."""
    fields = ConnectCommand.unpack(sqe)
    if fields.opc != AdminOpcode.FABRICS or fields.fctype != FabricsType.CONNECT:
        return None
    return int(fields.qid)
