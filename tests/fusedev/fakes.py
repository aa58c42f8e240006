"""A host in memory that does what a test says, for the mount to serve."""

import enum
import json
import time
from collections.abc import Callable
from typing import Any

import attrs
import trio

from nvmf_host.errors import EndOfNamespaceError, KilledError, ReadOnlyError
from nvmf_host.io_request import IoRequest, Kind, Opener
from nvmf_host.messages import ControllerInfo, NamespaceInfo, Parameter
from nvmf_host.waits import Wait
from nvmf_transport.errors import CommandError, NamespaceGoneError, ShutdownError
from nvmf_transport.status import RESERVATION_CONFLICT


class EventKind(enum.Enum):
    ADDED = enum.auto()
    REMOVED = enum.auto()
    CHANGED = enum.auto()


@attrs.frozen
class NodeEvent:
    kind: EventKind
    name: str


@attrs.define(eq=False)
class FakeNamespace:
    """A namespace in memory.  `pause` makes everything wait until `resume`."""

    name: str
    data: bytearray
    nsid: int = 1
    lba_bytes: int = 512
    read_only: bool = False
    same_as: str | None = None
    fails_with: Exception | None = None
    #: What was asked of it, in order: ("write", offset, length, fua) and so on.
    calls: list[tuple[Any, ...]] = attrs.field(factory=list)
    waiting: int = 0
    losses: int = 0
    #: Who waits for what.
    requests: dict[IoRequest, trio.CancelScope] = attrs.field(factory=dict)
    _gate: trio.Event = attrs.field(factory=trio.Event)
    _end: Exception | None = None

    def __attrs_post_init__(self) -> None:
        self._gate.set()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def pause(self) -> None:
        self._gate = trio.Event()

    def resume(self) -> None:
        self._gate.set()

    def end(self, error: Exception) -> None:
        """Everything waiting fails, and everything to come."""
        self._end = error
        self._gate.set()

    async def _live(self, kind: Kind, opener: Opener | None) -> None:
        self.waiting += 1
        request = IoRequest(kind, 0, opener=opener)
        scope = self.requests[request] = trio.CancelScope()
        try:
            with scope:
                await self._gate.wait()
        finally:
            self.waiting -= 1
            del self.requests[request]
        if scope.cancelled_caught:
            raise KilledError("killed")
        if self._end is not None:
            raise self._end
        if self.fails_with is not None:
            raise self.fails_with

    def waits(self) -> list[Wait]:
        return [Wait(request, "paused") for request in self.requests]

    def kill(self, request: IoRequest) -> None:
        if request in self.requests:
            self.requests[request].cancel()

    async def read(self, offset: int, length: int, *, opener: Opener | None = None) -> bytes:
        self.calls.append(("read", offset, length))
        await self._live(Kind.READ, opener)
        return bytes(self.data[offset : offset + length])

    async def write(
        self, offset: int, data: Any, *, fua: bool = False, opener: Opener | None = None
    ) -> int:
        self.calls.append(("write", offset, len(data), fua))
        await self._live(Kind.WRITE, opener)
        if self.read_only:
            raise ReadOnlyError("read-only")
        if offset >= len(self.data):
            raise EndOfNamespaceError("past the end")
        part = data[: len(self.data) - offset]
        self.data[offset : offset + len(part)] = part
        return len(part)

    def launch_read(self, offset: int, length: int, opener: Opener | None) -> None:
        """Everything takes a task here; a real namespace is in `launching`."""

    def launch_write(self, offset: int, data: Any, opener: Opener | None, *, fua: bool) -> None:
        """As above."""

    async def flush(self, *, opener: Opener | None = None) -> None:
        self.calls.append(("flush",))
        await self._live(Kind.FLUSH, opener)

    def info(self) -> NamespaceInfo:
        return NamespaceInfo(
            name=self.name,
            nsid=self.nsid,
            state="live",
            reason="",
            lba_bytes=self.lba_bytes,
            size_bytes=len(self.data),
            size_lbas=len(self.data) // self.lba_bytes,
            read_only=self.read_only,
            uuid="7f1c5c1e-55f4-4d3a-a1a1-000000000001",
            nguid=None,
            eui64="0011223344556677",
            same_as=self.same_as,
            last_error="none yet",
            waiting_requests=self.waiting,
            ambiguous_writes=0,
        )


@attrs.define(eq=False)
class FakeController:
    name: str
    namespaces: dict[int, FakeNamespace] = attrs.field(factory=dict)
    state: str = "live"
    parameters: dict[str, Parameter] = attrs.field(factory=dict)

    def info(self) -> ControllerInfo:
        return ControllerInfo(
            name=self.name,
            state=self.state,
            subnqn="nqn.2024-01.org.example:one",
            transport="tcp",
            address="127.0.0.1:4420",
            endpoint="127.0.0.1:4420",
            hostnqn="nqn.2024-01.org.example:host",
            hostid="00000000-0000-0000-0000-000000000001",
            cntlid=1,
            serial="S",
            model="M",
            firmware="F",
            version="1.4",
            since_s=1.0,
            last_error="",
            attempts=0,
            next_attempt_s=None,
            associations=1,
            parameters=self.parameters,
            queues=(),
            namespaces=tuple(each.info() for each in self.namespaces.values()),
            refused=(),
        )


@attrs.define(eq=False)
class FakeHost:
    controllers: dict[str, FakeController] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    hangs_at_close: bool = False
    closed: bool = False
    max_held_bytes: int | None = None
    _callbacks: list[Callable[[Any], None]] = attrs.field(factory=list)

    def subscribe(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def tell(self, kind: EventKind, name: str) -> None:
        for callback in self._callbacks:
            callback(NodeEvent(kind, name))

    def add_controller(self, name: str) -> FakeController:
        controller = self.controllers[name] = FakeController(name)
        self.tell(EventKind.ADDED, name)
        return controller

    def add(self, name: str, size_bytes: int, **options: Any) -> FakeNamespace:
        owner, _, nsid = name.rpartition("ns")
        controller = self.controllers.get(owner) or self.add_controller(owner)
        namespace = FakeNamespace(name, bytearray(size_bytes), int(nsid), **options)
        controller.namespaces[int(nsid)] = namespace
        self.tell(EventKind.ADDED, name)
        return namespace

    def find(self, name: str) -> FakeNamespace:
        return next(
            namespace
            for controller in self.controllers.values()
            for namespace in controller.namespaces.values()
            if namespace.name == name
        )

    def remove(self, name: str) -> None:
        namespace = self.find(name)
        del self.controllers[name.rpartition("ns")[0]].namespaces[namespace.nsid]
        self.tell(EventKind.REMOVED, name)
        namespace.end(NamespaceGoneError("gone"))

    def resize(self, name: str, size_bytes: int) -> None:
        data = self.find(name).data
        if size_bytes < len(data):
            del data[size_bytes:]
        else:
            data.extend(bytes(size_bytes - len(data)))
        self.tell(EventKind.CHANGED, name)

    async def close(self) -> list[str]:
        if self.hangs_at_close:
            await trio.sleep_forever()
        self.closed = True
        for controller in self.controllers.values():
            for namespace in controller.namespaces.values():
                namespace.end(ShutdownError("the daemon ends"))
        return self.problems


@attrs.define(eq=False)
class FakeSession:
    """Commands to the fake host, as JSON lines: what a test does to a daemon in a process."""

    host: FakeHost
    answers: bytearray = attrs.field(factory=bytearray)
    closed: bool = False
    _news: trio.Event = attrs.field(factory=trio.Event)

    def submit(self, line: bytes) -> None:
        request = json.loads(line)
        result = getattr(self, request.pop("do"))(**request)
        self.answers += json.dumps(result).encode() + b"\n"
        self._news.set()

    async def read(self, max_bytes: int, *, wait_s: float = 0.1) -> bytes:
        if not self.answers:
            self._news = trio.Event()
            with trio.move_on_after(wait_s):
                await self._news.wait()
        part = bytes(self.answers[:max_bytes])
        del self.answers[:max_bytes]
        return part

    def close(self) -> None:
        self.closed = True

    def echo(self, text: str) -> str:
        return text

    def pause(self, name: str) -> None:
        self.host.find(name).pause()

    def resume(self, name: str) -> None:
        self.host.find(name).resume()

    def add(self, name: str, size_bytes: int, **options: Any) -> None:
        self.host.add(name, size_bytes, **options)

    def remove(self, name: str) -> None:
        self.host.remove(name)

    def resize(self, name: str, size_bytes: int) -> None:
        self.host.resize(name, size_bytes)

    def read_only(self, name: str) -> None:
        self.host.find(name).read_only = True
        self.host.tell(EventKind.CHANGED, name)

    def lose(self, name: str) -> None:
        """Acknowledged writes are lost."""
        self.host.find(name).losses += 1

    def waiting(self, name: str) -> int:
        return self.host.find(name).waiting

    def waits(self, name: str) -> list[dict[str, Any]]:
        return [
            {"kind": request.kind.value, "pid": request.opener and request.opener.pid}
            for request in self.host.find(name).requests
        ]

    def calls(self, name: str) -> list[tuple[Any, ...]]:
        calls, self.host.find(name).calls = self.host.find(name).calls, []
        return calls

    def conflict(self, name: str) -> None:
        self.host.find(name).fails_with = CommandError(RESERVATION_CONFLICT, "Write")

    def problem(self, text: str) -> None:
        self.host.problems.append(text)

    def hang_at_close(self) -> None:
        self.host.hangs_at_close = True

    def block(self, seconds: float) -> None:
        """Keeps the event loop from running."""
        time.sleep(seconds)


@attrs.define(eq=False)
class FakeControl:
    host: FakeHost
    sessions: list[FakeSession] = attrs.field(factory=list)

    def open_session(self) -> FakeSession:
        session = FakeSession(self.host)
        self.sessions.append(session)
        return session
