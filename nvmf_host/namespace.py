"""A namespace in bytes: any alignment, any length, whatever becomes of the connection.

It outlives associations: while there is none, I/O waits (see `io_engine`).  Writes that are not
whole LBAs are read, merged and written under the range lock, which aligned writes respect too;
where the write is lost with its association, it starts again at its read.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from nvmf_transport import heap
from nvmf_transport.errors import (
    CommandError,
    ConfigError,
    DataDigestError,
    LocalProtocolError,
    NamespaceGoneError,
    NotConnectedError,
)
from nvmf_transport.nvme import DsmRange
from nvmf_transport.wire import Buffer

from . import launch
from .change_line import ChangeLine
from .errors import EndOfNamespaceError, KilledError, ReadOnlyError, UnsupportedError
from .fencing import Fence
from .io_engine import IoEngine
from .io_path import IoPath, pieces
from .io_request import IoRequest, Kind, Opener
from .launch import Launch
from .messages import NamespaceInfo
from .quarantine import Quarantine
from .relief import Relief
from .scan import NamespaceDescription
from .state import NamespaceState
from .unaligned import write_unaligned
from .verdict import SubsystemIdentity
from .waits import Wait, waits_of

#: An enumeration's members are looked up by a call (Python 3.11), which every request would make.
_READ: Final = Kind.READ
_WRITE: Final = Kind.WRITE
_LIVE: Final = NamespaceState.LIVE
#: Zeroing works through its range in windows, so that it never holds more than this many commands.
_ZEROES_WINDOW_COMMANDS: Final = 32
#: Where a controller has no Write Zeroes, zeroes are written, this many bytes at a time.
_ZEROES_WINDOW_BYTES: Final = 1 << 20


class Namespace:
    """One namespace of one controller: the file `nvmeXnsY` is a thin cover of this."""

    def __init__(
        self,
        name: str,
        description: NamespaceDescription,
        *,
        read_only: bool,
        on_recheck: Callable[["Namespace", str], None],
    ) -> None:
        """`on_recheck` is told when a status asks for the namespace to be identified again."""
        self.name = name
        self.nsid = description.nsid
        self.description = description
        self.lba_bytes = description.lba_bytes
        self.engine = IoEngine(name, partial(on_recheck, self), lba_bytes=self.lba_bytes)
        self._connected_read_only = read_only
        #: The name of the node that shows the same bytes over another path, and came first.
        self.same_as: str | None = None
        self.line = ChangeLine()
        self._relief = Relief()
        #: What the last scan has found in its place; None while it is being identified.
        self.offered: NamespaceDescription | None = None
        #: The way over which what was lost of a volatile cache is being written again, by hand.
        self.rewriting: IoPath | None = None
        #: Of associations that such writes were lost with.
        self.rewrite_fences: list[Fence] = []
        #: The subsystem that it belongs to; set when it is first live.
        self.subsystem: SubsystemIdentity | None = None

    @property
    def quarantine(self) -> Quarantine:
        """LBAs on which old copies of lost changes may still land."""
        return self.line.quarantine

    @property
    def size_bytes(self) -> int:
        """The size as the controller last reported it."""
        return self.description.size_lbas * self.lba_bytes

    @property
    def state(self) -> NamespaceState:
        """What happens to I/O."""
        return self.engine.state

    @property
    def read_only(self) -> bool:
        """True where writes are refused: write-protected, connected read-only, a second path."""
        return (
            self._connected_read_only
            or self.description.write_protected
            or self.same_as is not None
        )

    @property
    def last_error(self) -> str:
        """What failed last, or why I/O waits."""
        return self.engine.reason or self.engine.last_error

    @property
    def losses(self) -> int:
        """How often acknowledged writes were given up as lost; an fsync that spans one fails."""
        return self.engine.losses

    @property
    def can_flush(self) -> bool:
        """True where the controller has a volatile write cache."""
        path = self.engine.path
        return path is not None and path.can_flush

    def read(
        self,
        offset: int,
        length: int,
        *,
        opener: Opener | None = None,
        into: bytearray | memoryview | None = None,
    ) -> Coroutine[Any, Any, Buffer]:
        """Returns up to `length` bytes from `offset`: fewer at the end, none past it.

        Waits while the namespace is not live.  Raises `CommandError`, `DataDigestError`,
        `NamespaceGoneError`.

        Where the range is whole LBAs and `into` has room for it, it is read there, and what is
        returned is a view of that.  Where this raises, or is cancelled, `into` must not be used
        for anything else ever: commands that are outstanding still write to it.
        """
        size = self.lba_bytes
        rest = self.description.size_lbas * size - offset
        if length > rest:
            length = rest
        if length <= 0:
            return _nothing()
        slba, nlb = self._lbas(offset, length)
        whole_bytes = nlb * size
        data: bytearray | memoryview
        if into is not None and whole_bytes == length <= len(into):
            data = memoryview(into)[:length]
        else:
            # A response whose data is not all in is an error, so nobody sees what was there before.
            data = heap.fresh(whole_bytes)
        engine = self.engine
        request = engine.transfer(_READ, slba, nlb, data, opener)
        if whole_bytes != length:
            start = offset - slba * size
            data = memoryview(data)[start : start + length]
        # Not awaited here: nothing is done afterwards, and it is a coroutine less to go through.
        return engine.perform(request, data)

    async def write(
        self, offset: int, data: Buffer, *, fua: bool = False, opener: Opener | None = None
    ) -> int:
        """Writes `data` at `offset`; returns how much of it lies before the end.

        With `fua` it is on the medium on return (Force Unit Access).  Raises what `read` raises,
        `ReadOnlyError`, and `EndOfNamespaceError` where it begins at or past the end.
        """
        self._check_writable()
        size = self.lba_bytes
        given_bytes = len(data)
        if not given_bytes:
            return 0
        rest = self.description.size_lbas * size - offset
        length = given_bytes
        if length > rest:
            length = rest
        if length <= 0:
            raise EndOfNamespaceError(
                f"{self.name}: write at {offset} of a namespace of {self.size_bytes} bytes"
            )
        if type(data) is not bytes and not memoryview(data).readonly:
            # Whoever gives up waiting may use it for something else while it is still being sent.
            data = bytes(data)
        if length < given_bytes:
            data = memoryview(data)[:length]
        slba, nlb = self._lbas(offset, length)
        engine, line = self.engine, self.line
        request = engine.transfer(_WRITE, slba, nlb, data, opener)
        if fua:
            request.fua = True
        engine.check()
        held = line.enter(request)
        if held.blockers:
            await line.wait(held, request)
        if nlb * size != length:
            await write_unaligned(engine, line, held, request, offset)
        else:
            try:
                await engine.perform(request)
            finally:
                line.let_go(held, request)
        await self.relieve(opener)
        return length

    def launch_read(self, offset: int, length: int, opener: Opener | None) -> Launch | None:
        """Sends a read without a task; None where only `read` can: see `launch`."""
        return launch.read(self, offset, length, opener)

    def launch_write(
        self, offset: int, data: Buffer, opener: Opener | None, *, fua: bool
    ) -> Launch | None:
        """Sends a write without a task; None where only `write` can: see `launch`."""
        return launch.write(self, offset, data, opener, fua=fua)

    async def flush(self, *, opener: Opener | None = None) -> None:
        """Returns once every write acknowledged before is on the medium (Flush).

        Goes after all writes that came before it.  Waits while the namespace is not live, also
        where there is no volatile cache.
        """
        request = IoRequest(Kind.FLUSH, self.engine.next_order(), opener=opener)
        await self.line.pass_barrier(request)
        await self.engine.perform(request)

    async def deallocate(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Deallocates (SLBA, LBAs) ranges with Dataset Management; what they read as then is up to
        the controller.

        Raises `UnsupportedError` where the controller does not offer it.
        """
        self._check_writable()
        if not ranges:
            return
        for slba, nlb in ranges:
            self._check_lbas(slba, nlb)
        path = await self._live_path()
        if not path.can_deallocate:
            raise UnsupportedError(f"{self.name}: the controller has no Dataset Management (ONCS)")
        limited = [piece for slba, nlb in ranges for piece in pieces(slba, nlb, 0xFFFFFFFF)]
        first = min(slba for slba, _ in limited)
        end = max(slba + nlb for slba, nlb in limited)
        for start in range(0, len(limited), DsmRange.MAX_RANGES):
            chunk = limited[start : start + DsmRange.MAX_RANGES]
            request = IoRequest(
                Kind.DEALLOCATE, self.engine.next_order(), first, end - first, ranges=chunk
            )
            await self._perform_change(request)

    async def write_zeroes(
        self, slba: int, length_lbas: int, *, fua: bool = False, deallocate: bool = False
    ) -> None:
        """Makes LBAs read as zeroes: Write Zeroes, or written zeroes where that is not offered."""
        self._check_writable()
        self._check_lbas(slba, length_lbas)
        path = await self._live_path()
        if path.can_write_zeroes:
            window = path.max_lbas * _ZEROES_WINDOW_COMMANDS
            for start, nlb in pieces(slba, length_lbas, window):
                request = IoRequest(
                    Kind.WRITE_ZEROES,
                    self.engine.next_order(),
                    start,
                    nlb,
                    fua=fua,
                    deallocate=deallocate,
                )
                await self._perform_change(request)
            return
        zeroes = bytes(_ZEROES_WINDOW_BYTES)
        for start, nlb in pieces(slba, length_lbas, _ZEROES_WINDOW_BYTES // self.lba_bytes):
            await self.write(
                start * self.lba_bytes, memoryview(zeroes)[: nlb * self.lba_bytes], fua=fua
            )

    def end(self, reason: str) -> None:
        """The namespace is gone: what waits fails, and so does what comes."""
        self.engine.end(reason)
        self.line.fail_all(NamespaceGoneError(f"{self.name}: {reason}"))

    def fail_fast(self, reason: str) -> None:
        """What waits fails, and so does what comes, until a namespace that is not live resumes."""
        if self.state is _LIVE:
            return
        self.engine.fail_fast(reason)
        self.line.fail_all(NotConnectedError(f"{self.name}: {reason}"))

    def fail_stuck(self, reason: str) -> int:
        """Fails what waits for LBAs in quarantine; returns how many requests that were."""
        stuck = [queued.request for queued in self.line.queued() if queued.stuck]
        for request in stuck:
            self.line.fail(request, NotConnectedError(f"{self.name}: {reason}"))
        return len(stuck)

    @property
    def has_waiting_changes(self) -> bool:
        """True where writes, zeroes or deallocations wait, or have an unknown outcome."""
        return self.engine.has_waiting_changes or any(
            queued.request.kind is not Kind.FLUSH for queued in self.line.queued()
        )

    def waits(self) -> list[Wait]:
        """The requests that somebody waits for."""
        return waits_of(self.engine, self.line, self._relief)

    def kill(self, request: IoRequest) -> None:
        """Ends the wait for a request; what was sent goes on by itself."""
        error = KilledError(f"{self.name}: whoever waited has been killed")
        self.engine.kill(request, error)
        self.line.fail(request, error)
        self._relief.kill(request)

    def info(self) -> NamespaceInfo:
        """What `devlist` and the extended attributes show."""
        ids = self.description.identifiers
        return NamespaceInfo(
            name=self.name,
            nsid=self.nsid,
            state=self.state.value,
            reason=self.engine.reason,
            lba_bytes=self.lba_bytes,
            size_bytes=self.size_bytes,
            size_lbas=self.description.size_lbas,
            read_only=self.read_only,
            uuid=ids.get("UUID"),
            nguid=ids.get("NGUID"),
            eui64=ids.get("EUI64"),
            same_as=self.same_as,
            last_error=self.last_error,
            waiting_requests=self.engine.waiting + len(self.line),
            ambiguous_writes=len(self.engine.ambiguous),
            quarantined_ranges=len(self.quarantine),
            unflushed_bytes=self.engine.log.held_bytes,
            replayed_writes=self.engine.replayed,
            quarantined_writes=self.quarantine.total,
        )

    # Internals.

    def _lbas(self, offset: int, length: int) -> tuple[int, int]:
        """The LBAs that bytes touch, as (SLBA, LBAs)."""
        if offset < 0:
            raise LocalProtocolError(f"{self.name}: offset {offset} is before the beginning")
        size = self.lba_bytes
        slba = offset // size
        return slba, -(-(offset + length) // size) - slba

    def _check_writable(self) -> None:
        if self.read_only:
            same_as = self.same_as
            why = (
                f"it is the same namespace as {same_as}; write there"
                if same_as is not None
                else "it is write-protected or connected read-only"
            )
            raise ReadOnlyError(f"{self.name}: {why}")

    def _check_lbas(self, slba: int, nlb: int) -> None:
        size = self.description.size_lbas
        if slba < 0 or nlb < 1 or slba + nlb > size:
            raise ConfigError(
                f"{self.name} has LBAs 0 to {size - 1}; give a range within",
                field="slba",
                value=f"{slba}+{nlb}",
            )

    async def _live_path(self) -> IoPath:
        """The path, after a wait for there to be one."""
        while True:
            path = self.engine.path
            if path is not None:
                return path
            # A read of nothing waits for the namespace to be live, and fails where it goes; it
            # sends no command, which could fail by itself.
            look = IoRequest(Kind.READ, self.engine.next_order(), for_change=True)
            await self.engine.perform(look)

    async def _perform_change(self, request: IoRequest) -> None:
        self.engine.check()
        held = self.line.enter(request)
        if held.blockers:
            await self.line.wait(held, request)
        with self.line.holding(held, request):
            await self.engine.perform(request)
        await self.relieve(request.opener)

    async def relieve(self, opener: Opener | None) -> None:
        """Flushes, where no more of what is unflushed can be remembered."""
        if not self.engine.log.is_full:
            return
        request = IoRequest(Kind.FLUSH, self.engine.next_order(), opener=opener)
        try:
            await self._relief.join(request, lambda: self.flush(opener=opener))
        except (CommandError, DataDigestError) as error:
            # The write itself was acknowledged.  What was remembered must go, and with it the proof
            # that it is still there: whoever asks for durability is told.
            self.engine.give_up_unflushed(f"{self.name}: unflushed writes were forgotten: {error}")


async def _nothing() -> bytes:
    return b""
