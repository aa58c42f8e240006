"""The host's end of a connection, fed by a hostile controller."""

import struct
from collections.abc import Callable
from typing import Final

import attrs

from nvmf_tcp.host import HostConnection
from nvmf_tcp.layout import TcpOptions
from nvmf_tcp.pdu import DDGSTF, HDGSTF, LAST_PDU, SUCCESS, PduType
from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES, HostQueueParams
from nvmf_transport.nvme import AdminOpcode, SubmissionEntry
from tests.tcp.pair import data_specific, drain, ic_resp

from .source import Source
from .stream import Wire, pattern, split

#: CIDs of the queue: commands outstanding at a time.
_DEPTH: Final = 8
_LENGTHS: Final = (512, 4096, 5000, 20_000, 70_000, 1, 200_000)
_IN_CAPSULE_BYTES: Final = 2048
_CANARY: Final = b"\xa5" * 64
_COMPLETION: Final = struct.Struct("<QHHHH")


@attrs.define(eq=False)
class _Command:
    """One command of the host, in both of the connections."""

    cid: int
    data_out: bytes = b""
    #: Where data lands, between canaries; the second is the twin's.
    landing: tuple[bytearray, bytearray] | None = None
    #: What a controller that keeps the rules sends and asks for next.
    received: int = 0
    requested: int = 0
    #: Of what came, the digest was right and the bytes were the pattern's.
    clean: bool = True

    @property
    def length(self) -> int:
        return 0 if self.landing is None else len(self.landing[0]) - 2 * len(_CANARY)

    def views(self) -> tuple[memoryview | None, memoryview | None]:
        if self.landing is None:
            return None, None
        first, second = (memoryview(each)[64 : 64 + self.length] for each in self.landing)
        return first, second


class _Hostile:
    """The controller that a fuzzer plays."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.header_digest, self.data_digest = source.flag(), source.flag()
        options = TcpOptions(
            pda=source.pick((0, 0, 1, 31)),
            maxr2t=source.pick((3, 0, 1)),
            data_pdu_bytes=source.pick((1 << 20, 4096, 1000)),
        )
        params = HostQueueParams(
            header_digest=self.header_digest,
            data_digest=self.data_digest,
            in_capsule_bytes=_IN_CAPSULE_BYTES,
        )
        flags = self.header_digest * HDGSTF | self.data_digest * DDGSTF
        pair = HostConnection(params, options), HostConnection(params, options)
        for connection in pair:
            drain(connection)
        self.max_r2ts = options.maxr2t + 1
        self.wire = Wire(*pair, source, flags)
        self.wire.alignment = (options.pda + 1) * 4
        self.commands: dict[int, _Command] = {}
        #: Completed: nothing may land there any more.
        self.done: list[tuple[_Command, bytes]] = []
        self.data_of: dict[int, bytes] = {}
        #: What the host was asked for and has not sent: (CID, TTAG) -> [from, to].
        self.asked: list[tuple[int, int, int, int]] = []
        self.stalled = False

    # What the host's side does.

    def submit(self) -> None:
        """The host sends a command."""
        free = [cid for cid in range(_DEPTH) if cid not in self.commands]
        if not free or not self.wire.subject.established or self.wire.dead:
            return
        self.flush()
        source, cid = self.source, self.source.pick(free)
        if cid in self.commands or self.wire.dead:
            return
        kind, length = source.below(4), source.pick(_LENGTHS)
        command = _Command(cid)
        if kind == 0:
            canaries = _CANARY + bytes(length) + _CANARY
            command.landing = bytearray(canaries), bytearray(canaries)
        elif kind < 3:
            command.data_out = pattern(cid, 0, length if kind == 1 else _IN_CAPSULE_BYTES)
        opcode = AdminOpcode.FABRICS if source.one_in(8) else (0x02, 0x01, 0x01, 0x00)[kind]
        self.commands[cid] = command
        self.data_of[cid] = command.data_out
        pair = self.wire.subject, self.wire.twin
        for connection, view in zip(pair, command.views(), strict=True):
            sqe = bytearray(SubmissionEntry(opc=opcode, cid=cid).pack())
            connection.send_command(  # type: ignore[attr-defined]
                CommandCapsule(sqe, cid, command.data_out or None, view)
            )

    def flush(self) -> None:
        """What is pending arrives; what the host answers is looked at."""
        wire = self.wire
        for event, twin in wire.flush():
            self._completed(event, twin)
        if wire.dead:
            self.commands.clear()
        else:
            assert wire.subject.outstanding == len(self.commands)  # type: ignore[attr-defined]
        assert wire.subject.unsent_bytes <= self.bound, "output without a bound"
        if not self.stalled:
            self._look_at(wire.drain())

    @property
    def bound(self) -> int:
        """All that may wait where nothing can be sent: the commands of a queue."""
        return _DEPTH * (ADMIN_IN_CAPSULE_BYTES + 256)

    def _completed(self, event: ResponseCapsule, twin: ResponseCapsule) -> None:
        assert attrs.astuple(event) == attrs.astuple(twin)
        command = self.commands.pop(event.cid, None)
        assert command is not None, "a completion that no command waits for, or a second one"
        if command.landing is None:
            assert not event.data_bytes
            return
        first, second = command.landing
        assert first == second
        assert first[:64] == first[-64:] == _CANARY
        assert event.data_bytes <= command.length
        if self.wire.pure and command.clean and not event.digest_error:
            # Less where more was sent after the completion.
            assert event.data_bytes <= command.received
            landed = first[64 : 64 + event.data_bytes]
            assert landed == pattern(command.cid, 0, event.data_bytes)
        self.done.append((command, bytes(first)))

    def _look_at(self, sent: bytes) -> None:
        for head, specific, data in split(sent, self.wire.flags):
            if head.pdu_type != PduType.H2C_DATA:
                continue
            cid, ttag, offset, length = struct.unpack_from("<HHII", specific)
            assert length == len(data)
            assert data == self.data_of[cid][offset : offset + length]
            if not self.wire.pure:
                continue
            index = next(
                (at for at, r2t in enumerate(self.asked) if r2t[:3] == (cid, ttag, offset)), None
            )
            assert index is not None, "data that nobody asked for"
            end = self.asked.pop(index)[3]
            assert offset + length <= end
            assert bool(head.flags & LAST_PDU) == (offset + length == end)
            if offset + length < end:
                self.asked.insert(index, (cid, ttag, offset + length, end))

    def finish(self) -> None:
        """The end of the stream; buffers of finished commands are as they were."""
        self.flush()
        self.wire.eof()
        for command, content in self.done:
            assert command.landing is not None
            assert bytes(command.landing[0]) == content, "data after the completion"

    # What the controller's side does.

    def respond(self) -> None:
        """A CapsuleResp, mostly for a command that waits."""
        source = self.source
        cid = source.number(16, *(self.commands or (0,)))
        result = source.number(64, 0)
        body = _COMPLETION.pack(result, source.number(16, 0, 7), 0, cid, source.number(16, 0, 2))
        self.wire.pdu(PduType.CAPSULE_RESP, body)

    def send_data(self) -> None:
        """A C2HData, mostly where the last one ended."""
        source = self.source
        waiting = [each for each in self.commands.values() if each.landing is not None]
        command = source.pick(waiting) if waiting else None
        left = command.length - command.received if command else 512
        length = min(max(1, source.pick((left, left, 512, 4096, left // 2, 30_000, 1))), 1 << 19)
        offset = command.received if command else 0
        cid = command.cid if command else source.number(16, 0)
        last = length == left
        odd = source.below(16) if command else 15
        if odd == 15:
            offset = source.number(32, offset)
        if odd == 14:
            last = not last
        flags = self.wire.flags | (LAST_PDU if last else 0)
        if last and source.flag():
            flags |= SUCCESS
        datal = source.number(32, length) if odd == 13 else length
        if odd == 12:
            cid = source.number(16, *self.commands, cid)
        if command is not None:
            if odd < 12 and length <= left:
                command.received += length
            else:
                command.clean = False
        if odd == 12 and cid in self.commands:
            self.commands[cid].clean = False
        self.wire.pdu(
            PduType.C2H_DATA,
            data_specific(cid, source.number(16, 0) if odd == 11 else 0, offset, datal),
            pattern(cid, offset, length),
            flags=flags,
        )

    def ask(self) -> None:
        """An R2T, mostly for what was not asked for yet."""
        source = self.source
        waiting = [each for each in self.commands.values() if each.data_out]
        command = source.pick(waiting) if waiting else None
        left = len(command.data_out) - command.requested if command else 512
        length = max(1, source.pick((left, 4096, 1000, left // 2)))
        offset = command.requested if command else 0
        cid = command.cid if command else source.number(16, 0)
        ttag = source.number(16, 0, 1)
        odd = source.below(16)
        if odd == 15:
            offset = source.number(32, offset)
        if odd == 14:
            length = source.number(32, length)
        if odd == 13:
            cid = source.number(16, *self.commands, cid)
        if command is not None and odd < 13:
            command.requested += length
        self.asked.append((cid, ttag, offset, offset + length))
        self.wire.pdu(PduType.R2T, data_specific(cid, ttag, offset, length))

    def terminate(self) -> None:
        """A TermReq."""
        source = self.source
        body = struct.pack("<HI", source.number(16, 1), source.number(32))
        self.wire.pdu(PduType.C2H_TERM_REQ, body, flags=source.pick((0, 0, 1)))

    def stall(self) -> None:
        """The controller stops reading what the host sends, or goes on."""
        self.stalled = not self.stalled
        if not self.stalled:
            self.flush()

    def initialise(self) -> None:
        """An ICResp, the first one mostly right."""
        source = self.source
        digests = self.header_digest | self.data_digest << 1
        fields = {"dgst": digests, "cpda": source.pick((0, 0, 1, 31)), "maxh2cdata": 4096}
        if source.one_in(6):
            name, bits = source.pick(
                (("pfv", 16), ("cpda", 8), ("dgst", 8), ("maxh2cdata", 32), ("plen", 32))
            )
            fields[name] = source.number(bits, 4096, digests)
            self.wire.pure = False
        self.wire.pending += ic_resp(**fields)
        self.flush()


def check(data: bytes) -> None:
    """One input."""
    source = Source(data)
    hostile = _Hostile(source)
    if not source.one_in(16):
        hostile.initialise()
    steps: tuple[Callable[[], None], ...] = (
        hostile.submit,
        hostile.send_data,
        hostile.ask,
        hostile.respond,
        hostile.submit,
        hostile.send_data,
        hostile.ask,
        hostile.flush,
        hostile.wire.garbage,
        hostile.terminate,
        hostile.stall,
        hostile.initialise,
    )
    while source and not hostile.wire.dead:
        source.pick(steps)()
    hostile.finish()
