"""A namespace in bytes: any alignment, any length, whatever becomes of the connection.

It outlives associations: while there is none, I/O waits (see `io_engine`).  Writes that are not
whole LBAs are read, merged and written under the range lock, which aligned writes respect too;
where the write is lost with its association, it starts again at its read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from nvmf_transport.errors import ConfigError, LocalProtocolError
from nvmf_transport.nvme import DsmRange
from nvmf_transport.wire import Buffer

from .errors import EndOfNamespaceError, ReadOnlyError, UnsupportedError
from .io_engine import IoEngine
from .io_path import IoPath
from .io_request import IoRequest, Kind
from .messages import NamespaceInfo
from .range_lock import Held, RangeLock
from .scan import NamespaceDescription
from .state import NamespaceState

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
        self.engine = IoEngine(name, partial(on_recheck, self))
        self._connected_read_only = read_only
        #: The name of the node that shows the same bytes over another path, and came first.
        self.same_as: str | None = None
        self._lock = RangeLock()

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
    def can_flush(self) -> bool:
        """True where the controller has a volatile write cache."""
        path = self.engine.path
        return path is not None and path.can_flush

    async def read(self, offset: int, length: int) -> Buffer:
        """Returns up to `length` bytes from `offset`: fewer at the end, none past it.

        Waits while the namespace is not live.  Raises `CommandError`, `DataDigestError`,
        `NamespaceGoneError`.
        """
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        slba, nlb = self._lbas(offset, length)
        data = bytearray(nlb * self.lba_bytes)
        await self._perform_read(self.engine.next_order(), slba, nlb, memoryview(data))
        if nlb * self.lba_bytes == length:
            return data
        start = offset - slba * self.lba_bytes
        return memoryview(data)[start : start + length]

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        """Writes `data` at `offset`; returns how much of it lies before the end.

        With `fua` it is on the medium on return (Force Unit Access).  Raises what `read` raises,
        `ReadOnlyError`, and `EndOfNamespaceError` where it begins at or past the end.
        """
        self._check_writable()
        if not len(data):
            return 0
        length = min(len(data), self.size_bytes - offset)
        if length <= 0:
            raise EndOfNamespaceError(
                f"{self.name}: write at {offset} of a namespace of {self.size_bytes} bytes"
            )
        if length < len(data):
            data = memoryview(data)[:length]
        slba, nlb = self._lbas(offset, length)
        order = self.engine.next_order()
        held = self._lock.enter(slba, slba + nlb)
        await self._lock.wait(held)
        if nlb * self.lba_bytes != length:
            await self._write_unaligned(held, order, offset, data, fua=fua)
            return length
        request = IoRequest(
            Kind.WRITE, order, slba, nlb, lba_bytes=self.lba_bytes, data=data, fua=fua
        )
        with self._holding(held, request):
            await self.engine.perform(request)
        return length

    async def flush(self) -> None:
        """Returns once every write acknowledged before is on the medium (Flush).

        Goes after all writes that came before it.  Waits while the namespace is not live, also
        where there is no volatile cache.
        """
        order = self.engine.next_order()
        await self._lock.drain()
        await self.engine.perform(IoRequest(Kind.FLUSH, order))

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
        limited = [piece for slba, nlb in ranges for piece in _pieces(slba, nlb, 0xFFFFFFFF)]
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
            for start, nlb in _pieces(slba, length_lbas, window):
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
        for start, nlb in _pieces(slba, length_lbas, _ZEROES_WINDOW_BYTES // self.lba_bytes):
            await self.write(
                start * self.lba_bytes, memoryview(zeroes)[: nlb * self.lba_bytes], fua=fua
            )

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
            waiting_requests=self.engine.waiting,
            ambiguous_writes=len(self.engine.ambiguous),
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
            await self.engine.perform(IoRequest(Kind.READ, self.engine.next_order()))

    async def _perform_read(
        self, order: int, slba: int, nlb: int, into: memoryview, *, ambiguous: bool = False
    ) -> None:
        request = IoRequest(
            Kind.READ,
            order,
            slba,
            nlb,
            lba_bytes=self.lba_bytes,
            data=into,
            ambiguous=ambiguous,
        )
        await self.engine.perform(request)

    async def _perform_change(self, request: IoRequest) -> None:
        held = self._lock.enter(request.slba, request.slba + request.nlb)
        await self._lock.wait(held)
        with self._holding(held, request):
            await self.engine.perform(request)

    @contextmanager
    def _holding(self, held: Held, request: IoRequest) -> Iterator[None]:
        """Gives the range back when the request's commands have ended, even if nobody waits."""
        try:
            yield
        finally:
            self._let_go(held, request)

    def _let_go(self, held: Held, request: IoRequest | None) -> None:
        if request is not None and request.outstanding:
            request.on_idle = partial(self._lock.release, held)
        else:
            self._lock.release(held)

    async def _write_unaligned(
        self, held: Held, order: int, offset: int, data: Buffer, *, fua: bool
    ) -> None:
        size = self.lba_bytes
        slba, nlb = held.start, held.end - held.start
        start = offset - slba * size
        last_is_whole = (start + len(data)) % size == 0
        request: IoRequest | None = None
        try:
            while True:
                again = request is not None and request.ambiguous
                merged = bytearray(nlb * size)
                view = memoryview(merged)
                if start or nlb == 1:
                    await self._perform_read(order, slba, 1, view[:size], ambiguous=again)
                if not last_is_whole and nlb > 1:
                    await self._perform_read(
                        order, slba + nlb - 1, 1, view[-size:], ambiguous=again
                    )
                view[start : start + len(data)] = data
                request = IoRequest(
                    Kind.WRITE,
                    order,
                    slba,
                    nlb,
                    lba_bytes=size,
                    data=merged,
                    fua=fua,
                    restarts=True,
                    ambiguous=again,
                )
                if await self.engine.perform(request):
                    return
        finally:
            self._let_go(held, request)


def _pieces(slba: int, nlb: int, longest: int) -> Iterator[tuple[int, int]]:
    while nlb:
        piece = min(nlb, longest)
        yield slba, piece
        slba += piece
        nlb -= piece
