"""The daemon's life: mount, first connections, `ready`, serving, and the orderly end."""

import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import pyfuse3
import trio

from nvmf_host.groups import single_error
from nvmf_transport import heap

from . import libc, mount
from .attribute_refresh import AttributeRefresh
from .backend import ControlLike, HostLike
from .bystander import Bystander
from .data_path import DataPath, EventLoop
from .device import SWITCH, Device
from .inquiries import Inquiries
from .killing import let_the_killed_go
from .lag import LoopLag
from .mount import Mount, MountPoint, StartError
from .nodes import NodeTable
from .operations import Operations
from .spare_memory import give_back_when_idle
from .stopping import stop_on_signals

_log = logging.getLogger(__name__)

EX_IOERR: Final = 74

#: Tasks that wait for requests; pyfuse3 ends those above it and makes them again when needed.
MIN_TASKS: Final = 64
#: A waiting request takes one.  Twice what the kernel sends in the background, so that as many
#: synchronous ones can wait, and `stat` still be answered.
MAX_TASKS: Final = 2 * mount.MAX_BACKGROUND

#: The host has this long to come to its end; ten seconds is all there is.
_CLOSE_S: Final = 9.0
#: Then its errors have this long to reach their callers.
_DRAIN_S: Final = 0.5


@attrs.frozen
class Ending:
    """How a daemon ended: what did not end well, and whether the host has not ended at all."""

    problems: tuple[str, ...]
    host_hangs: bool

    @property
    def exit_code(self) -> int:
        """0, or 74 where something acknowledged may be lost or unknown."""
        return EX_IOERR if self.problems else 0


@attrs.frozen
class Daemon:
    """One mount of one host."""

    host: HostLike
    control: ControlLike
    point: MountPoint
    allow_other: bool = False
    #: Makes the first connections; `ready` waits for it.
    connect: Callable[[], Awaitable[None]] | None = None
    close_s: float = _CLOSE_S
    #: What waiting writes may hold; the most that the kernel's limits allow by default.
    max_held_bytes: int = mount.MAX_BACKGROUND * mount.HELD_BY_WRITE_BYTES
    #: Where requests are to be taken in passing.
    loop: EventLoop | None = None

    async def run(self) -> Ending:
        """Serves until a signal or an unmount from outside.

        Raises `StartError` where the mount cannot be made.
        """
        heap.keep_freed()
        libc.set_io_flusher()
        mount.warn_of_request_timeout()
        bystander = Bystander()
        refresh = AttributeRefresh(self.point.path, bystander)
        nodes = NodeTable(refresh.request)
        nodes.follow(self.host)
        lag = LoopLag(self.host)
        operations = Operations(nodes, self.control, refresh.request, self._state(lag))
        stop = trio.Event()
        stop_on_signals(stop, lambda: mount.detach(self.point.path))
        with (
            mount.mounted(operations, self.point, allow_other=self.allow_other) as mounted,
            _device_of(mounted) as device,
        ):
            async with trio.open_nursery() as nursery:
                serving = _Serving(stop)
                nursery.start_soon(serving.serve)
                if device is not None:
                    serving.data = DataPath(
                        device,
                        operations.files,
                        operations.usage,
                        nodes.forget,
                        Inquiries(nodes).answer,
                        self.loop,
                    )
                    nursery.start_soon(serving.serve_data, serving.data)
                nursery.start_soon(refresh.run)
                nursery.start_soon(let_the_killed_go, self.host)
                nursery.start_soon(lag.run)
                nursery.start_soon(give_back_when_idle, operations.usage)
                await self._start(mounted.connection, stop, bystander)
                await stop.wait()
                ending = await self._end(operations, serving)
                nursery.cancel_scope.cancel()
        for problem in ending.problems:
            _log.error("%s", problem)
        return ending

    def _state(self, lag: LoopLag) -> Callable[[], Mapping[str, str]]:
        """What the control node's attributes say of the daemon itself."""
        return lambda: {
            "max_held_bytes": str(self.host.max_held_bytes),
            "longest_lag_s": f"{lag.longest_s:.3f}",
        }

    async def _start(self, connection: int, stop: trio.Event, bystander: Bystander) -> None:
        """Up to `ready`, or until there is to be an end."""
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            await self._see_control_node(bystander)
            # After the answer: the kernel takes limits from it too.
            self.host.max_held_bytes = mount.raise_limits(connection, self.max_held_bytes)
            if self.connect is not None:
                await self.connect()
            self._say_ready()
            notify_service_manager("READY=1")
            nursery.cancel_scope.cancel()

    def _say_ready(self) -> None:
        """Prints what others wait for."""
        try:
            print(f"ready {self.point.path}", flush=True)  # noqa: T201
        except OSError as error:
            raise StartError(
                f"standard output: {error.strerror}; give one that can be written to",
                mount.EX_OSERR,
            ) from None

    async def _see_control_node(self, bystander: Bystander) -> None:
        """Returns once the control node answers, as anybody else would see it."""
        path = f"{self.point.path}/nvmf"
        try:
            await bystander.run(partial(_open_and_close, path))
        except OSError as error:
            raise StartError(
                f"{path}: does not answer: {error.strerror}; try again", mount.EX_OSERR
            ) from None

    async def _end(self, operations: Operations, serving: "_Serving") -> Ending:
        """The orderly end, bounded in time."""
        notify_service_manager("STOPPING=1")
        operations.refuse_opens()
        problems = [f"serving ended: {serving.error}"] if serving.error else []
        with trio.move_on_after(self.close_s) as closing:
            problems += await self.host.close()
        if closing.cancelled_caught:
            problems.append(f"the host did not come to its end in {self.close_s:g} s")
        # What waited has failed; let the answers out before the mount goes.
        with trio.move_on_after(_DRAIN_S):
            await serving.drain()
        return Ending(tuple(problems), closing.cancelled_caught)


@attrs.define(eq=False)
class _Serving:
    """The tasks that answer the kernel; the end of either asks the daemon to stop."""

    _stop: trio.Event = attrs.field(alias="stop")
    #: None where pyfuse3 serves everything.
    data: DataPath | None = None
    error: Exception | None = None
    _ended: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def serve(self) -> None:
        """Has pyfuse3 serve requests."""
        with self._whatever_happens():
            try:
                await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)
            finally:
                self._ended.set()

    async def serve_data(self, data: DataPath) -> None:
        """Serves reads and writes."""
        with self._whatever_happens():
            await data.run(self._stop)

    @contextlib.contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """The host must come to its end in order."""
        try:
            with single_error():
                yield
        except Exception as error:  # noqa: BLE001
            _log.exception("serving failed")
            self.error = error
        finally:
            self._stop.set()

    async def drain(self) -> None:
        """Takes no more requests and waits for the answers to those that were taken."""
        if self.data is not None:
            await self.data.drain()
        if self._ended.is_set():
            return
        pyfuse3.terminate()
        await self._ended.wait()


@contextlib.contextmanager
def _device_of(mounted: Mount) -> Iterator[Device | None]:
    """The device, taken from pyfuse3; None where it is to serve everything itself."""
    if mounted.device is None or os.environ.get(SWITCH):
        why = "its descriptor was not found" if mounted.device is None else f"{SWITCH} is set"
        _log.info("%s: pyfuse3 serves everything", why)
        yield None
        return
    with Device.instead_of(mounted.device) as device:
        yield device


def _open_and_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def notify_service_manager(message: str) -> None:
    """Tells a service manager, where there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.sendto(message.encode(), address)
        except OSError as error:
            _log.warning("NOTIFY_SOCKET %s: %s", Path(address), error)
