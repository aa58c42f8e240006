"""The whole host, from CONNECT to I/O and back, against a controller that a fuzzer plays."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from nvmf_host.controller import Controller
from nvmf_host.host import Host
from nvmf_host.scan import MAX_NAMESPACES
from nvmf_transport import status as st
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import NvmfError
from nvmf_transport.nvme import AdminOpcode, SubmissionEntry
from nvmf_transport.status import Status
from tests.host.hosting import hosting, params
from tests.host.scripted import Disk, Queue, Scripted

from .clock import run
from .source import Source

#: Everything ends: handshakes, retries, and at last the orderly end.
_LIMIT_S: Final = 100_000
_IO_WAIT_S: Final = 40.0
_MAX_EVENTS: Final = 64


@attrs.define(eq=False, kw_only=True)
class _Hostile(Scripted):
    """Answers as it should, until the source says otherwise."""

    source: Source
    events: int = 0

    async def _answer(
        self, queue: Queue, command: ReceivedCommand, entry: SubmissionEntry, what: str
    ) -> None:
        source, qpair = self.source, queue.qpair
        odd = source.below(64) - 44
        if odd < 0:
            await super()._answer(queue, command, entry, what)
            return
        status, result, sqhd = st.SUCCESS, 0, queue.sqhd
        match odd:
            case 0 | 1:
                # The data, or the result, of the right kind but with something in it.
                await self._spoilt(queue, command, entry, what)
                return
            case 2:
                await self._usual(queue, command, entry, what)
                status = Status.from_field(source.integer(2) >> 1)
            case 3:
                status = Status.from_field(source.integer(2) >> 1)
                result = source.number(64)
            case 4:
                return
            case 5:
                queue.scope.cancel()
                return
            case 6 if command.transfer_bytes and command.in_capsule_data is None:
                length = min(source.number(32, command.transfer_bytes), 1 << 20)
                await qpair.send_data(command, [bytes(length)], complete=source.flag())
            case 7:
                sqhd = source.number(16, 0, 31, 127)
            case 8:
                qpair.transmit(ResponseCapsule(command.cid, 0, 0, sqhd))
            case 9:
                qpair.transmit(ResponseCapsule(source.number(16, command.cid), 0, 0, sqhd))
            case 10:
                await trio.sleep(source.pick((0.01, 1.0, 9.0, 100.0)))
                await super()._answer(queue, command, entry, what)
                return
            case 11:
                self.happen()
                await super()._answer(queue, command, entry, what)
                return
            case 12:
                # A response to no command, then the usual.
                other = ReceivedCommand(command.sqe, source.number(16, command.cid), 512)
                await qpair.send_data(other, [bytes(512)], complete=source.flag())
            case 13:
                await qpair.receive_data(command)
            case _:
                result = source.number(64, 0, 1, 0x10001)
        qpair.transmit(ResponseCapsule(command.cid, status.to_field(), result, sqhd))

    async def _spoilt(
        self, queue: Queue, command: ReceivedCommand, entry: SubmissionEntry, what: str
    ) -> None:
        source, qpair = self.source, queue.qpair
        if entry.opc != AdminOpcode.IDENTIFY or queue.qid:
            answer = await self._usual(queue, command, entry, what)
            result = 0 if answer is None else source.number(64, answer.result)
            if answer is not None:
                qpair.transmit(ResponseCapsule(command.cid, 0, result, queue.sqhd))
            return
        data = bytearray(self._identify(entry))
        for _ in range(1 + source.below(4)):
            at = source.pick(_OFFSETS) if source.flag() else source.below(len(data) - 8)
            size = source.pick((1, 2, 4, 8))
            data[at : at + size] = source.number(8 * size).to_bytes(size, "little")
        if source.one_in(8):
            fill = source.integer(1)
            data[0:1024] = bytes((fill, 0, 0, 0)) * 256
        await qpair.send_data(command, [bytes(data)], complete=False)
        qpair.transmit(ResponseCapsule(command.cid, 0, 0, queue.sqhd))

    def happen(self) -> None:
        """An asynchronous event, if a request for one is at hand."""
        source = self.source
        if not self.aers or 0 not in self.queues or self.events >= _MAX_EVENTS:
            return
        self.events += 1
        if source.flag():
            self.event(*(source.number(32, 1, 2) for _ in range(source.below(3))))
        else:
            status = st.SUCCESS if source.flag() else Status.from_field(source.integer(2) >> 1)
            self.complete_aer(status, source.number(32, 0x00040002, 0x000C0302, 0x00020001))


#: Of what the host reads in identify data: fields of controller and namespace.
_OFFSETS: Final = (
    *(0, 4, 8, 16, 24, 25, 26, 27, 28, 29, 30, 32, 44, 46, 74, 77, 78, 80, 92, 96, 99, 104, 111),
    *(120, 128, 130, 132, 259, 320, 338, 340, 344, 386, 512, 514, 516, 520, 525, 1792, 1796),
)


class _User:
    """Whoever uses the host: I/O and commands, several at a time."""

    def __init__(self, source: Source, host: Host, peer: _Hostile, nursery: trio.Nursery) -> None:
        self.source = source
        self.host = host
        self.peer = peer
        self.nursery = nursery

    @property
    def controller(self) -> Controller | None:
        return next(iter(self.host.controllers.values()), None)

    async def play(self) -> None:
        """Everything that the source says."""
        await self._expecting(self._connect)
        while self.source:
            self._step()
            # What was begun reaches the peer, whose answers the same source decides.
            await trio.sleep(self.source.pick((0.01, 0.0, 0.5, 5.0)))

    async def _connect(self) -> None:
        source = self.source
        await self.host.connect(
            params(
                kato_s=source.pick((5.0, 0.0)),
                reconnect_delay_s=source.pick((0, 10.0)),
                flow_control=source.flag(),
                nr_io_queues=source.pick((None, 1, 2)),
                header_digests=source.flag(),
            ),
            keep_trying=source.one_in(4),
        )

    def _step(self) -> None:
        controller, source = self.controller, self.source
        if controller is None:
            self._begin(self._connect)
            return
        json.dumps(attrs.asdict(controller.info()))
        assert len(controller.namespaces) <= MAX_NAMESPACES
        namespaces = list(controller.namespaces.values())
        match source.below(12):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6 if namespaces:
                self._io(source.pick(namespaces))
            case 7:
                self.peer.happen()
            case 8:
                for connection in self.peer.network.connections:
                    if source.flag():
                        connection.cut()
            case 9:
                self._begin(self.host.reconnect, controller, controller.params)
            case 10 if source.one_in(4):
                self._begin(self.host.disconnect, controller)
            case _:
                disks = self.peer.disks
                disks.pop(2, None) if 2 in disks else disks.setdefault(2, Disk(uuid=bytes(16)))

    def _io(self, namespace: Any) -> None:
        source = self.source
        offset, length = source.pick((0, 512, 100, 32767)), source.pick((512, 4096, 1, 20_000))
        match source.below(5):
            case 0:
                self._begin(namespace.write, offset, bytes(length))
            case 1:
                self._begin(namespace.flush)
            case 2:
                self._begin(namespace.deallocate, ((source.below(64), 1 + source.below(8)),))
            case 3:
                self._begin(namespace.write_zeroes, source.below(64), 1 + source.below(8))
            case _:
                self._begin(self._read, namespace, offset, length)

    async def _read(self, namespace: Any, offset: int, length: int) -> None:
        data = await namespace.read(offset, length)
        assert len(data) <= length

    def _begin(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.nursery.start_soon(self._expecting, call, *args)

    async def _expecting(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Runs a call that may fail, as it says, or wait for ever."""
        with trio.move_on_after(_IO_WAIT_S):
            try:
                await call(*args)
            except NvmfError as error:
                json.dumps([str(error), error.field, error.value])


async def _main(source: Source) -> None:
    peer = _Hostile(source=source, tbkas=source.flag(), vwc=source.below(2))
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.serve)
        async with hosting(peer.network) as (host, _), trio.open_nursery() as calls:
            await _User(source, host, peer, calls).play()
            await trio.sleep(_IO_WAIT_S)
        # hosting() has seen that nothing of the host is left.
        nursery.cancel_scope.cancel()


def check(data: bytes) -> None:
    """One input."""
    run(_main, Source(data), limit_s=_LIMIT_S)
