"""A data path with an open file that does what a test says, and a kernel that is played."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import attrs
import trio
import trio.testing

from fusedev.data_path import DataPath
from fusedev.handles import Usage
from nvmf_host.io_request import IoRequest, Kind
from nvmf_transport.wire import Buffer

from .kernel import Kernel, playing

HANDLE: Final = 5


@attrs.define(eq=False)
class FakeLaunch:
    """A request that ends when the test says so, well or by what `see_through` does."""

    file: "FakeFile"
    request: IoRequest
    data: Buffer
    concludes: bool = True
    unforeseen: Exception | None = None
    concluded: int = 0

    def conclude(self) -> bool:
        self.concluded += 1
        if self.unforeseen is not None:
            raise self.unforeseen
        return self.concludes

    async def see_through(self) -> None:
        await self.file.gate.wait()
        if self.file.error is not None:
            raise self.file.error

    def end(self) -> None:
        """Its response has come."""
        on_end, self.request.on_end = self.request.on_end, None
        assert on_end is not None
        on_end()


@attrs.define(eq=False)
class FakeFile:
    """An open file; launches where `launching`, else takes a task, which waits for the gate."""

    usage: Usage
    launching: bool = True
    #: A launched request is sent at once; where not, it waits for its LBAs.
    outstanding: bool = True
    gate: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None
    late_error: Exception | None = None
    launches: list[FakeLaunch] = attrs.field(factory=list)
    calls: list[tuple[Any, ...]] = attrs.field(factory=list)
    waiting: int = 0

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error

    async def read(self, offset: int, length: int) -> Buffer:
        self.calls.append(("read", offset, length))
        await self._wait()
        return b"r" * length

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        self.calls.append(("write", offset, data, fua))
        await self._wait()
        return len(data)

    async def sync(self) -> None:
        self.calls.append(("sync",))
        await self._wait()

    def launch_read(self, offset: int, length: int) -> Any:
        if not self.launching:
            return None
        self.calls.append(("launch read", offset, length))
        return self._launched(IoRequest(Kind.READ, 0), bytearray(b"r" * length), 0)

    def launch_write(self, offset: int, data: Buffer, *, fua: bool) -> Any:
        if not self.launching:
            return None
        self.calls.append(("launch write", offset, data, fua))
        return self._launched(IoRequest(Kind.WRITE, 0, fua=fua), data, len(data))

    def _launched(self, request: IoRequest, data: Buffer, write_bytes: int) -> FakeLaunch:
        request.outstanding = int(self.outstanding)
        self.usage.requests += 1
        self.usage.write_bytes += write_bytes
        self.launches.append(FakeLaunch(self, request, data))
        return self.launches[-1]

    def wrote(self, launch: Any) -> None:
        if self.late_error is not None:
            raise self.late_error

    def close(self) -> None:
        raise AssertionError


@attrs.define(eq=False)
class FakeLoop:
    """What `Turn` does for the data path."""

    sends: list[int] = attrs.field(factory=list)
    #: How many requests are launched by now.
    launched: Callable[[], int] = lambda: 0
    fd: int = -1
    take: Callable[[], object] = bool
    before_waiting: Callable[[], object] = bool

    def attend(
        self, fd: int, take: Callable[[], object], before_waiting: Callable[[], object]
    ) -> None:
        self.fd, self.take, self.before_waiting = fd, take, before_waiting

    def send(self) -> None:
        self.sends.append(self.launched())


@attrs.define(eq=False)
class Stage:
    """A data path with one file that it serves to one kernel."""

    kernel: Kernel
    file: FakeFile
    usage: Usage
    loop: FakeLoop
    gone: trio.Event = attrs.field(factory=trio.Event)
    forgotten: list[tuple[int, int]] = attrs.field(factory=list)
    #: What is asked about nodes, and what is answered; None is for pyfuse3.
    inquiries: list[tuple[int, int, bytes]] = attrs.field(factory=list)
    told: bytes | int | None = None
    data: DataPath = attrs.field(init=False)
    #: Where it runs.
    nursery: trio.Nursery = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.data = DataPath(
            self.kernel.device,
            {HANDLE: self.file},
            self.usage,
            lambda node, count: self.forgotten.append((node, count)),
            self.inquire,
            self.loop,
        )

    def inquire(self, opcode: int, node: int, request: memoryview) -> bytes | int | None:
        self.inquiries.append((opcode, node, bytes(request[40:])))
        return self.told

    async def settle(self) -> list[bytes]:
        """Lets everything happen that can; returns the answers."""
        await trio.testing.wait_all_tasks_blocked()
        return self.kernel.waiting()

    def idle(self) -> None:
        """Nothing is left of any request."""
        assert (self.usage.requests, self.usage.write_bytes) == (0, 0)
        assert self.data._under_way == 0


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Stage]:
    usage = Usage()
    file = FakeFile(usage, **options)
    with playing() as kernel:
        loop = FakeLoop(launched=lambda: len(file.launches))
        stage = Stage(kernel, file, usage, loop)
        async with trio.open_nursery() as nursery:
            stage.nursery = nursery
            nursery.start_soon(stage.data.run, stage.gone)
            await trio.testing.wait_all_tasks_blocked()
            yield stage
            nursery.cancel_scope.cancel()
