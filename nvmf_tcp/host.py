"""The host's end of a connection, without I/O: capsules out, R2Ts answered, data and responses in.

H2CData is made only when the driver asks for something to send, a batch at a time.  So a response
that arrives early (the controller failed a write) drops what is unsent, always between two PDUs,
and nothing is sent under a CID that may belong to another command by then.

Data of Fabrics commands goes inside the capsule on every queue, up to what an admin queue takes: a
controller with a small IOCCSZ has CONNECT's data there all the same.
"""

import struct
from collections import deque
from typing import Final

from nvmf_transport.capsule import CommandCapsule, ResponseCapsule
from nvmf_transport.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from nvmf_transport.interfaces import ADMIN_IN_CAPSULE_BYTES, HostQueueParams
from nvmf_transport.nvme import FLAGS_SGL, AdminOpcode, SglId
from nvmf_transport.wire import Buffer

from .connection import TcpConnection
from .digest import digest_bytes
from .layout import Layout, TcpOptions, with_digest
from .pdu import (
    CAPSULE_CMD_BYTES,
    COMMON,
    COMPLETION,
    DATA,
    DATA_SPECIFIC,
    DDGST_ENABLE,
    DDGSTF,
    DIGEST_BYTES,
    HDGST_ENABLE,
    HDGSTF,
    LAST_PDU,
    SGL,
    SGL_OFFSET,
    SUCCESS,
    CommonHeader,
    DataHeader,
    IcReq,
    IcResp,
    PduType,
    align_up,
    first_word,
)
from .transfer import HostCommand, HostR2T
from .validate import Expectation, first_breach
from .validate_specific import (
    C2H_DATA_CHECKS,
    IC_CHECKS,
    R2T_CHECKS,
    ReceivedData,
    ReceivedIc,
    ReceivedR2T,
    response_breach,
)

#: H2CData is made until this much is handed out at a time: a few system calls' worth.
H2C_BATCH_BYTES: Final = 1 << 20
#: The most data that one C2HData can hold: only its header is ever buffered.
MAX_C2H_DATA_BYTES: Final = 1 << 31

_SGL_IN_CAPSULE: Final = SglId.DATA_BLOCK_OFFSET << 24
_SGL_TRANSPORT: Final = SglId.TRANSPORT_DATA_BLOCK << 24
_DATA_TYPES: Final = frozenset(
    {PduType.C2H_TERM_REQ, PduType.CAPSULE_RESP, PduType.C2H_DATA, PduType.R2T}
)
#: An enumeration's members are looked up by a call (Python 3.11), which every PDU would make.
_CAPSULE_RESP: Final = PduType.CAPSULE_RESP
_R2T: Final = PduType.R2T
#: FLAGS of a C2HData that is the last of its command and completes it.
_ALL_AND_END: Final = LAST_PDU | SUCCESS
#: OPC, flags and CID of an SQE.
_SQE_HEAD: Final = struct.Struct("<BBH")
_FABRICS: Final = int(AdminOpcode.FABRICS)
_CH_BYTES: Final = CommonHeader.SIZE
_DIGEST_NAMES: Final = {HDGST_ENABLE: "header", DDGST_ENABLE: "data"}


class HostConnection(TcpConnection[ResponseCapsule]):
    """The host's end.  `send_command` queues a capsule; events are responses."""

    _term_type = PduType.H2C_TERM_REQ

    def __init__(self, params: HostQueueParams, options: TcpOptions | None = None) -> None:
        super().__init__(
            options or TcpOptions(),
            self._ic_expectation(PduType.IC_RESP, PduType.C2H_TERM_REQ),
        )
        self._params = params
        self._in_capsule_bytes = params.in_capsule_bytes
        self._commands: dict[int, HostCommand] = {}
        self._current: HostCommand | None = None
        self._r2ts: deque[HostR2T] = deque()
        self._max_r2ts = self._options.maxr2t + 1
        self._max_data_bytes = self._options.data_pdu_bytes
        self._asked_dgst = (params.header_digest and HDGST_ENABLE) | (
            params.data_digest and DDGST_ENABLE
        )
        self._send(
            IcReq(
                pdu_type=PduType.IC_REQ,
                hlen=IcReq.SIZE,
                plen=IcReq.SIZE,
                hpda=self._options.pda,
                dgst=self._asked_dgst,
                maxr2t=self._options.maxr2t,
            ).pack()
        )

    @property
    def outstanding(self) -> int:
        """Commands without a response."""
        return len(self._commands)

    # Sending.

    def send_command(self, capsule: CommandCapsule) -> None:
        """Queues a capsule; on a dead connection it is dropped."""
        if self._error is not None:
            return
        if not self.established:
            raise LocalProtocolError("a command before ICResp")
        cid, sqe = capsule.cid, capsule.sqe
        if cid in self._commands:
            raise LocalProtocolError(f"CID {cid} is outstanding")
        opcode, flags, sqe_cid = _SQE_HEAD.unpack_from(sqe)
        if sqe_cid != cid:
            raise LocalProtocolError(f"the SQE does not hold CID {cid}")
        if flags != FLAGS_SGL:
            sqe[1] = flags & 0x3F | FLAGS_SGL
        data, target = capsule.data_out, capsule.data_in
        asked: memoryview | None = None
        if data is None:
            length = 0 if target is None else len(target)
        else:
            if target is not None:
                raise LocalProtocolError("a command with data in both directions")
            length = len(data)
            if 0 < length <= self._in_capsule_bytes or (
                opcode == _FABRICS and 0 < length <= ADMIN_IN_CAPSULE_BYTES
            ):
                SGL.pack_into(sqe, SGL_OFFSET, 0, length, _SGL_IN_CAPSULE)
                head = COMMON.pack(self._capsule_word, self._capsule_overhead_bytes + length) + sqe
                self._send_data(head, data)
                self._commands[cid] = HostCommand(
                    cid, None, None, self._bytes_sent + self.unsent_bytes
                )
                return
            asked = memoryview(data)
        SGL.pack_into(sqe, SGL_OFFSET, 0, length, _SGL_TRANSPORT)
        pdu = self._bare_header + sqe
        self._send(with_digest(pdu, True) if self.header_digest else pdu)
        self._commands[cid] = HostCommand(cid, target, asked, self._bytes_sent + self.unsent_bytes)

    def _send_data(self, head: bytes, data: Buffer) -> None:
        """Queues a PDU with payload; `head` has neither digest nor padding yet."""
        if self._pads_or_digests_heads:
            head = with_digest(head, self.header_digest, self._tx_alignment)
        if self.data_digest:
            self._send(head, data, digest_bytes(data))
        else:
            self._send(head, data)

    @property
    def wants_to_send(self) -> bool:
        """True where `data_to_send` has something."""
        return bool(self._out or self._r2ts)

    def data_to_send(self) -> list[Buffer]:
        """Hands out whole PDUs, H2CData up to a batch; call again while `wants_to_send`."""
        room = H2C_BATCH_BYTES
        while self._r2ts and room > 0:
            room -= self._send_h2c_data(self._r2ts[0])
        return super().data_to_send()

    def _send_h2c_data(self, r2t: HostR2T) -> int:
        """Makes the next PDU of an R2T; returns the bytes of data in it."""
        command = r2t.command
        if command.retired:
            self._r2ts.popleft()
            return 0
        offset = r2t.offset
        length = min(r2t.end - offset, self._max_data_bytes)
        r2t.offset = offset + length
        word = self._h2c_word
        if r2t.offset == r2t.end:
            word |= LAST_PDU << 8
            self._r2ts.popleft()
            command.outstanding_r2ts -= 1
        assert command.data_out is not None
        plen = self._h2c_overhead_bytes + length
        self._send_data(
            DATA.pack(word, plen, command.cid, r2t.ttag, offset, length),
            command.data_out[offset : offset + length],
        )
        return length

    def _discard_output(self) -> None:
        super()._discard_output()
        self._r2ts.clear()

    # Receiving.

    def _handle(self, layout: Layout, start: int, events: list[ResponseCapsule]) -> None:
        pdu_type = layout.type
        if pdu_type is _CAPSULE_RESP:
            result, sqhd, _, cid, field = COMPLETION.unpack_from(self._rx, start + _CH_BYTES)
            command = self._commands.pop(cid, None)
            if command is None or command.leaves_at_bytes > self._bytes_sent:
                raise response_breach(cid)
            command.retired = True
            command.status = field >> 1
            command.result = result
            command.sqhd = sqhd
            events.append(command)
        elif pdu_type is _R2T:
            self._handle_r2t(start)
        elif pdu_type is PduType.IC_RESP:
            self._handle_ic_resp(IcResp.unpack(self._rx, start))
        else:
            raise self._terminated(start)

    def _handle_r2t(self, start: int) -> None:
        cid, ttag, offset, length = DATA_SPECIFIC.unpack_from(self._rx, start + _CH_BYTES)
        command = self._commands.get(cid)
        end = offset + length
        if (
            command is None
            or command.data_out is None
            or not length
            or offset != command.requested_bytes
            or end > len(command.data_out)
            or command.outstanding_r2ts >= self._max_r2ts
        ):
            raise self._r2t_breach(cid, offset, length)
        command.requested_bytes = end
        command.outstanding_r2ts += 1
        self._r2ts.append(HostR2T(command, ttag, offset, end))

    def _r2t_breach(self, cid: int, offset: int, length: int) -> RemoteProtocolError:
        command = self._commands.get(cid)
        known = command is not None and command.data_out is not None
        breach = first_breach(
            "R2T",
            R2T_CHECKS,
            ReceivedR2T(
                cid,
                offset,
                length,
                known,
                command.requested_bytes if command else 0,
                len(command.data_out) if command and command.data_out is not None else 0,
                command.outstanding_r2ts if command else 0,
                self._max_r2ts,
            ),
        )
        assert breach is not None
        return breach

    def _open(self, layout: Layout, start: int, payload_bytes: int) -> memoryview | None:
        cid, _, offset, length = DATA_SPECIFIC.unpack_from(self._rx, start + _CH_BYTES)
        command = self._commands.get(cid)
        if command is not None and command.data_in is not None:
            target = command.data_in
            end = offset + length
            if (
                length == payload_bytes
                and offset == command.data_bytes
                and end <= len(target)
                and (end == len(target)) == bool(layout.flags & LAST_PDU)
            ):
                self._current = command
                return target[offset:end]
        raise self._c2h_breach(layout, cid, offset, length, payload_bytes)

    def _c2h_breach(
        self, layout: Layout, cid: int, offset: int, length: int, payload_bytes: int
    ) -> RemoteProtocolError:
        command = self._commands.get(cid)
        known = command is not None and command.data_in is not None
        breach = first_breach(
            "C2HData",
            C2H_DATA_CHECKS,
            ReceivedData(
                cid,
                0,
                offset,
                length,
                bool(layout.flags & LAST_PDU),
                payload_bytes,
                known,
                expected_datao=command.data_bytes if command else 0,
                end=len(command.data_in) if command and command.data_in is not None else 0,
            ),
        )
        assert breach is not None
        return breach

    def _takes_whole(self, layout: Layout) -> bool:
        return layout.type is PduType.C2H_DATA and layout.flags & _ALL_AND_END == _ALL_AND_END

    def _take(self, layout: Layout, start: int, plen: int, events: list[ResponseCapsule]) -> bool:
        """All the data of a command, and with it its end: what nearly every small read gets."""
        cid, _, offset, length = DATA_SPECIFIC.unpack_from(self._rx, start + _CH_BYTES)
        command = self._commands.get(cid)
        target = None if command is None else command.data_in
        if (
            command is None
            or target is None
            or offset
            or command.data_bytes
            or length != len(target)
            or length != plen - layout.overhead_bytes
            or command.leaves_at_bytes > self._bytes_sent
        ):
            return False
        data_start = start + layout.head_bytes
        data_end = data_start + length
        data = self._rx_view[data_start:data_end]
        if layout.data_digest and self._fails_digest(data, data_end):
            return False
        target[:] = data
        command.data_bytes = length
        command.retired = True
        del self._commands[cid]
        events.append(command)
        return True

    def _finish(self, layout: Layout, digest_ok: bool, events: list[ResponseCapsule]) -> None:
        command = self._current
        assert command is not None
        self._current = None
        command.data_bytes += self._payload_bytes
        if not digest_ok:
            # The command fails; its other data, and its end, come as they would have.
            command.digest_error = True
        if layout.flags & SUCCESS:
            if command.leaves_at_bytes > self._bytes_sent:
                raise response_breach(command.cid)
            del self._commands[command.cid]
            command.retired = True
            events.append(command)

    # Initialisation.

    def _handle_ic_resp(self, pdu: IcResp) -> None:
        breach = first_breach(
            "ICResp",
            IC_CHECKS,
            ReceivedIc(pdu.pfv, pdu.cpda, pdu.dgst, pdu.maxh2cdata, self._asked_dgst),
        )
        if breach is not None:
            raise breach
        refused = [
            name
            for bit, name in _DIGEST_NAMES.items()
            if self._asked_dgst & bit and not pdu.dgst & bit
        ]
        if refused:
            error = HandshakeError(
                f"the controller does not grant the {' and '.join(refused)} digest that was asked"
                " for; connect without, or enable it at the controller"
            )
            error.field = f"{refused[0]}_digests"
            raise error
        self.header_digest = bool(pdu.dgst & HDGST_ENABLE)
        self.data_digest = bool(pdu.dgst & DDGST_ENABLE)
        self._tx_alignment = (pdu.cpda + 1) * 4
        self._max_data_bytes = min(pdu.maxh2cdata, self._options.data_pdu_bytes)
        self._prepare_heads()
        self._expect(
            Expectation(
                types=_DATA_TYPES,
                header_digest=self.header_digest,
                data_digest=self.data_digest,
                alignment_bytes=(self._options.pda + 1) * 4,
                max_data_bytes={PduType.C2H_DATA: MAX_C2H_DATA_BYTES},
            )
        )
        self.established = True

    def _prepare_heads(self) -> None:
        """What is the same in the head of every PDU that we send, by what was agreed."""
        head_digest_bytes = DIGEST_BYTES if self.header_digest else 0
        head_flags = HDGSTF if self.header_digest else 0
        flags = head_flags | (DDGSTF if self.data_digest else 0)
        data_digest_bytes = DIGEST_BYTES if self.data_digest else 0
        self._bare_header = COMMON.pack(
            first_word(PduType.CAPSULE_CMD, head_flags, CAPSULE_CMD_BYTES, 0),
            CAPSULE_CMD_BYTES + head_digest_bytes,
        )
        pdo = align_up(CAPSULE_CMD_BYTES + head_digest_bytes, self._tx_alignment)
        self._capsule_word = first_word(PduType.CAPSULE_CMD, flags, CAPSULE_CMD_BYTES, pdo)
        self._capsule_overhead_bytes = pdo + data_digest_bytes
        self._pads_or_digests_heads = pdo != CAPSULE_CMD_BYTES
        pdo = align_up(DataHeader.SIZE + head_digest_bytes, self._tx_alignment)
        self._h2c_word = first_word(PduType.H2C_DATA, flags, DataHeader.SIZE, pdo)
        self._h2c_overhead_bytes = pdo + data_digest_bytes
        self._pads_or_digests_heads |= pdo != DataHeader.SIZE
