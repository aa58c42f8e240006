"""Waiting, and sending again: what I/O of a namespace goes through (`perseverance` retries).

    LIVE       requests are sent as they come
    HELD       they wait: no association, or the namespace is being identified
    REPLAYING  ambiguous writes are sent again in the order of their arrival; the rest waits
    PAUSED     they wait for a hand
    GONE       they fail

Ambiguous are the writes that were sent and not answered when their association ended.  Two of them
never overlap (see `range_lock`).  They go before everything else, so that a Flush goes after them.

While it fails fast, a namespace that is not live fails its requests instead of letting them wait.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

import trio

from nvmf_transport.errors import NamespaceGoneError, NotConnectedError
from nvmf_transport.wire import Buffer

from .cache_log import CacheLog, Written
from .io_path import IoPath
from .io_request import IoRequest, Kind, Opener
from .perseverance import persevere
from .state import NAMESPACE_TRANSITIONS, NamespaceState, PauseCause, moved

_ResultT = TypeVar("_ResultT")
_S = NamespaceState
#: An enumeration's members are looked up by a call (Python 3.11), which every request would make.
_LIVE: Final = NamespaceState.LIVE
_READ: Final = Kind.READ
_FLUSH: Final = Kind.FLUSH


class IoEngine:
    """The requests of one namespace, whatever becomes of its associations."""

    def __init__(
        self, name: str, on_recheck: Callable[[str], None], *, lba_bytes: int = 512
    ) -> None:
        """`on_recheck(reason)` asks for the namespace to be identified, then resumed again."""
        self.state = _S.HELD
        self.reason = "not connected yet"
        self.last_error = ""
        self.name = name
        self._on_recheck = on_recheck
        self._path: IoPath | None = None
        self._order = 0
        self._clock: Callable[[], float] = trio.current_time
        #: Every request that somebody waits for.
        self._active: dict[IoRequest, None] = {}
        #: Those of them that are to be sent when the namespace is live.
        self._waiting: dict[int, IoRequest] = {}
        self._ambiguous: dict[int, IoRequest] = {}
        #: Changes that were answered with an error and are tried again: parts may have been done.
        self._refused: dict[int, IoRequest] = {}
        #: Those that were ambiguous when the namespace went, until they are acknowledged after all.
        self._interrupted: dict[int, IoRequest] = {}
        #: Why requests fail rather than wait, "" where they wait.
        self._failing = ""
        #: What was acknowledged and may be in a volatile cache still.
        self.log = CacheLog(lba_bytes)
        self._lba_bytes = lba_bytes
        #: How often acknowledged writes were given up as lost: an fsync that spans one must fail.
        self.losses = 0
        #: How many ambiguous writes were sent again, and acknowledged.
        self.replayed = 0
        #: An association was lost since the log was last held against the medium.
        self.unverified = False
        #: When the namespace lost its path, None while it has one.
        self.lost_at: float | None = None
        #: Why it is paused, where it is.
        self.cause = PauseCause.IDENTITY

    @property
    def path(self) -> IoPath | None:
        """The way to the namespace, while there is one."""
        return self._path

    @property
    def waiting(self) -> int:
        """Requests that wait for the namespace to be live."""
        return len(self._waiting)

    @property
    def ambiguous(self) -> list[tuple[int, int]]:
        """(SLBA, LBAs) of the ambiguous writes."""
        requests = _in_order(self._interrupted | self._ambiguous)
        return [span for request in requests for span in request.spans()]

    @property
    def unknown(self) -> list[Written]:
        """What writes without an outcome may have changed, or may not, oldest first."""
        requests = _in_order(self._interrupted | self._refused | self._ambiguous)
        return [change for request in requests for change in request.changes(known=False)]

    @property
    def dirty(self) -> bool:
        """True where acknowledged writes may still be in a volatile cache."""
        return len(self.log) > 0

    @property
    def active(self) -> list[IoRequest]:
        """Requests that somebody waits for, in the order of their coming."""
        return list(self._active)

    def is_waiting(self, request: IoRequest) -> bool:
        """True where a request is to be sent when the namespace is live."""
        # An unaligned write and its reads have one place in the order.
        return self._waiting.get(request.order) is request

    @property
    def has_waiting_changes(self) -> bool:
        """True where writes, zeroes or deallocations that somebody waits for are not over."""
        return any(request.for_change for request in self._active)

    def sends(self, path: IoPath | None, *, ambiguous: bool) -> bool:
        """True where a request that begins now is sent at once, and over this path."""
        sending = self.state is _S.LIVE or (self.state is _S.REPLAYING and ambiguous)
        return sending and self._path is path

    def kill(self, request: IoRequest, error: Exception) -> None:
        """Ends the wait for a request with `error`."""
        if request in self._active and not request.finished:
            self._waiting.pop(request.order, None)
            request.abandon(error)

    def recheck(self, reason: str) -> None:
        """Asks for the namespace to be identified, then resumed again, after a while."""
        self._on_recheck(reason)

    def next_order(self) -> int:
        """The place of a new request in the order of arrival."""
        self._order += 1
        return self._order

    def transfer(
        self,
        kind: Kind,
        slba: int,
        nlb: int,
        data: Buffer,
        opener: Opener | None,
    ) -> IoRequest:
        """A new Read or Write of whole LBAs, next in the order of arrival."""
        self._order = order = self._order + 1
        return IoRequest(kind, order, slba, nlb, self._lba_bytes, data, opener, self._clock())

    # What the controller does with the namespace.

    def hold(self, reason: str) -> None:
        """Lets I/O wait; what was sent goes on."""
        if self.state is not _S.GONE:
            if self.state is not _S.HELD:
                self._move(_S.HELD)
            self.reason = reason
            self._withdraw()

    def fail_fast(self, reason: str) -> None:
        """Fails what waits and what comes, until the namespace resumes."""
        self._failing = reason
        self._waiting.clear()
        for request in self._unfinished():
            # One that is outstanding may be so until the association has been taken down.
            request.abandon(NotConnectedError(f"{self.name}: {reason}"))

    def check(self) -> None:
        """Raises where a request would fail at once."""
        if self.state is _LIVE:
            return
        if self.state is _S.GONE:
            raise NamespaceGoneError(f"{self.name}: {self.reason}")
        if self._failing and self.state is not _S.REPLAYING:
            raise NotConnectedError(f"{self.name}: {self._failing}")

    def lose_path(self) -> None:
        """The association is over: called after `hold`, once all its commands have ended."""
        self._path = None
        if self.lost_at is None:
            self.lost_at = trio.current_time()
        if len(self.log):
            self.unverified = True

    def resume(self, path: IoPath) -> None:
        """Lets a held namespace go, over `path`."""
        self._path = path
        # trio.current_time() goes through three calls to come here, for every request.
        self._clock = trio.lowlevel.current_clock().current_time
        self._failing = ""
        self.lost_at = None
        if self._ambiguous:
            self.reason = "writes that were interrupted are being sent again"
            self._move(_S.REPLAYING)
            for order in sorted(self._ambiguous):
                request = self._waiting.pop(order, None)
                if request is not None and self.state is _S.REPLAYING:
                    request.start(path)
        else:
            self._go_live()

    def pause(self, reason: str, cause: PauseCause) -> None:
        """Lets I/O of a held namespace wait for a hand."""
        self._move(_S.PAUSED)
        # Whatever is at its NSID now, nothing more is sent there.
        self._path = None
        self.reason = reason
        self.cause = cause

    def end(self, reason: str) -> None:
        """The namespace is gone: all that waits fails."""
        if self.state is _S.GONE:
            return
        self._move(_S.GONE)
        self.reason = reason
        self._withdraw()
        # Failing them does not settle what became of them.
        self._interrupted = dict(self._ambiguous)
        self._waiting.clear()
        for request in self._unfinished():
            if not request.outstanding:
                request.fail(NamespaceGoneError(f"{self.name}: {reason}"))

    # What a request goes through.

    @overload
    async def perform(self, request: IoRequest) -> None: ...

    @overload
    async def perform(self, request: IoRequest, result: _ResultT) -> _ResultT: ...

    async def perform(self, request: IoRequest, result: Any = None) -> Any:
        """Sees a request through; returns `result`.

        Raises `CommandError`, `DataDigestError` or `NamespaceGoneError`.  Where the wait is
        cancelled, commands that are outstanding stay so: see `request.on_idle`.
        """
        self._active[request] = None
        try:
            # What nearly every request goes through, in one coroutine.
            mark = self.begin(request)
            if not request.finished:
                request.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(request.abandon_wait)
            if not request.well:
                await persevere(self, request, mark)
            elif request.kind is not _READ:
                self.acknowledge(request, mark)
        except BaseException:
            self._give_up(request)
            raise
        else:
            return result
        finally:
            del self._active[request]

    def launch(self, request: IoRequest) -> None:
        """Sends a request of a live namespace that no task waits for: see `launch`.

        Then `conclude` it, when its attempt has ended, or `see_through`.
        """
        assert self._path is not None
        self._active[request] = None
        try:
            request.start(self._path)
        except BaseException:
            self._give_up(request)
            del self._active[request]
            raise

    def conclude(self, request: IoRequest) -> bool:
        """The end of a launched request whose attempt has ended well; else False: `see_through`."""
        if not request.well:
            # A namespace that resumes before a task has come to see it through has to know.
            self.note_doubt(request)
            return False
        if request.kind is not _READ:
            self.acknowledge(request, 0)
        del self._active[request]
        return True

    async def see_through(self, request: IoRequest) -> None:
        """Goes on with a launched request whose attempt has not ended well: see `perform`."""
        try:
            await persevere(self, request, 0)
        except BaseException:
            self._give_up(request)
            raise
        finally:
            del self._active[request]

    def note_doubt(self, request: IoRequest) -> None:
        """The attempt of a change has failed.  One that was sent, and not answered, is ambiguous.

        Where somebody gave it up, that is until a task comes that has it fail.
        """
        if not request.is_change:
            return
        if request.outstanding or (request.lost and request.sent):
            request.ambiguous = True
            self._ambiguous[request.order] = request
        elif request.status:
            self._refused[request.order] = request

    def _give_up(self, request: IoRequest) -> None:
        """It is over without a success."""
        self._waiting.pop(request.order, None)
        # Not what an unaligned write reads: that has its order, and is not it.
        if request.is_change:
            self._settle(request.order)
            self._remember(request, known=False)

    def _settle(self, order: int) -> None:
        """A change has an outcome; the last ambiguous one lets everything else go."""
        self._refused.pop(order, None)
        settled = self._ambiguous.pop(order, None) is not None
        if settled and not self._ambiguous and self.state is _S.REPLAYING:
            self._go_live()

    def begin(self, request: IoRequest) -> int:
        """Sends a request, or lets it wait; returns the log's mark where it is a Flush."""
        mark = self.log.mark() if request.kind is _FLUSH else 0
        state = self.state
        if state is _LIVE or (state is _S.REPLAYING and request.ambiguous):
            assert self._path is not None
            request.start(self._path)
        else:
            self.check()
            request.finished = False
            self._waiting[request.order] = request
        return mark

    def _withdraw(self) -> None:
        """What waits for a CID is not sent: its NSID may be another namespace's by then."""
        if self._path is not None:
            self._path.withdraw()

    def acknowledge(self, request: IoRequest, mark: int) -> None:
        """A request has succeeded; `mark` is what `begin` returned."""
        if request.is_change:
            self._remember(request, known=True)
            if request.ambiguous:
                self.replayed += 1
                self._interrupted.pop(request.order, None)
            if request.ambiguous or self._refused:
                self._settle(request.order)
        elif request.kind is _FLUSH:
            self.log.flushed(mark)

    def _remember(self, request: IoRequest, *, known: bool) -> None:
        """A change has an outcome: this data, or, not `known`, this or what was there before."""
        if request.path is None or not request.path.can_flush or not request.is_change:
            return
        if known and request.fua and not len(self.log):
            # On the medium, and there is nothing older that it would have to supersede.
            return
        for change in request.changes(known=known):
            self.log.add(change)

    def give_up_unflushed(self, why: str) -> None:
        """Acknowledged writes are lost, or may be: the next fsync of whoever wrote fails."""
        self.log.clear()
        self.unverified = False
        self.losses += 1
        self.last_error = why

    def _go_live(self) -> None:
        self._move(_S.LIVE)
        self.reason = self._failing = ""
        path = self._path
        assert path is not None
        for order in sorted(self._waiting):
            if self.state is not _S.LIVE:
                return
            self._waiting.pop(order).start(path)

    def _unfinished(self) -> list[IoRequest]:
        """Requests whose attempt, or whose wait for one, has not ended."""
        return sorted(
            (request for request in self._active if not request.finished),
            key=lambda request: request.order,
        )

    def _move(self, new: NamespaceState) -> None:
        self.state = moved(NAMESPACE_TRANSITIONS, self.state, new)


def _in_order(requests: dict[int, IoRequest]) -> list[IoRequest]:
    return [requests[order] for order in sorted(requests)]
