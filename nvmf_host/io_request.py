"""One I/O request: cut into commands by the limits of the moment, done when all have ended.

A request belongs to the task that waits for it, but its commands do not: they end by themselves,
and with them what they hold, also when nobody waits any more.
"""

import enum
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Final, TypedDict, TypeVar, Unpack

import attrs
import outcome
import trio

from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.wire import Buffer

from .cache_log import Effect, Written
from .fencing import Fence
from .io_path import IoPath, dsm_sqe, io_sqe, pack_dsm_ranges, rw_cdw12
from .patience import Patience
from .qpair import Command


class Kind(enum.Enum):
    """What a request does; the value names it in messages."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    WRITE_ZEROES = "write-zeroes"
    DEALLOCATE = "deallocate"


_ResultT = TypeVar("_ResultT")

#: An enumeration's members are looked up by a call (Python 3.11), which every request would make.
_READ: Final = Kind.READ
_WRITE: Final = Kind.WRITE
_FLUSH: Final = Kind.FLUSH
_DEALLOCATE: Final = Kind.DEALLOCATE
_SURE: Final = Effect.SURE
_READ_OPCODE: Final = int(NvmOpcode.READ)
_WRITE_OPCODE: Final = int(NvmOpcode.WRITE)


class _Ended(outcome.Outcome[None]):
    """What a task gets that waited for a request: nothing, and so one serves all.

    trio would make a new one each time, which can be taken apart once and costs 0.5 us.
    """

    def unwrap(self) -> None:
        """Returns what the wait returns."""

    def send(self, gen: Generator[_ResultT, None, object]) -> _ResultT:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[_ResultT, None]) -> _ResultT:
        return await agen.asend(None)


_ENDED: Final = _Ended()


@attrs.frozen
class Opener:
    """The process that opened the file that a request came through."""

    pid: int
    uid: int


class Rest(TypedDict, total=False):
    """What only some requests have, see `IoRequest`."""

    fua: bool
    deallocate: bool
    ranges: list[tuple[int, int]]
    merge: "Callable[[IoRequest], Awaitable[memoryview]]"
    patience: Patience | None
    ambiguous: bool
    for_change: bool


class IoRequest:
    """`start` sends it; `wait` returns when every command of this attempt has ended.

    `data` is read from or written to until then.  `order` is that of arrival.

    What nearly all requests have alike stays with the class until it is another: assigning it to
    each took as long as all the rest.
    """

    fua = False
    deallocate = False
    ranges: list[tuple[int, int]] | None = None
    #: Of a write that is not whole LBAs: makes the data of each attempt but the first.
    merge: "Callable[[IoRequest], Awaitable[memoryview]] | None" = None
    #: What it shares with other requests; else it has its own.
    patience: Patience | None = None
    #: It was tried again after a delay, over the same path: that shows in nothing else.
    has_slept = False
    #: Sent and not answered on an association that ended: goes first when I/O resumes.
    ambiguous = False
    lost = False
    #: A command was sent, and its response never came.
    stranded = False
    digest_error = False
    #: The first bad status of the attempt, without phase tag; 0 for none.
    status = 0
    #: Set where the request is failed from outside, while it waits.
    error: Exception | None = None
    on_idle: Callable[[], None] | None = None
    #: Called in place of waking a task, where the attempt has ended or the wait is to.
    on_end: Callable[[], None] | None = None

    def __init__(
        self,
        kind: Kind,
        order: int,
        slba: int = 0,
        nlb: int = 0,
        lba_bytes: int = 0,
        data: Buffer | None = None,
        opener: Opener | None = None,
        since: float | None = None,
        **rest: Unpack[Rest],
    ) -> None:
        self.kind = kind
        #: It changes data, and so is ambiguous when sent and not answered.  `for_change`: or it is
        #: what somebody does first who is about to.
        self.is_change = self.for_change = kind is not _READ and kind is not _FLUSH
        self.order = order
        self.slba = slba
        self.nlb = nlb
        self.lba_bytes = lba_bytes
        self.data = None if data is None else memoryview(data)
        self.opener = opener
        self.since = trio.current_time() if since is None else since
        #: Of the associations that this change was lost with: old copies of it may still land.
        self.fences: list[Fence] = []
        #: The way that the last attempt was sent.
        self.path: IoPath | None = None
        #: Commands of this attempt that have not ended.
        self.outstanding = 0
        self.sent = self.finished = False
        #: No command of the attempt has failed or was lost, so far.
        self.well = True
        self.task: trio.lowlevel.Task | None = None
        for name, value in rest.items():
            setattr(self, name, value)

    def spans(self) -> list[tuple[int, int]]:
        """(SLBA, LBAs) that it changes: `slba` and `nlb` are the hull of a deallocation's."""
        if self.kind is Kind.DEALLOCATE:
            return self.ranges or []
        return [(self.slba, self.nlb)]

    def changes(self, *, known: bool) -> list[Written]:
        """What it has changed, or, not `known`, may have."""
        if self.kind is _DEALLOCATE:
            return [Written(slba, nlb, effect=Effect.ANYTHING) for slba, nlb in self.spans()]
        effect = _SURE if known else Effect.PERHAPS
        return [Written(self.slba, self.nlb, self.data, effect)]

    def start(self, path: IoPath) -> None:
        """Sends the commands of this request; may finish at once."""
        if self.path is not None:
            self.finished = self.lost = self.sent = self.stranded = self.digest_error = False
            self.well = True
            self.status = 0
        self.path = path
        kind = self.kind
        if (kind is _READ or kind is _WRITE) and path.fits(self.slba, self.nlb):
            # Nearly every request is one of these, and one command.
            self.outstanding = 1
            path.queue().submit(self._transfer(path.nsid, self.slba, self.nlb, self.data))
            return
        commands = self._commands(path)
        self.outstanding = len(commands)
        if not commands:
            self._end()
        for command in commands:
            path.queue().submit(command)

    def fail(self, error: Exception) -> None:
        """Ends a request that is not outstanding."""
        self.error = error
        self.well = False
        self._end()

    def abandon(self, error: Exception) -> None:
        """Ends the wait with `error`; commands that are outstanding end by themselves."""
        if not self.outstanding:
            self.fail(error)
        elif self.task is not None:
            self.error = error
            self.well = False
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, _ENDED)
        elif self.on_end is not None:
            self.error = error
            self.well = False
            on_end, self.on_end = self.on_end, None
            on_end()

    async def wait(self) -> None:
        """Waits for the end of the attempt.  Cancelling abandons the wait, not the commands."""
        if not self.finished:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self.abandon_wait)

    def abandon_wait(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """What trio calls where the wait is cancelled."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _commands(self, path: IoPath) -> list[Command]:
        kind, nsid = self.kind, path.nsid
        if kind is _READ or kind is _WRITE:
            return [
                self._transfer(nsid, slba, nlb, self._slice(slba, nlb))
                for slba, nlb in path.split(self.slba, self.nlb)
            ]
        done = self._part_done
        match kind:
            case Kind.FLUSH:
                # Without a volatile cache there is nothing to flush; that it waits is what counts.
                return [Command(io_sqe(NvmOpcode.FLUSH, nsid, 0), done)] if path.can_flush else []
            case Kind.WRITE_ZEROES:
                return [
                    Command(
                        io_sqe(
                            NvmOpcode.WRITE_ZEROES,
                            nsid,
                            slba,
                            rw_cdw12(nlb, fua=self.fua, deallocate=self.deallocate),
                        ),
                        done,
                    )
                    for slba, nlb in path.split(self.slba, self.nlb)
                ]
            case Kind.DEALLOCATE:
                ranges = self.ranges or []
                return [Command(dsm_sqe(nsid, len(ranges)), done, data_out=pack_dsm_ranges(ranges))]
            case _:
                raise AssertionError(kind)

    def _transfer(self, nsid: int, slba: int, nlb: int, data: memoryview | None) -> Command:
        """The Read or Write of these LBAs."""
        if self.kind is _READ:
            sqe = io_sqe(_READ_OPCODE, nsid, slba, nlb - 1)
            return Command(sqe, self._part_done, None, data)
        sqe = io_sqe(_WRITE_OPCODE, nsid, slba, rw_cdw12(nlb, fua=True) if self.fua else nlb - 1)
        return Command(sqe, self._part_done, data)

    def _slice(self, slba: int, nlb: int) -> memoryview:
        assert self.data is not None
        start = (slba - self.slba) * self.lba_bytes
        return self.data[start : start + nlb * self.lba_bytes]

    def _part_done(self, command: Command) -> None:
        response = command.response
        if response is None:
            self.well = False
            self.lost = True
            self.stranded = self.stranded or command.sent
            self.sent = self.sent or command.sent
        else:
            self.sent = True
            if response.digest_error:
                self.well = False
                self.digest_error = True
            elif response.status:
                self.well = False
                self.status = self.status or response.status
        self.outstanding -= 1
        if not self.outstanding:
            self._end()

    def _end(self) -> None:
        self.finished = True
        if self.stranded and self.is_change:
            assert self.path is not None
            self.fences.append(self.path.fence)
        task = self.task
        if task is not None:
            self.task = None
            trio.lowlevel.reschedule(task, _ENDED)
        elif self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end()
        elif self.on_idle is not None:
            self.on_idle()
