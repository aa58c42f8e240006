"""What the mount needs of the host: the part of `nvmf_host` that it is written against.

Protocols, so that the mount can be tested against a host in memory that does what a test says.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from nvmf_host.io_request import IoRequest, Opener
from nvmf_host.launch import Launch
from nvmf_host.messages import ControllerInfo, NamespaceInfo
from nvmf_transport.wire import Buffer


class WaitLike(Protocol):
    """A request that somebody waits for."""

    @property
    def request(self) -> IoRequest: ...


class NamespaceLike(Protocol):
    """A namespace: bytes at any alignment.  Every call waits while the namespace is not live."""

    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def lba_bytes(self) -> int: ...

    @property
    def losses(self) -> int:
        """How often acknowledged writes were given up as lost."""

    async def read(self, offset: int, length: int, *, opener: Opener | None = None) -> Buffer:
        """Returns `length` bytes from `offset`, fewer at the end, none past it."""

    async def write(
        self, offset: int, data: Buffer, *, fua: bool = False, opener: Opener | None = None
    ) -> int:
        """Writes and returns how many bytes: fewer where `data` goes across the end."""

    def launch_read(self, offset: int, length: int, opener: Opener | None) -> Launch | None:
        """Begins a read without a task; None where only `read` can."""

    def launch_write(
        self, offset: int, data: Buffer, opener: Opener | None, *, fua: bool
    ) -> Launch | None:
        """Begins a write without a task; None where only `write` can."""

    async def flush(self, *, opener: Opener | None = None) -> None:
        """Returns once every write that has returned is durable."""

    def waits(self) -> Sequence[WaitLike]:
        """The requests that somebody waits for."""

    def kill(self, request: IoRequest) -> None:
        """Ends the wait for a request."""

    def info(self) -> NamespaceInfo: ...


class ControllerLike(Protocol):
    """A controller, connected or not."""

    @property
    def name(self) -> str: ...
    @property
    def namespaces(self) -> Mapping[int, NamespaceLike]: ...

    def info(self) -> ControllerInfo: ...


class SessionLike(Protocol):
    """One open of the control node."""

    def submit(self, line: bytes) -> None:
        """Takes one request; what is wrong with it becomes its answer."""

    async def read(self, max_bytes: int, *, wait_s: float = 0.1) -> bytes:
        """Returns what is ready, nothing where nothing comes within `wait_s`."""

    def close(self) -> None:
        """Ends the session and what still runs for it."""


class ControlLike(Protocol):
    """The service behind the control node."""

    def open_session(self) -> SessionLike: ...


class NodeEventLike(Protocol):
    """A node has come, gone or changed; `kind` is an enum whose name says which."""

    @property
    def kind(self) -> "EventKindLike": ...
    @property
    def name(self) -> str: ...


class EventKindLike(Protocol):
    """A member of an enum: ADDED, REMOVED or CHANGED."""

    @property
    def name(self) -> str: ...


class HostLike(Protocol):
    """The host: its controllers, and news of them."""

    #: What waiting requests may hold, to be shown.
    max_held_bytes: int | None

    @property
    def controllers(self) -> Mapping[str, ControllerLike]: ...

    def subscribe(self, callback: Callable[[NodeEventLike], None]) -> None:
        """Calls back, synchronously, whenever nodes come, go or change."""

    async def close(self) -> list[str]:
        """Ends everything in order: waiting I/O fails.  Returns what went wrong."""
