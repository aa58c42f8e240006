"""Reads, writes and fsyncs of open files, straight from /dev/fuse and back.

A request of a live namespace is sent in the step that took it from the kernel, and answered in the
step that took its response: no task waits for it.  All others get a task, which goes the way that
pyfuse3's would (`Operations`).  Of what is not data, a few are answered at once (`inquiries`), and
all else is passed on to pyfuse3: see `device`.
"""

import errno
import logging
import os
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import trio

from nvmf_host.launch import Launch
from nvmf_transport import heap
from nvmf_transport.errors import NvmfError
from nvmf_transport.wire import Buffer

from .device import Device
from .errnos import errno_of
from .handles import OpenFile, Usage

_log = logging.getLogger(__name__)

#: As the processor has them, as all structures of FUSE.  Of struct fuse_in_header: opcode, unique,
#: node; of fuse_read_in and fuse_write_in, which are alike in that: file handle, offset, size,
#: flags as of open(2).
_REQUEST: Final = struct.Struct("=4xIQQ16xQQI12xI4x")
_HEAD_BYTES: Final = _REQUEST.size
_FORGET: Final = 2
_READ: Final = 15
_WRITE: Final = 16
_FSYNC: Final = 20
_INTERRUPT: Final = 36
_DATA: Final = frozenset({_READ, _WRITE, _FSYNC})
_BATCH_FORGET: Final = 42
#: struct fuse_forget_in, of which a batch has as many as it says, each with its node.
_FORGOTTEN: Final = struct.Struct("=40xQ")
_BATCH: Final = struct.Struct("=40xI4x")
_FORGOTTEN_NODE: Final = struct.Struct("=QQ")
#: Of open(2), which O_SYNC contains: also of a single write (pwritev2(2)).
_DSYNC: Final = os.O_DSYNC
#: What reading a request says where the mount is gone, or its connection was aborted.
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
_NO_VIEW: Final = memoryview(b"")
#: From here on the data of a write stays where it was read, and the next one is read elsewhere.
_KEPT_BYTES: Final = 32 << 10
#: How often the end looks whether all is answered.
_LOOK_S: Final = 0.005
#: So many requests are taken before other tasks have their turn.
BURST: Final = 64
#: So many are sent while further ones are taken: controller and host work side by side.
SENT_TOGETHER: Final = 8
#: So many are under way, with their data, before others are left with the kernel.
MOST_REQUESTS: Final = 8192


class EventLoop(Protocol):
    """What of the transport's event loop lets work be taken and sent without a task."""

    def attend(
        self, fd: int, take: Callable[[], object], before_waiting: Callable[[], object]
    ) -> None:
        """Has `take` called in passing, where `fd` is readable; `before_waiting` in each turn."""

    def send(self) -> object:
        """Sends what is queued, now."""


class DataPath:
    """One mount's.  `run` is the task that waits for requests."""

    def __init__(
        self,
        device: Device,
        files: Mapping[int, OpenFile],
        usage: Usage,
        forget: Callable[[int, int], None],
        inquire: Callable[[int, int, memoryview], bytes | int | None],
        loop: EventLoop | None = None,
    ) -> None:
        """`files` is by file handle; `forget` takes a node and how many lookups of it are over.

        `inquire` is `Inquiries.answer`.
        """
        self._device = device
        self._files = files
        self._usage = usage
        self._forget = forget
        self._inquire = inquire
        self._loop = loop
        self._buffer = bytearray()
        #: Where requests begin in it: what is written begins with a page.
        self._begins = 0
        self._target = self._view = _NO_VIEW
        self._renew_buffer()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        #: Requests that were taken and are not over, with a task or without.
        self._under_way = 0
        #: A request was answered in this turn: whoever made it may have made the next one.
        self._answered = False
        self._room: trio.Event | None = None
        self._stopped = False

    async def run(self, gone: trio.Event) -> None:
        """Serves until it is cancelled; sets `gone` where the mount has gone.  Raises OSError."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                if self._loop is not None:
                    self._loop.attend(self._device.number, self.take, self._take_next)
                nursery.start_soon(self._take_all, gone)
                await self._device.pass_back()
            finally:
                # It takes no more tasks, and the loop is not told that this has ended.
                self._nursery = None
                self._stopped = True

    async def drain(self) -> None:
        """Takes no more requests, and waits for the answers to those that were taken."""
        self._stopped = True
        while self._under_way or self._device.has_passed_on:  # noqa: ASYNC110  # only the end waits
            await trio.sleep(_LOOK_S)

    # Taking requests.

    async def _take_all(self, gone: trio.Event) -> None:
        number = self._device.number
        while True:
            try:
                taken = self._take()
            except OSError as error:
                if error.errno in _GONE:
                    gone.set()
                    return
                raise
            if taken == BURST:
                # There may be more, after all who can run now.
                await trio.lowlevel.checkpoint()
            elif self._full:
                self._room = trio.Event()
                await self._room.wait()
            else:
                await trio.lowlevel.wait_readable(number)

    def take(self) -> int:
        """Takes the requests that are there, up to a few, and returns how many.

        Every error is left to the task, which finds it again: no memory for a buffer, too.
        """
        try:
            return self._take()
        except Exception:  # noqa: BLE001  # whoever calls this has nothing to do with it
            return 0

    def _take_next(self) -> None:
        if self._answered:
            self._answered = False
            self.take()

    @property
    def _full(self) -> bool:
        return self._stopped or self._under_way >= MOST_REQUESTS

    def _take(self) -> int:
        taken = 0
        if self._full:
            return taken
        if len(self._view) < _HEAD_BYTES + self._device.longest_write_bytes:
            # It was agreed upon since, or there was no memory for one.
            self._renew_buffer()
        read_into, unpack = self._device.read_into, _REQUEST.unpack_from
        while taken < BURST:
            try:
                length = read_into(self._target)
            except FileNotFoundError:
                # It was withdrawn in this moment.
                continue
            if not length:
                break
            taken += 1
            opcode, unique, node, handle, offset, size, flags = unpack(self._view)
            try:
                if opcode == _READ:
                    self._under_way += 1
                    self._read(unique, self._files[handle], offset, size)
                elif opcode == _WRITE:
                    self._under_way += 1
                    self._write(unique, self._files[handle], offset, size, fua=flags & _DSYNC != 0)
                elif opcode == _FSYNC:
                    self._under_way += 1
                    self._start(self._sync_in_task, unique, self._files[handle])
                else:
                    self._take_other(opcode, unique, node, length)
            except Exception:  # noqa: BLE001  # one request must not end the others
                self._fail(unique)
                if opcode in _DATA:
                    self._over()
                if not self._view:
                    # It was given away, and there is no other: nothing can be read.
                    break
            if not taken % SENT_TOGETHER and self._loop is not None:
                self._loop.send()
        return taken

    def _read(self, unique: int, file: OpenFile, offset: int, length: int) -> None:
        launch = file.launch_read(offset, length)
        if launch is None:
            self._start(self._read_in_task, unique, file, offset, length)
        elif launch.request.outstanding:
            launch.request.on_end = partial(self._has_read, unique, launch)
        else:
            self._start(self._see_read_through, unique, launch)

    def _write(self, unique: int, file: OpenFile, offset: int, length: int, *, fua: bool) -> None:
        data = self._written(length)
        launch = file.launch_write(offset, data, fua=fua)
        if launch is None:
            self._start(self._write_in_task, unique, file, offset, data, fua)
        elif launch.request.outstanding:
            launch.request.on_end = partial(self._has_written, unique, file, launch)
        else:
            self._start(self._see_write_through, unique, file, launch)

    def _written(self, length: int) -> Buffer:
        """The data of the request in the buffer, where no other request comes."""
        if length < _KEPT_BYTES:
            return bytes(self._view[_HEAD_BYTES : _HEAD_BYTES + length])
        # It may wait for long, or be remembered until a Flush, and holds less than twice what it
        # needs: a bytearray that is cut by less than half keeps its memory.
        # The next one takes what it gives back: made before, there would be holes too small for it.
        buffer, start = self._buffer, self._begins + _HEAD_BYTES
        self._target = self._view = _NO_VIEW
        del buffer[start + length :]
        self._renew_buffer()
        return memoryview(buffer).toreadonly()[start:]

    def _renew_buffer(self) -> None:
        """The next request is read where nobody has data."""
        length = _HEAD_BYTES + self._device.longest_write_bytes
        buffer = heap.fresh(length + heap.PAGE_BYTES)
        start = heap.before_a_page(buffer, _HEAD_BYTES)
        self._buffer, self._begins = buffer, start
        self._target = memoryview(buffer)[start : start + length]
        self._view = self._target.toreadonly()

    def _take_other(self, opcode: int, unique: int, node: int, length: int) -> None:
        """A request that is not about data."""
        if opcode == _FORGET:
            self._forget(node, _FORGOTTEN.unpack_from(self._view)[0])
        elif opcode == _BATCH_FORGET:
            [count] = _BATCH.unpack_from(self._view)
            batch = self._view[_BATCH.size : _BATCH.size + count * _FORGOTTEN_NODE.size]
            for forgotten, times in _FORGOTTEN_NODE.iter_unpack(batch):
                self._forget(forgotten, times)
        elif opcode == _INTERRUPT:
            # Those are for whoever waits and is killed: see `killing`.
            pass
        elif (answer := self._inquire(opcode, node, self._view[:length])) is None:
            self._device.pass_on(bytes(self._view[:length]))
        else:
            if isinstance(answer, int):
                self._device.done(unique, answer)
            else:
                self._device.told(unique, answer)
            self._answered = True

    # The ends of requests without a task.

    def _has_read(self, unique: int, launch: Launch) -> None:
        """What takes the response goes on with others: nothing may be raised here."""
        try:
            concluded = launch.conclude()
        except Exception:  # noqa: BLE001
            self._fail(unique)
            self._ended(0)
            self._over()
            return
        if concluded:
            self._ended(0)
            self._device.has_read(unique, launch.data)
            self._over()
        else:
            self._start(self._see_read_through, unique, launch)

    def _has_written(self, unique: int, file: OpenFile, launch: Launch) -> None:
        length = len(launch.data)
        try:
            concluded = launch.conclude() and not launch.request.fua
            if concluded:
                file.wrote(launch)
        except Exception:  # noqa: BLE001  # as above
            self._fail(unique)
            self._ended(length)
            self._over()
            return
        if concluded:
            self._ended(length)
            self._device.written(unique, length)
            self._over()
        else:
            self._start(self._see_write_through, unique, file, launch)

    def _ended(self, write_bytes: int) -> None:
        """A launched request waits no more."""
        self._usage.requests -= 1
        self._usage.write_bytes -= write_bytes

    def _over(self) -> None:
        """A request has been answered, or nobody is left to be."""
        self._under_way -= 1
        self._answered = True
        if self._room is not None:
            self._room.set()
            self._room = None

    # Requests with a task.

    def _start(self, handler: Callable[..., Awaitable[None]], unique: int, *rest: object) -> None:
        """Has a task answer a request; the loop may be about to wait, so it begins by a token."""
        assert self._token is not None
        self._token.run_sync_soon(self._start_now, handler, unique, *rest)

    def _start_now(
        self, handler: Callable[..., Awaitable[None]], unique: int, *rest: object
    ) -> None:
        if self._nursery is None:
            # Its mount is as good as gone.
            self._over()
        else:
            self._nursery.start_soon(self._in_task, handler, unique, *rest)

    async def _in_task(
        self, handler: Callable[..., Awaitable[None]], unique: int, *rest: object
    ) -> None:
        try:
            await handler(unique, *rest)
        except NvmfError as error:
            self._device.done(unique, errno_of(error))
        except Exception:  # noqa: BLE001  # the outermost boundary
            self._fail(unique)
        finally:
            self._over()

    def _fail(self, unique: int) -> None:
        """Says what nobody has foreseen; the caller gets EIO."""
        _log.exception("a request failed; the caller gets EIO")
        self._device.done(unique, errno.EIO)

    async def _read_in_task(self, unique: int, file: OpenFile, offset: int, length: int) -> None:
        self._device.has_read(unique, await file.read(offset, length))

    async def _write_in_task(
        self, unique: int, file: OpenFile, offset: int, data: Buffer, fua: bool
    ) -> None:
        self._device.written(unique, await file.write(offset, data, fua=fua))

    async def _sync_in_task(self, unique: int, file: OpenFile) -> None:
        await file.sync()
        self._device.done(unique)

    async def _see_read_through(self, unique: int, launch: Launch) -> None:
        try:
            await launch.see_through()
        finally:
            self._ended(0)
        self._device.has_read(unique, launch.data)

    async def _see_write_through(self, unique: int, file: OpenFile, launch: Launch) -> None:
        length = len(launch.data)
        try:
            await launch.see_through()
        finally:
            self._ended(length)
        file.wrote(launch)
        self._device.written(unique, length)
