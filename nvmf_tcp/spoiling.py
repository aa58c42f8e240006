"""A controller's connection that does something wrong on demand: for whoever tests a host.

Without I/O as its base; PDUs are changed between their making and their sending, so that nothing
else knows of it, and a connection that does not misbehave has no cost of it.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from nvmf_transport.errors import ConnectionLostError
from nvmf_transport.faults import PduFault, PduKind, PduMutation
from nvmf_transport.wire import Buffer

from .controller import ControllerConnection
from .digest import crc32c_of
from .layout import with_digest
from .pdu import (
    DDGSTF,
    DIGEST,
    DIGEST_BYTES,
    LAST_PDU,
    SUCCESS,
    CapsuleRespHeader,
    CommonHeader,
    DataHeader,
    PduType,
    R2THeader,
)

_STRUCTURES: Final[dict[int, tuple[PduKind, type[CommonHeader], str]]] = {
    PduType.CAPSULE_RESP: (PduKind.RESPONSE, CapsuleRespHeader, "cid"),
    PduType.C2H_DATA: (PduKind.DATA, DataHeader, "cccid"),
    PduType.R2T: (PduKind.R2T, R2THeader, "cccid"),
}
_CIDS: Final = 1 << 16
_U32: Final = 0xFFFFFFFF


class SpoilingConnection(ControllerConnection):
    """A `ControllerConnection` with `spoil`."""

    _faults: dict[tuple[int, PduKind], PduFault] | None = None
    _ended_inside_pdu = False

    def spoil(self, cid: int, fault: PduFault) -> None:
        """See `nvmf_transport.faults.MisbehavingQueuePair`."""
        if self._faults is None:
            self._faults = {}
        self._faults[cid, fault.kind] = fault

    def _send(self, *buffers: Buffer) -> None:
        if self._ended_inside_pdu:
            return
        if not self._faults or buffers[0][0] not in _STRUCTURES:
            super()._send(*buffers)
            return
        kind, structure, cid_field = _STRUCTURES[buffers[0][0]]
        header = structure.unpack(buffers[0])
        fault = self._faults.pop((getattr(header, cid_field), kind), None)
        if fault is None:
            super()._send(*buffers)
            return
        payload: Sequence[Buffer] = buffers[1:]
        match fault.mutation:
            case PduMutation.TRUNCATE:
                self._send_part(b"".join(buffers)[: fault.amount])
            case PduMutation.HEADER_DIGEST if self.header_digest:
                super()._send(_flip(buffers[0], header.hlen), *payload)
            case PduMutation.CID:
                cid = (getattr(header, cid_field) + fault.amount) % _CIDS
                self._send_head(attrs.evolve(header, **{cid_field: cid}), payload)
            case PduMutation.PLEN:
                plen = (header.plen + fault.amount) & _U32
                self._send_head(attrs.evolve(header, plen=plen), payload)
            case PduMutation.OFFSET if isinstance(header, R2THeader):
                r2to = (header.r2to + fault.amount) & _U32
                self._send_head(attrs.evolve(header, r2to=r2to), payload)
            case PduMutation.LENGTH if isinstance(header, R2THeader):
                r2tl = (header.r2tl + fault.amount) & _U32
                self._send_head(attrs.evolve(header, r2tl=r2tl), payload)
            case mutation if isinstance(header, DataHeader):
                self._send_data_with(mutation, fault.amount, header, buffers)
            case _:
                super()._send(*buffers)

    def _send_data_with(
        self, mutation: PduMutation, amount: int, header: DataHeader, buffers: Sequence[Buffer]
    ) -> None:
        parts = buffers[1:-1] if self.data_digest else buffers[1:]
        match mutation:
            case PduMutation.OFFSET:
                datao = (header.datao + amount) & _U32
                self._send_head(attrs.evolve(header, datao=datao), buffers[1:])
            case PduMutation.LENGTH:
                datal = (header.datal + amount) & _U32
                self._send_head(attrs.evolve(header, datal=datal), buffers[1:])
            case PduMutation.DATA_DIGEST if self.data_digest:
                super()._send(buffers[0], *parts, _flip(buffers[-1], 0))
            case PduMutation.PAYLOAD:
                # The digest, where there is one, is that of the right data.
                wrong = _flip(b"".join(parts), 0)
                super()._send(buffers[0], wrong, *buffers[1 + len(parts) :])
            case PduMutation.SHORT:
                whole = b"".join(parts)
                self._send_piece(header, header.datao, whole[: max(1, len(whole) - amount)])
            case PduMutation.OVERLAP:
                whole = b"".join(parts)
                half = len(whole) // 2
                flags = header.flags & ~(LAST_PDU | SUCCESS)
                self._send_piece(attrs.evolve(header, flags=flags), header.datao, whole[:half])
                again = max(0, half - amount)
                self._send_piece(header, header.datao + again, whole[again:])
            case _:
                super()._send(*buffers)

    def _send_piece(self, header: DataHeader, datao: int, data: bytes) -> None:
        digests = (DIGEST.pack(crc32c_of((data,))),) if header.flags & DDGSTF else ()
        plen = header.pdo + len(data) + DIGEST_BYTES * len(digests)
        head = attrs.evolve(header, plen=plen, datao=datao, datal=len(data))
        self._send_head(head, (data, *digests))

    def _send_head(self, header: CommonHeader, payload: Sequence[Buffer]) -> None:
        alignment = self._tx_alignment if isinstance(header, DataHeader) else 1
        super()._send(with_digest(header.pack(), self.header_digest, alignment), *payload)

    def _send_part(self, data: bytes) -> None:
        """Sends a part of a PDU, and nothing any more; the driver then closes its direction."""
        if data:
            super()._send(data)
        self._ended_inside_pdu = True
        self._error = ConnectionLostError("the connection was closed inside a PDU, as asked")


def _flip(data: Buffer, at: int) -> bytes:
    return bytes(data[:at]) + bytes((data[at] ^ 1,)) + bytes(data[at + 1 :])
