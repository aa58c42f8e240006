"""The controller's end of a connection, fed by a hostile host."""

import struct
from collections.abc import Callable
from typing import Any, Final

import attrs

from nvmf_tcp.controller import ControllerConnection
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import DDGSTF, HDGSTF, LAST_PDU, PduType
from nvmf_tcp.transfer import InboundTransfer
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES, ControllerQueueParams
from nvmf_transport.nvme import AdminOpcode, SglId
from tests.tcp.pair import data_specific, ic_req

from .source import Source
from .stream import Wire, pattern, split

_ENTRIES: Final = 8
_MAX_TRANSFER_BYTES: Final = 1 << 16
_LENGTHS: Final = (512, 4096, 5000, 20_000, 65536, 1, 65537)
_SQE: Final = struct.Struct("<BBHI16xQI3xB24x")
_TAGS: Final = 1 << 15


@attrs.define(eq=False)
class _Asked:
    """An R2T that the host has seen."""

    cid: int
    ttag: int
    offset: int
    end: int


class _Hostile:
    """The host that a fuzzer plays, and the controller's upper layer."""

    def __init__(self, source: Source) -> None:
        self.source = source
        options = TcpOptions(
            pda=source.pick((0, 0, 1, 31)),
            maxr2t=source.pick((3, 0, 1)),
            r2t_bytes=source.pick((None, 4096, 1000)),
            data_pdu_bytes=source.pick((1 << 20, 4096, 1000)),
        )
        params = ControllerQueueParams(
            maxh2cdata_bytes=source.pick((65536, 4096)), max_transfer_bytes=_MAX_TRANSFER_BYTES
        )
        pair = ControllerConnection(params, options), ControllerConnection(params, options)
        self.dgst = source.below(4)
        flags = (self.dgst & 1) * HDGSTF | (self.dgst >> 1) * DDGSTF
        self.wire = Wire(*pair, source, flags)
        self.wire.alignment = (options.pda + 1) * 4
        self.in_capsule_bytes = ADMIN_IN_CAPSULE_BYTES
        self.entries = 1
        #: Commands that were taken and not answered; the twin's beside them.
        self.taken: dict[int, tuple[ReceivedCommand, ReceivedCommand]] = {}
        self.transfers: dict[int, tuple[InboundTransfer, InboundTransfer]] = {}
        self.asked: list[_Asked] = []
        #: CIDs whose data did not come as the pattern, in order and once.
        self.unclean: set[int] = set()

    @property
    def both(self) -> tuple[ControllerConnection, ControllerConnection]:
        return self.wire.subject, self.wire.twin  # type: ignore[return-value]

    # What the upper layer does.

    def configure(self) -> None:
        """CONNECT has settled the queue."""
        self.entries = _ENTRIES
        self.in_capsule_bytes = self.source.pick((8192, 0, 4096))
        flow = self.source.flag()
        for connection in self.both:
            connection.configure(
                entries=_ENTRIES, sq_flow_control=flow, in_capsule_bytes=self.in_capsule_bytes
            )

    def flush(self) -> None:
        """What is pending arrives; what is sent in return is looked at."""
        wire = self.wire
        for event, twin in wire.flush():
            if isinstance(event, ReceivedCommand):
                self._command(event, twin)
            else:
                self._arrived(event, twin)
        subject = self.both[0]
        if wire.dead:
            self.taken.clear()
            self.transfers.clear()
        else:
            assert subject.outstanding == len(self.taken) <= self.entries
        promised = sum(
            len(each.buffer)
            for each in {id(r2t.transfer): r2t.transfer for r2t in subject._r2ts.values()}.values()
        )
        assert promised <= _ENTRIES * _MAX_TRANSFER_BYTES, "promises of memory without a bound"
        assert len(subject._r2ts) <= _TAGS + _ENTRIES * 4
        self._look_at(wire.drain())

    def _command(self, event: ReceivedCommand, twin: ReceivedCommand) -> None:
        assert attrs.astuple(event) == attrs.astuple(twin)
        assert event.cid not in self.taken, "one CID, two commands"
        assert len(event.sqe) == 64
        data = event.in_capsule_data
        if event.fault is not None:
            assert not event.transfer_bytes
            assert data is None
        elif data is None:
            assert event.transfer_bytes <= _MAX_TRANSFER_BYTES
        else:
            assert len(data) == event.transfer_bytes
            fabrics = event.sqe[0] == AdminOpcode.FABRICS
            limit = max(self.in_capsule_bytes, ADMIN_IN_CAPSULE_BYTES if fabrics else 0)
            assert len(data) <= limit
        self.taken[event.cid] = event, twin
        self.transfers.pop(event.cid, None)
        self.unclean.discard(event.cid)

    def _arrived(self, event: InboundTransfer, twin: InboundTransfer) -> None:
        cid = event.command.cid
        assert self.transfers.pop(cid, (None,))[0] is event, "data that came twice, or to nobody"
        assert self.taken[cid][0] is event.command
        assert event.done
        assert event.digest_error == twin.digest_error
        assert event.buffer == twin.buffer
        assert len(event.buffer) == event.command.transfer_bytes
        if self.wire.pure and not event.digest_error and cid not in self.unclean:
            assert event.buffer == pattern(cid, 0, len(event.buffer))

    def _look_at(self, sent: bytes) -> None:
        for head, specific, _ in split(sent, self.wire.flags):
            if head.pdu_type == PduType.R2T:
                cid, ttag, offset, length = struct.unpack_from("<HHII", specific)
                assert length
                self.asked.append(_Asked(cid, ttag, offset, offset + length))

    def _pick_taken(self) -> tuple[ReceivedCommand, ReceivedCommand] | None:
        return self.source.pick(list(self.taken.values())) if self.taken else None

    def want(self) -> None:
        """The controller asks for a command's data."""
        found = self._pick_taken()
        if found is None:
            return
        command = found[0]
        if command.in_capsule_data is not None or not command.transfer_bytes:
            return
        if self.both[0]._commands[command.cid] is not None:
            return
        first, second = (
            each.request_data(mine) for each, mine in zip(self.both, found, strict=True)
        )
        self.transfers[command.cid] = first, second

    def answer(self) -> None:
        """The controller completes a command, perhaps before its data has come."""
        found = self._pick_taken()
        if found is None:
            return
        cid = found[0].cid
        for connection in self.both:
            connection.send_response(ResponseCapsule(cid, self.source.pick((0,))))
        del self.taken[cid]
        self.transfers.pop(cid, None)

    def send_data(self) -> None:
        """The controller sends a command's data."""
        found = self._pick_taken()
        if found is None or found[0].in_capsule_data is not None or found[0].fault is not None:
            return
        payload = memoryview(pattern(1, 0, found[0].transfer_bytes))
        half = len(payload) // 2
        complete = self.source.flag()
        done = {
            connection.send_data(mine, [payload[:half], payload[half:]], complete=complete)
            for connection, mine in zip(self.both, found, strict=True)
        }
        if True in done:
            assert done == {True}
            del self.taken[found[0].cid]
            self.transfers.pop(found[0].cid, None)

    def abandon(self) -> None:
        """Whoever waited for data was cancelled."""
        if not self.transfers:
            return
        cid = self.source.pick(list(self.transfers))
        for connection, transfer in zip(self.both, self.transfers.pop(cid), strict=True):
            connection.abandon(transfer)

    # What the host's side does.

    def command(self) -> None:
        """A CapsuleCmd, with or without data inside, its SGL mostly right."""
        source = self.source
        cid = source.number(16, *range(_ENTRIES))
        opcode = source.pick((0x01, 0x02, 0x7F, 0x00, 0x05, 0x09))
        data = b""
        address, length, sgl = 0, source.pick(_LENGTHS), int(SglId.TRANSPORT_DATA_BLOCK)
        if source.below(3) == 1:
            data = pattern(cid, 0, source.pick((512, 4096, 8192, 1, 8193)))
            length, sgl = len(data), int(SglId.DATA_BLOCK_OFFSET)
        flags = 0x40
        match source.below(16):
            case 15:
                address = source.number(64, 0, len(data))
            case 14:
                length = source.number(32, length)
            case 13:
                sgl = source.number(8, 0x01, 0x5A)
            case 12:
                flags = source.number(8, 0x40)
            case _:
                pass
        sqe = _SQE.pack(opcode, flags, cid, 1, address, length, sgl)
        self.wire.pdu(PduType.CAPSULE_CMD, sqe, data)

    def data(self) -> None:
        """An H2CData, mostly what was asked for next."""
        source = self.source
        r2t = source.pick(self.asked) if self.asked else None
        if r2t is None:
            r2t = _Asked(source.number(16, 0), source.number(16, 0), 0, 512)
        left = r2t.end - r2t.offset
        length = max(1, min(source.pick((left, 4096, 512, left // 2)), left))
        cid, ttag, offset, datal = r2t.cid, r2t.ttag, r2t.offset, length
        last = length == left
        odd = source.below(20)
        match odd:
            case 19:
                offset = source.number(32, offset)
            case 18:
                datal = source.number(32, length)
            case 17:
                cid = source.number(16, cid)
            case 16:
                ttag = source.number(16, ttag, *(each.ttag for each in self.asked))
            case 15:
                last = not last
            case _:
                pass
        if odd >= 15:
            self.unclean.add(cid)
            self.unclean.add(r2t.cid)
            if odd == 16:
                self.unclean.update(each.cid for each in self.asked if each.ttag == ttag)
        else:
            r2t.offset += length
            if last:
                self.asked.remove(r2t) if r2t in self.asked else None
        self.wire.pdu(
            PduType.H2C_DATA,
            data_specific(cid, ttag, offset, datal),
            pattern(cid, offset, length),
            flags=self.wire.flags | (LAST_PDU if last else 0),
        )

    def terminate(self) -> None:
        """A TermReq."""
        body = struct.pack("<HI", self.source.number(16, 1), self.source.number(32))
        self.wire.pdu(PduType.H2C_TERM_REQ, body, flags=0)

    def initialise(self) -> None:
        """An ICReq, the first one mostly right."""
        source = self.source
        maxr2t = source.pick((3, 0, 0xFFFFFFFF))
        fields = {"dgst": self.dgst, "hpda": source.pick((0, 0, 1, 31)), "maxr2t": maxr2t}
        if source.one_in(6):
            name, bits = source.pick(
                (("pfv", 16), ("hpda", 8), ("dgst", 8), ("maxr2t", 32), ("hlen", 8))
            )
            fields[name] = source.number(bits, self.dgst)
            self.wire.pure = False
        self.wire.pending += ic_req(**fields)
        self.flush()


def check(data: bytes) -> None:
    """One input."""
    source = Source(data)
    hostile = _Hostile(source)
    if not source.one_in(16):
        hostile.initialise()
    if not source.one_in(8):
        hostile.configure()

    def after_flush(step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            hostile.flush()
            if hostile.wire.subject.established and not hostile.wire.dead:
                step()

        return run

    steps: tuple[Callable[[], None], ...] = (
        hostile.command,
        after_flush(hostile.want),
        hostile.data,
        after_flush(hostile.answer),
        hostile.command,
        hostile.data,
        hostile.data,
        after_flush(hostile.send_data),
        hostile.flush,
        after_flush(hostile.abandon),
        hostile.wire.garbage,
        hostile.terminate,
        hostile.initialise,
    )
    while source and not hostile.wire.dead:
        source.pick(steps)()
    hostile.flush()
    hostile.wire.eof()
