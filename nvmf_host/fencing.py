"""Fences: whether the controller of an association that ended may still execute what it received.

Seen on real targets: write A is lost in flight, the host reconnects and sends A again, B is written
over it and acknowledged, and then the first A lands.  B is gone, without an error.  The late copy
carries the same bytes as its repetition, so repeating at once is safe; letting anything newer onto
the same LBAs is not, until the old controller is known to have stopped.

That is known, whichever comes first:

- when a controller that offers Cross-Controller Reset was reset or shut down over its own admin
  queue, and that was seen.  Of others it proves nothing: Linux's target (6.12) shows CSTS.RDY=0 at
  once, whatever its disk is at, and a newer write was lost that way;
- when a Cross-Controller Reset of it was answered (Base 2.3);
- a time after our last byte to it: twice the Keep Alive Timeout, three times with traffic based
  keep alive, and the Command Quiesce Time (Base 2.1, section 3.9.4 and 9.6);
- when the operator vouches for it.
"""

from collections.abc import Callable
from typing import Final

import attrs

#: Keep Alive Timeouts until a controller that hears nothing more has noticed, at the latest.
_PERIODS: Final = 2
#: With traffic based keep alive it looks once a period whether there was any traffic.
_PERIODS_TBKAS: Final = 3


@attrs.define(eq=False)
class Fence:
    """One association that ended, or will."""

    cntlid: int
    #: Identify Controller's CIU and CIRN, 0 where it has none: what Cross-Controller Reset names.
    ciu: int = 0
    cirn: int = 0
    #: Granted; 0: this fence is never lifted by time.
    kato_s: float = 0.0
    traffic_based: bool = False
    #: Command Quiesce Time.
    cqt_s: float = 0.0
    #: Set when the association has ended: the time at which it is lifted, None for never.
    lifts_at: float | None = None
    #: How it was lifted, "" while it stands.
    lifted: str = ""
    _callbacks: list[Callable[[], None]] = attrs.field(init=False, factory=list)
    _on_ended: list[Callable[[], None]] = attrs.field(init=False, factory=list)

    @property
    def stands(self) -> bool:
        """True while the old controller may still execute commands."""
        return not self.lifted

    @property
    def matters(self) -> bool:
        """True where something waits for it to be lifted."""
        return bool(self._callbacks)

    @property
    def wait_s(self) -> float | None:
        """How long after the last byte it is lifted by time, None for never."""
        if not self.kato_s:
            return None
        return (_PERIODS_TBKAS if self.traffic_based else _PERIODS) * self.kato_s + self.cqt_s

    def names_the_same(self, other: "Fence") -> bool:
        """True where Cross-Controller Reset cannot tell the two controllers apart."""
        return (self.cntlid, self.ciu, self.cirn) == (other.cntlid, other.ciu, other.cirn)

    def association_ended(self, last_byte_at: float) -> None:
        """Starts the clock; `last_byte_at` is when the last byte can have left."""
        wait_s = self.wait_s
        self.lifts_at = None if wait_s is None else last_byte_at + wait_s
        callbacks, self._on_ended = self._on_ended, []
        for callback in callbacks:
            callback()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Calls back once `lifts_at` is known; never where it is."""
        self._on_ended.append(callback)

    def look(self, now: float) -> None:
        """Lifts the fence where its time has come."""
        if self.stands and self.lifts_at is not None and now >= self.lifts_at:
            self.lift("by time: the old controller has noticed the loss")

    def lift(self, how: str) -> None:
        """The old controller executes nothing any more."""
        if self.stands:
            self.lifted = how
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback()

    def when_lifted(self, callback: Callable[[], None]) -> None:
        """Calls back once it is lifted; at once where it is."""
        if self.stands:
            self._callbacks.append(callback)
        else:
            callback()


def when_all_lifted(fences: list[Fence], callback: Callable[[], None]) -> None:
    """Calls back once none of `fences` stands; at once where none does."""
    standing = [fence for fence in fences if fence.stands]
    missing = len(standing)
    if not missing:
        callback()
        return

    def one_lifted() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            callback()

    for fence in standing:
        fence.when_lifted(one_lifted)


class Fences:
    """The fences of one controller's ended associations that still stand."""

    def __init__(self, on_adopted: Callable[[], None] = lambda: None) -> None:
        """`on_adopted` is called when `next_at` has changed by what another controller left."""
        self._standing: list[Fence] = []
        self._on_adopted = on_adopted

    def __len__(self) -> int:
        return len(self._standing)

    def add(self, fence: Fence, last_byte_at: float) -> None:
        """An association has ended; its last byte left no later than `last_byte_at`."""
        fence.association_ended(last_byte_at)
        if fence.stands and fence not in self._standing:
            self._standing.append(fence)

    def adopt(self, fence: Fence) -> None:
        """Another controller's, which is gone; a namespace of this one depends on it."""
        if fence.stands and fence not in self._standing:
            self._standing.append(fence)
            fence.when_ended(self._on_adopted)
            self._on_adopted()

    def standing(self) -> list[Fence]:
        """Those that stand now."""
        self._standing = [fence for fence in self._standing if fence.stands]
        return list(self._standing)

    def look(self, now: float) -> None:
        """Lifts those whose time has come."""
        for fence in self.standing():
            fence.look(now)
        self.standing()

    def next_at(self) -> float:
        """When `look` will lift the next one; infinity where time lifts none."""
        times = [fence.lifts_at for fence in self.standing() if fence.lifts_at is not None]
        return min(times, default=float("inf"))

    def lift_all(self, how: str) -> None:
        """Somebody vouches for all of them."""
        for fence in self.standing():
            fence.lift(how)
        self.standing()
