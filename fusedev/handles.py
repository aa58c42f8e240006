"""What an open file does.  Its methods are what FUSE asks of a handle, without FUSE."""

import json
import os
import time
from typing import Final, Protocol

import attrs

from nvmf_host.errors import ReadOnlyError, UnflushedLostError
from nvmf_host.io_request import Opener
from nvmf_host.launch import Launch
from nvmf_transport.errors import NamespaceGoneError
from nvmf_transport.wire import Buffer

from .backend import SessionLike
from .nodes import ControllerNode, NamespaceNode

#: A read of the control node waits this long for an answer, so that its caller stays killable.
CONTROL_WAIT_S: Final = 0.1
#: A request from here on leaves memory behind that is worth giving back.
LARGE_BYTES: Final = 64 * 1024


class OpenFile(Protocol):
    """An open file.  Offsets and lengths are in bytes."""

    async def read(self, offset: int, length: int) -> Buffer:
        """Returns at most `length` bytes; none at the end."""

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        """Writes and returns how many bytes; with `fua` they are durable then."""

    def launch_read(self, offset: int, length: int) -> Launch | None:
        """Begins to read without a task; None where only `read` can."""

    def launch_write(self, offset: int, data: Buffer, *, fua: bool) -> Launch | None:
        """Begins to write without a task; None where only `write` can."""

    def wrote(self, launch: Launch) -> None:
        """A launched write has succeeded.  Raises what `write` would all the same."""

    async def sync(self) -> None:
        """Returns once what was written is durable."""

    def close(self) -> None:
        """The last descriptor of this open is closed."""


@attrs.define(eq=False)
class Usage:
    """What requests to namespaces hold while they wait, to be shown."""

    requests: int = 0
    write_bytes: int = 0
    #: There was a request whose memory is worth giving back.
    large: bool = False


@attrs.define(eq=False)
class NamespaceFile:
    """An open of `nvmeXnsY`; with `fua` every write is durable before it returns.

    The kernel sends no fsync for a handle opened O_SYNC or O_DSYNC, hence `fua`; nor for a single
    write with RWF_DSYNC (pwritev2(2)), which says so itself.
    """

    _node: NamespaceNode = attrs.field(alias="node")
    _fua: bool = attrs.field(alias="fua")
    _usage: Usage = attrs.field(alias="usage")
    #: None where it cannot be known.
    _opener: Opener | None = attrs.field(alias="opener")
    #: Of the namespace's losses, those that this open has been told of.
    _losses_told: int = attrs.field(init=False)

    @_losses_told.default
    def _losses_before(self) -> int:
        # What nobody has been told of yet is this open's to tell, too.
        return self._node.losses_told

    @classmethod
    def open(
        cls, node: NamespaceNode, flags: int, usage: Usage, opener: Opener | None
    ) -> "NamespaceFile":
        """Opens by the flags of open(2).

        Raises `ReadOnlyError`, `NamespaceGoneError`.
        """
        if node.gone:
            raise _gone(node)
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if writing and node.namespace.read_only:
            raise ReadOnlyError(f"{node.namespace.name} is read-only; open it for reading")
        # O_SYNC contains O_DSYNC.
        return cls(node, bool(flags & os.O_DSYNC), usage, opener)

    async def read(self, offset: int, length: int) -> Buffer:
        node, usage = self._node, self._usage
        if node.gone:
            raise _gone(node)
        usage.requests += 1
        if length >= LARGE_BYTES:
            usage.large = True
        try:
            return await node.namespace.read(offset, length, opener=self._opener)
        finally:
            usage.requests -= 1

    def launch_read(self, offset: int, length: int) -> Launch | None:
        node = self._node
        if node.gone:
            return None
        launch = node.namespace.launch_read(offset, length, self._opener)
        if launch is not None:
            usage = self._usage
            usage.requests += 1
            if length >= LARGE_BYTES:
                usage.large = True
        return launch

    def launch_write(self, offset: int, data: Buffer, *, fua: bool) -> Launch | None:
        node = self._node
        if node.gone:
            return None
        launch = node.namespace.launch_write(offset, data, self._opener, fua=fua or self._fua)
        if launch is not None:
            usage, length = self._usage, len(data)
            usage.requests += 1
            usage.write_bytes += length
            if length >= LARGE_BYTES:
                usage.large = True
        return launch

    def wrote(self, launch: Launch) -> None:
        self._node.modified_ns = time.time_ns()
        if launch.request.fua:
            self._tell_losses()

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        node, usage, length = self._node, self._usage, len(data)
        fua = fua or self._fua
        if node.gone:
            raise _gone(node)
        usage.requests += 1
        usage.write_bytes += length
        if length >= LARGE_BYTES:
            usage.large = True
        try:
            written = await node.namespace.write(offset, data, fua=fua, opener=self._opener)
        finally:
            usage.requests -= 1
            usage.write_bytes -= length
        node.modified_ns = time.time_ns()
        if fua:
            # It is a write with an fsync, and so has to tell what an fsync would.
            self._tell_losses()
        return written

    async def sync(self) -> None:
        # Also where there is no volatile cache: whether a write that was cut off has reached the
        # medium is known only once the namespace is live again.
        node, usage = self._node, self._usage
        if node.gone:
            raise _gone(node)
        usage.requests += 1
        try:
            await node.namespace.flush(opener=self._opener)
        finally:
            usage.requests -= 1
        self._tell_losses()

    def _tell_losses(self) -> None:
        """Raises `UnflushedLostError`, once for each open and loss.

        As the kernel does it for files: told to every open that there was, and if there was none,
        to the next.
        """
        node, losses = self._node, self._node.namespace.losses
        if self._losses_told != losses:
            self._losses_told = node.losses_told = losses
            raise UnflushedLostError(f"{node.namespace.name}: acknowledged writes were lost")

    def close(self) -> None:
        """Nothing ends with an open: close(2) neither flushes nor waits."""


class _NeverLaunched:
    """An open file whose requests all take a task."""

    def launch_read(self, offset: int, length: int) -> None:
        return None

    def launch_write(self, offset: int, data: Buffer, *, fua: bool) -> None:
        return None

    def wrote(self, launch: Launch) -> None:
        raise AssertionError(launch)


@attrs.define(eq=False)
class ControllerFile(_NeverLaunched):
    """An open of `nvmeX`: its state as it was then, the same for every read of this open."""

    _text: bytes = attrs.field(alias="text")

    @classmethod
    def open(cls, node: ControllerNode) -> "ControllerFile":
        """Takes the controller's state down."""
        if node.gone:
            raise _gone(node)
        state = {"schema": 1, **attrs.asdict(node.controller.info())}
        return cls(json.dumps(state, indent=2).encode() + b"\n")

    async def read(self, offset: int, length: int) -> Buffer:
        return self._text[offset : offset + length]

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        raise ReadOnlyError("a controller's node is for reading; use nvmecontrol")

    async def sync(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """Nothing to end."""


@attrs.define(eq=False)
class ControlFile(_NeverLaunched):
    """An open of `nvmf`: a session.  Offsets mean nothing."""

    _session: SessionLike = attrs.field(alias="session")

    async def read(self, offset: int, length: int) -> Buffer:
        return await self._session.read(length, wait_s=CONTROL_WAIT_S)

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        self._session.submit(bytes(data))
        return len(data)

    async def sync(self) -> None:
        """A request is with the service once it is written."""

    def close(self) -> None:
        self._session.close()


def _gone(node: ControllerNode | NamespaceNode) -> NamespaceGoneError:
    return NamespaceGoneError(f"{os.fsdecode(node.name)} is gone")
