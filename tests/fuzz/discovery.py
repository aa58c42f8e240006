"""Discovery: logs, referrals and statuses of discovery controllers that are not to be trusted."""

from typing import Final

import attrs
import trio

from nvmf_host.discovery import MAX_CONTROLLERS, MAX_RECORDS, discover_all
from nvmf_transport import status as st
from nvmf_transport.address import Address
from nvmf_transport.capsule import ReceivedCommand, ResponseCapsule
from nvmf_transport.errors import NvmfError
from nvmf_transport.fabrics import DiscoveryLogEntry, DiscoveryLogHeader
from nvmf_transport.interfaces import ControllerQueuePair
from nvmf_transport.loop import LoopTransport
from nvmf_transport.nvme import AdminOpcode, SubmissionEntry
from nvmf_transport.status import Status
from tests.host.discovery_peer import DiscoveryPeer, nvm_entry, referral
from tests.host.hosting import IDENTITY

from .clock import run
from .source import Source

_NAMES: Final = ("one", "two", "three")
#: However often pieces of logs come at the last moment.
_LIMIT_S: Final = 1_000_000


@attrs.define(eq=False, kw_only=True)
class _Peer(DiscoveryPeer):
    """Says what the source has it say."""

    source: Source

    async def _answer(self, qpair: ControllerQueuePair, command: ReceivedCommand) -> None:
        source = self.source
        odd = source.below(32)
        if odd < 26 or (odd < 31 and command.sqe[0] == AdminOpcode.FABRICS):
            if odd == 25:
                await trio.sleep(source.pick((1.0, 9.9, 11.0)))
            await super()._answer(qpair, command)
            return
        status, result = st.SUCCESS, 0
        match odd:
            case 26:
                status = Status.from_field(source.integer(2) >> 1)
            case 27 if command.transfer_bytes and command.in_capsule_data is None:
                length = source.number(16, command.transfer_bytes, 0)
                await qpair.send_data(command, [bytes(length)], complete=source.flag())
            case 28:
                result = source.number(64)
            case 29:
                qpair.transmit(ResponseCapsule(source.number(16, command.cid), 0, 0, 0))
            case 30:
                return
            case _:
                status = st.DISCOVERY_RESTART
        cid = command.cid
        qpair.transmit(ResponseCapsule(cid, status.to_field(), result, source.number(16, 0)))

    async def _log(
        self, qpair: ControllerQueuePair, command: ReceivedCommand, entry: SubmissionEntry
    ) -> Status:
        source = self.source
        assert command.transfer_bytes <= 1 << 20, "more at a time than anybody needs"
        if entry.cdw12 == 0:
            header = DiscoveryLogHeader(
                genctr=self.genctr + (source.below(2) if source.one_in(6) else 0),
                numrec=source.pick((2, 0, 1, 5, 300, MAX_RECORDS + 1, (1 << 64) - 1))
                if source.one_in(2)
                else 2,
                recfmt=source.one_in(16),
            )
            log = header.pack()
        else:
            log = b"".join(self._entry() for _ in range(min(8, command.transfer_bytes // 1024)))
        piece = log[: command.transfer_bytes].ljust(command.transfer_bytes, b"\0")
        if source.one_in(16):
            piece = piece[: source.below(len(piece))]
        await qpair.send_data(command, [piece], complete=False)
        return st.SUCCESS

    def _entry(self) -> bytes:
        source = self.source
        if source.flag():
            name = source.pick((*_NAMES, "", "::1", "a:b:c", "-", "fe80::1%x", "\0"))
            port = source.pick(("8009", "", "0", "65536", "x", "+1"))
            entry = referral(name, port, trtype=source.pick((254, 3, 0)))
        else:
            entry = nvm_entry(source.below(4))
        packed = entry.pack()
        if source.one_in(8):
            at = source.pick((0, 2, 32, 256, 512, 513))
            changed = source.take(1 + source.below(8))
            packed = packed[:at] + changed + packed[at + len(changed) :]
        assert len(packed) == DiscoveryLogEntry.SIZE
        return packed


async def _main(source: Source) -> None:
    transport = LoopTransport()
    async with trio.open_nursery() as nursery:
        peers = [_Peer(source=source) for _ in _NAMES]
        for name, peer in zip(_NAMES, peers, strict=True):
            await nursery.start(peer.serve, transport, Address(name, 8009))
        try:
            found = await discover_all(transport, Address(_NAMES[0]), identity=IDENTITY)
        except NvmfError as error:
            str(error)
        else:
            assert len(found.logs) + len(found.failures) < 10_000
            assert len({(log.address, log.subnqn) for log in found.logs}) == len(found.logs)
            assert len(found.logs) <= MAX_CONTROLLERS
            assert len(found.subsystems) <= sum(len(log.entries) for log in found.logs)
        assert not [each for each in transport.connections if each.host.error is None]
        nursery.cancel_scope.cancel()


def check(data: bytes) -> None:
    """One input."""
    run(_main, Source(data), limit_s=_LIMIT_S)
