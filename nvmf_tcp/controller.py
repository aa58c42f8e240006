"""The controller's end of a connection, without I/O: commands in, R2Ts and their data, answers out.

A command whose CID is still outstanding ends the connection: a response could not say which of the
two it is for, and the data of one could pass for the other's.

An R2T lives until its last H2CData, or until the host uses the CID again: a host may stop sending
once it has the response, and may as well not have seen the response yet.  Data for a transfer that
was abandoned, or whose command was answered early, is swallowed.
"""

from collections.abc import Sequence
from typing import Final

from nvmf_transport import heap
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES, ControllerQueueParams
from nvmf_transport.nvme import AdminOpcode, SglId
from nvmf_transport.wire import Buffer

from .connection import TcpConnection
from .digest import crc32c_of
from .layout import (
    Layout,
    TcpOptions,
    controller_expectation,
    controller_heads,
    with_digest,
)
from .pdu import (
    CAPSULE_CMD_HEAD,
    CAPSULE_CMD_SQE,
    CAPSULE_RESP,
    DATA,
    DATA_SPECIFIC,
    DDGST_ENABLE,
    DIGEST,
    HDGST_ENABLE,
    LAST_PDU,
    MIN_MAXH2CDATA_BYTES,
    CommonHeader,
    DataHeader,
    IcReq,
    IcResp,
    PduType,
)
from .sgl import FLAGS_PSDT, PSDT_SGL, judged_command
from .transfer import InboundTransfer, OpenR2T, slices
from .validate import first_breach
from .validate_specific import (
    H2C_DATA_CHECKS,
    IC_CHECKS,
    ReceivedData,
    ReceivedIc,
    command_breach,
    queue_full_breach,
)

ControllerEvent = ReceivedCommand | InboundTransfer

#: An enumeration's members are looked up by a call (Python 3.11), which every PDU would make.
_CAPSULE_CMD: Final = PduType.CAPSULE_CMD
#: Commands that may be outstanding before CONNECT has settled the size of the queue.
_ENTRIES_BEFORE_CONNECT: Final = 1
_TAGS: Final = 1 << 16
_TRANSPORT: Final = int(SglId.TRANSPORT_DATA_BLOCK)
_OFFSET: Final = int(SglId.DATA_BLOCK_OFFSET)
_FABRICS: Final = int(AdminOpcode.FABRICS)
#: Beyond this many, R2Ts of commands answered early are forgotten, the oldest first: a host that
#: still sends data for them by then has long had the response.
_MAX_OPEN_R2TS: Final = _TAGS // 2


class ControllerConnection(TcpConnection[ControllerEvent]):
    """The controller's end.  Events are commands, and transfers whose data is all in."""

    _term_type = PduType.C2H_TERM_REQ

    def __init__(self, params: ControllerQueueParams, options: TcpOptions | None = None) -> None:
        super().__init__(
            options or TcpOptions(),
            self._ic_expectation(PduType.IC_REQ, PduType.H2C_TERM_REQ),
        )
        if params.maxh2cdata_bytes < MIN_MAXH2CDATA_BYTES or params.maxh2cdata_bytes % 4:
            raise ConfigError(
                f"MAXH2CDATA must be a multiple of 4, at least {MIN_MAXH2CDATA_BYTES}",
                field="maxh2cdata_bytes",
                value=params.maxh2cdata_bytes,
            )
        self._params = params
        #: What PDUs begin with; settled by ICReq.
        self._heads = controller_heads(header_digest=False, data_digest=False, alignment_bytes=4)
        self._entries = _ENTRIES_BEFORE_CONNECT
        self._sq_flow_control = True
        # CONNECT comes first on every queue, and is an admin queue's capsule in this respect.
        self._in_capsule_bytes = ADMIN_IN_CAPSULE_BYTES
        self._max_r2ts = 1
        self._max_h2c_data_bytes = params.maxh2cdata_bytes
        #: Outstanding commands, with the R2Ts that were sent for them.
        self._commands: dict[int, list[int] | None] = {}
        self._transfers: dict[int, InboundTransfer] = {}
        #: R2Ts of commands that were answered before all their data came, by CID.
        self._leftovers: dict[int, list[int]] = {}
        self._r2ts: dict[int, OpenR2T] = {}
        self._last_ttag = _TAGS - 1
        self._current: OpenR2T | None = None
        # The command whose capsule is being received.
        self._head = (0, 0, 0, 0, 0, 0)
        self._sqe = b""
        self._capsule_data: bytearray | None = None

    def configure(self, *, entries: int, sq_flow_control: bool, in_capsule_bytes: int) -> None:
        """What CONNECT settled."""
        self._entries = entries
        self._sq_flow_control = sq_flow_control
        self._in_capsule_bytes = in_capsule_bytes

    @property
    def in_capsule_bytes(self) -> int:
        """The most in-capsule data that a command of this queue may have."""
        return self._in_capsule_bytes

    @property
    def outstanding(self) -> int:
        """Commands without a response."""
        return len(self._commands)

    # Sending.

    def send_response(self, capsule: ResponseCapsule) -> None:
        """Queues a completion; on a dead connection it is dropped."""
        if self._error is not None:
            return
        cid, heads = capsule.cid, self._heads
        self._retire(cid)
        pdu = CAPSULE_RESP.pack(
            heads.resp_word,
            heads.bare_plen,
            capsule.result,
            capsule.sqhd or 0,
            0,
            cid,
            capsule.status << 1,
        )
        self._send(with_digest(pdu, True) if self.header_digest else pdu)

    def send_data(
        self, command: ReceivedCommand, data: Sequence[Buffer], *, complete: bool
    ) -> bool:
        """Queues the whole data of a command; True where the SUCCESS flag completes it."""
        total = len(data[0]) if len(data) == 1 else sum(map(len, data))
        if total != command.transfer_bytes:
            raise LocalProtocolError(
                f"{total} bytes for a command that reads {command.transfer_bytes}"
            )
        if command.in_capsule_data is not None:
            raise LocalProtocolError("data to the host for a command whose data was in its capsule")
        if self._error is not None:
            return False
        success = complete and not self._sq_flow_control and total > 0
        if success:
            self._retire(command.cid)
        heads = self._heads
        last_word = heads.success_word if success else heads.last_word
        limit = self._options.data_pdu_bytes
        if 0 < total <= limit:
            self._send_c2h_data(last_word, command.cid, 0, total, data)
            return success
        offset = 0
        for length, buffers in slices(data, limit):
            word = last_word if offset + length == total else heads.c2h_word
            self._send_c2h_data(word, command.cid, offset, length, buffers)
            offset += length
        return success

    def _send_c2h_data(
        self, word: int, cid: int, offset: int, length: int, buffers: Sequence[Buffer]
    ) -> None:
        heads = self._heads
        head = DATA.pack(word, heads.c2h_overhead_bytes + length, cid, 0, offset, length)
        if self.header_digest or heads.c2h_pdo > DataHeader.SIZE:
            head = with_digest(head, self.header_digest, self._tx_alignment)
        if self.data_digest:
            self._send(head, *buffers, DIGEST.pack(crc32c_of(buffers)))
        else:
            self._send(head, *buffers)

    def request_data(self, command: ReceivedCommand) -> InboundTransfer:
        """Asks the host for the data of a command; the transfer comes back as an event."""
        cid = command.cid
        if cid not in self._commands or self._commands[cid] is not None:
            raise LocalProtocolError(f"CID {cid} is not outstanding, or its data was asked for")
        if command.in_capsule_data is not None or not command.transfer_bytes:
            raise LocalProtocolError("data asked for that was in the capsule, or that is none")
        # Nobody sees it before all of it has come.
        buffer = heap.fresh(command.transfer_bytes)
        transfer = InboundTransfer(command, buffer, memoryview(buffer))
        self._commands[cid] = []
        self._transfers[cid] = transfer
        self._send_r2ts(transfer)
        return transfer

    def abandon(self, transfer: InboundTransfer) -> None:
        """Nobody wants the data any more: what was asked for is swallowed as it comes."""
        transfer.view = None
        transfer.buffer = bytearray()

    def _send_r2ts(self, transfer: InboundTransfer) -> None:
        """Asks for what is not asked for yet, as far as the host allows R2Ts."""
        total, cid = transfer.command.transfer_bytes, transfer.command.cid
        ttags, heads = self._commands[cid], self._heads
        assert ttags is not None
        while transfer.requested_bytes < total and transfer.outstanding_r2ts < self._max_r2ts:
            offset = transfer.requested_bytes
            length = min(total - offset, self._options.r2t_bytes or total)
            ttag = self._new_ttag()
            self._r2ts[ttag] = OpenR2T(transfer, cid, ttag, offset, offset + length)
            ttags.append(ttag)
            transfer.requested_bytes += length
            transfer.outstanding_r2ts += 1
            self._send(
                with_digest(
                    DATA.pack(heads.r2t_word, heads.bare_plen, cid, ttag, offset, length),
                    self.header_digest,
                )
            )

    def _new_ttag(self) -> int:
        ttag = (self._last_ttag + 1) % _TAGS
        while ttag in self._r2ts:
            ttag = (ttag + 1) % _TAGS
        self._last_ttag = ttag
        return ttag

    def _retire(self, cid: int) -> None:
        """The command is answered: its CID is the host's again."""
        try:
            ttags = self._commands.pop(cid)
        except KeyError:
            raise LocalProtocolError(f"a response for CID {cid}: not outstanding") from None
        if ttags is None:
            return
        transfer = self._transfers.pop(cid)
        if ttags:
            self.abandon(transfer)
            self._leftovers[cid] = ttags
            while len(self._r2ts) > _MAX_OPEN_R2TS and len(self._leftovers) > 1:
                for ttag in self._leftovers.pop(next(iter(self._leftovers))):
                    del self._r2ts[ttag]

    # Receiving.

    def _handle(self, layout: Layout, start: int, events: list[ControllerEvent]) -> None:
        if layout.type is PduType.IC_REQ:
            self._handle_ic_req(IcReq.unpack(self._rx, start))
        else:
            raise self._terminated(start)

    def _takes_whole(self, layout: Layout) -> bool:
        return layout.type is _CAPSULE_CMD

    def _take(self, layout: Layout, start: int, plen: int, events: list[ControllerEvent]) -> bool:
        """A Read, or a Write with its data, as nearly every small one comes."""
        rx, commands = self._rx, self._commands
        opcode, flags, cid, address, length, word = CAPSULE_CMD_HEAD.unpack_from(rx, start)
        if (
            flags & FLAGS_PSDT != PSDT_SGL
            or address
            or cid in commands
            or len(commands) >= self._entries
            or self._leftovers
        ):
            return False
        payload_bytes = plen - layout.overhead_bytes
        data: bytearray | None = None
        if not payload_bytes:
            if word >> 24 != _TRANSPORT or length > self._params.max_transfer_bytes:
                return False
        elif (
            word >> 24 == _OFFSET
            and length == payload_bytes <= self._in_capsule_bytes
            and opcode & 1
            and opcode != _FABRICS
        ):
            data_start = start + layout.head_bytes
            data_end = data_start + length
            data = rx[data_start:data_end]
            if layout.data_digest and self._fails_digest(data, data_end):
                return False
        else:
            return False
        commands[cid] = None
        (sqe,) = CAPSULE_CMD_SQE.unpack_from(rx, start)
        events.append(ReceivedCommand(sqe, cid, length, data))
        return True

    def _open(self, layout: Layout, start: int, payload_bytes: int) -> memoryview | None:
        if layout.type is _CAPSULE_CMD:
            return self._open_command(start, payload_bytes)
        cid, ttag, offset, length = DATA_SPECIFIC.unpack_from(self._rx, start + CommonHeader.SIZE)
        r2t = self._r2ts.get(ttag)
        end = offset + length
        if (
            r2t is None
            or cid != r2t.cid
            or length != payload_bytes
            or length > self._max_h2c_data_bytes
            or offset != r2t.offset
            or end > r2t.end
            or (end == r2t.end) != bool(layout.flags & LAST_PDU)
        ):
            raise self._h2c_breach(layout, start, payload_bytes)
        self._current = r2t
        view = r2t.transfer.view
        return None if view is None else view[offset:end]

    def _open_command(self, start: int, payload_bytes: int) -> memoryview | None:
        rx = self._rx
        self._head = CAPSULE_CMD_HEAD.unpack_from(rx, start)
        (self._sqe,) = CAPSULE_CMD_SQE.unpack_from(rx, start)
        cid = self._head[2]
        if cid in self._commands:
            raise command_breach(cid)
        if len(self._commands) >= self._entries:
            raise queue_full_breach(self._entries)
        if not payload_bytes or payload_bytes > max(self._in_capsule_bytes, ADMIN_IN_CAPSULE_BYTES):
            # What no command of this queue may have in its capsule gets no memory.
            self._capsule_data = None
            return None
        # Nobody sees it before all of it has come.
        self._capsule_data = heap.fresh(payload_bytes)
        return memoryview(self._capsule_data)

    def _h2c_breach(self, layout: Layout, start: int, payload_bytes: int) -> RemoteProtocolError:
        cid, ttag, offset, length = DATA_SPECIFIC.unpack_from(self._rx, start + CommonHeader.SIZE)
        r2t = self._r2ts.get(ttag)
        received = ReceivedData(
            cid,
            ttag,
            offset,
            length,
            bool(layout.flags & LAST_PDU),
            payload_bytes,
            known=r2t is not None,
            cccid_fits=r2t is None or r2t.cid == cid,
            expected_datao=r2t.offset if r2t else 0,
            end=r2t.end if r2t else 0,
            max_datal=self._max_h2c_data_bytes,
        )
        breach = first_breach("H2CData", H2C_DATA_CHECKS, received)
        assert breach is not None
        return breach

    def _finish(self, layout: Layout, digest_ok: bool, events: list[ControllerEvent]) -> None:
        if layout.type is _CAPSULE_CMD:
            events.append(self._received_command(digest_ok))
            return
        r2t = self._current
        assert r2t is not None
        self._current = None
        transfer = r2t.transfer
        r2t.offset += self._payload_bytes
        transfer.received_bytes += self._payload_bytes
        if not digest_ok:
            transfer.digest_error = True
        if r2t.offset == r2t.end:
            self._close_r2t(r2t)
        if transfer.done and transfer.view is not None:
            events.append(transfer)

    def _close_r2t(self, r2t: OpenR2T) -> None:
        del self._r2ts[r2t.ttag]
        transfer, cid = r2t.transfer, r2t.cid
        transfer.outstanding_r2ts -= 1
        if self._transfers.get(cid) is transfer:
            ttags = self._commands[cid]
            assert ttags is not None
            ttags.remove(r2t.ttag)
            if transfer.view is not None:
                self._send_r2ts(transfer)
        else:
            leftovers = self._leftovers[cid]
            leftovers.remove(r2t.ttag)
            if not leftovers:
                del self._leftovers[cid]

    def _received_command(self, digest_ok: bool) -> ReceivedCommand:
        opcode, flags, cid, address, length, word = self._head
        data, payload_bytes = self._capsule_data, self._payload_bytes
        self._commands[cid] = None
        if self._leftovers:
            for ttag in self._leftovers.pop(cid, ()):
                del self._r2ts[ttag]
        # The two that I/O is made of; `judged_command` has them as well, and all others.
        if flags & FLAGS_PSDT == PSDT_SGL and not address:
            if not payload_bytes:
                if word >> 24 == _TRANSPORT and length <= self._params.max_transfer_bytes:
                    return ReceivedCommand(self._sqe, cid, length)
            elif (
                word >> 24 == _OFFSET
                and length == payload_bytes <= self._in_capsule_bytes
                and digest_ok
                and opcode & 1
                and opcode != _FABRICS
            ):
                self._capsule_data = None
                return ReceivedCommand(self._sqe, cid, length, data)
        self._capsule_data = None
        return judged_command(
            self._sqe,
            data,
            payload_bytes,
            digest_ok=digest_ok,
            in_capsule_bytes=self._in_capsule_bytes,
            max_transfer_bytes=self._params.max_transfer_bytes,
        )

    # Initialisation.

    def _handle_ic_req(self, pdu: IcReq) -> None:
        breach = first_breach("ICReq", IC_CHECKS, ReceivedIc(pdu.pfv, pdu.hpda, pdu.dgst))
        if breach is not None:
            raise breach
        params = self._params
        self.header_digest = params.header_digest and bool(pdu.dgst & HDGST_ENABLE)
        self.data_digest = params.data_digest and bool(pdu.dgst & DDGST_ENABLE)
        self._tx_alignment = (pdu.hpda + 1) * 4
        self._max_r2ts = min(pdu.maxr2t, self._options.maxr2t) + 1
        digests = {"header_digest": self.header_digest, "data_digest": self.data_digest}
        self._heads = controller_heads(**digests, alignment_bytes=self._tx_alignment)
        self._send(
            IcResp(
                pdu_type=PduType.IC_RESP,
                hlen=IcResp.SIZE,
                plen=IcResp.SIZE,
                cpda=self._options.pda,
                dgst=(self.header_digest and HDGST_ENABLE) | (self.data_digest and DDGST_ENABLE),
                maxh2cdata=params.maxh2cdata_bytes,
            ).pack()
        )
        self._expect(controller_expectation(params, self._options, **digests))
        self.established = True
