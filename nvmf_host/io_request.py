"""One I/O request: cut into commands by the limits of the moment, done when all have ended.

A request belongs to the task that waits for it, but its commands do not: they end by themselves,
and with them what they hold, also when nobody waits any more.
"""

import enum
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final, TypeVar

import attrs
import outcome
import trio

from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.wire import Buffer

from .cache_log import Effect, Written
from .fencing import Fence
from .io_path import IoPath, dsm_sqe, io_sqe, pack_dsm_ranges, rw_cdw12
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


class IoRequest:
    """`start` sends it; `wait` returns when every command of this attempt has ended.

    `data` is read from or written to until then.  `order` is that of arrival.
    """

    __slots__ = (
        "ambiguous",
        "data",
        "deallocate",
        "digest_error",
        "error",
        "fences",
        "finished",
        "for_change",
        "fua",
        "is_change",
        "kind",
        "lba_bytes",
        "lost",
        "nlb",
        "on_idle",
        "opener",
        "order",
        "outstanding",
        "path",
        "ranges",
        "restarts",
        "sent",
        "since",
        "slba",
        "status",
        "stranded",
        "task",
    )

    def __init__(
        self,
        kind: Kind,
        order: int,
        slba: int = 0,
        nlb: int = 0,
        lba_bytes: int = 0,
        data: Buffer | None = None,
        opener: Opener | None = None,
        fua: bool = False,
        deallocate: bool = False,
        ranges: list[tuple[int, int]] | None = None,
        restarts: bool = False,
        ambiguous: bool = False,
        for_change: bool = False,
        fences: list[Fence] | None = None,
    ) -> None:
        self.kind = kind
        #: It changes data, and so is ambiguous when sent and not answered.
        self.is_change = kind is not _READ and kind is not _FLUSH
        self.order = order
        self.slba = slba
        self.nlb = nlb
        self.lba_bytes = lba_bytes
        self.data = None if data is None else memoryview(data)
        self.fua = fua
        self.deallocate = deallocate
        self.ranges = ranges
        #: The caller begins again where an attempt was lost, rather than this request being resent.
        self.restarts = restarts
        #: Sent and not answered on an association that ended: goes first when I/O resumes.
        self.ambiguous = ambiguous
        #: It changes data, or is what somebody does first who is about to.
        self.for_change = for_change or self.is_change
        #: Of the associations that this change was lost with: old copies of it may still land.
        self.fences: list[Fence] = [] if fences is None else fences
        self.path: IoPath | None = None
        self.opener = opener
        self.since = trio.current_time()
        self.outstanding = 0
        self.finished = False
        self.lost = False
        self.sent = False
        #: A command was sent, and its response never came.
        self.stranded = False
        self.digest_error = False
        #: The first bad status of the attempt, without phase tag; 0 for none.
        self.status = 0
        #: Set where the request is failed from outside, while it waits.
        self.error: Exception | None = None
        self.task: trio.lowlevel.Task | None = None
        self.on_idle: Callable[[], None] | None = None

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
        self.finished = self.lost = self.sent = self.stranded = self.digest_error = False
        self.status = 0
        self.path = path
        commands = self._commands(path)
        self.outstanding = len(commands)
        if not commands:
            self._end()
        for command in commands:
            path.queue().submit(command)

    def fail(self, error: Exception) -> None:
        """Ends a request that is not outstanding."""
        self.error = error
        self._end()

    def abandon(self, error: Exception) -> None:
        """Ends the wait with `error`; commands that are outstanding end by themselves."""
        if not self.outstanding:
            self.fail(error)
        elif self.task is not None:
            self.error = error
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, _ENDED)

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
            # Nearly every request is one of these, and one command.
            if path.fits(self.slba, self.nlb):
                return [self._transfer(nsid, self.slba, self.nlb, self.data)]
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
        sqe = io_sqe(_WRITE_OPCODE, nsid, slba, rw_cdw12(nlb, fua=self.fua))
        return Command(sqe, self._part_done, data)

    def _slice(self, slba: int, nlb: int) -> memoryview:
        assert self.data is not None
        start = (slba - self.slba) * self.lba_bytes
        return self.data[start : start + nlb * self.lba_bytes]

    def _part_done(self, command: Command) -> None:
        response = command.response
        if response is None:
            self.lost = True
            self.stranded = self.stranded or command.sent
            self.sent = self.sent or command.sent
        else:
            self.sent = True
            if response.digest_error:
                self.digest_error = True
            elif response.status and not self.status:
                self.status = response.status
        self.outstanding -= 1
        if not self.outstanding:
            self._end()

    def _end(self) -> None:
        self.finished = True
        if self.stranded and self.is_change:
            assert self.path is not None
            self.fences.append(self.path.fence)
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, _ENDED)
        elif self.on_idle is not None:
            self.on_idle()
