"""The discovery subsystem."""

import pytest
import trio

from nvmf_controller.discovery import DiscoverySubsystem, Portal
from nvmf_transport.address import Address
from nvmf_transport.fabrics import (
    DISCOVERY_NQN,
    AddressFamily,
    DiscoveryLogEntry,
    DiscoveryLogHeader,
    TransportType,
)
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import Endpoint
from nvmf_transport.logs import LogId
from nvmf_transport.nvme import AdminOpcode, Cc, FeatureId, SubmissionEntry
from nvmf_transport.status import INVALID_FIELD, INVALID_LOG_PAGE, INVALID_OPCODE
from tests.controller.raw_host import SUBNQN, discovery_data, target


async def test_discovery_on_every_port():
    async with target(discovery=True) as t:
        assert t.server.discovery_endpoints[0].address.port == 8009
        for endpoint in (t.endpoint, t.server.discovery_endpoints[0]):
            async with t.queue(endpoint) as queue:
                assert (await queue.connect(data=discovery_data()))[0].ok
                # What FreeBSD's host sets: nothing else.
                assert (await queue.set_cc(Cc.of(en=1))).ok
                _, page = await queue.log(LogId.DISCOVERY, 2048)
                header = DiscoveryLogHeader.unpack(page)
                entry = DiscoveryLogEntry.unpack(page, 1024)

                assert (header.genctr, header.numrec, header.recfmt) == (1, 1, 0)
                assert entry.subnqn == SUBNQN
                assert (entry.traddr, entry.trsvcid) == ("controller", "49152")
                assert (entry.trtype, entry.adrfam) == (254, 254)
                assert (entry.subtype, entry.cntlid, entry.sqflow_optional) == (2, 0xFFFF, 1)
                assert (await queue.log(LogId.DISCOVERY, 1024))[1] == page[:1024]
                assert (await queue.log(LogId.DISCOVERY, 1024, 1024))[1] == page[1024:]
                assert (await queue.log(LogId.DISCOVERY, 16, 512))[1] == page[512:528]


async def test_discovery_port_serves_the_subsystem_too():
    async with target(discovery=True) as t, t.queue(t.server.discovery_endpoints[0]) as queue:
        assert (await queue.connect())[0].ok


async def test_discovery_controller_has_only_what_it_needs():
    async with target() as t, t.queue() as queue:
        assert (await queue.connect(data=discovery_data(), kato=5000))[0].ok
        assert (await queue.set_cc(Cc.of(en=1))).ok
        fields = IdentifyController.unpack((await queue.identify(1))[1])
        assert (fields.cntrltype, fields.subnqn, fields.oaes) == (2, DISCOVERY_NQN, 0)
        for cns in (0, 2, 3):
            assert (await queue.identify(cns, 1))[0] == INVALID_FIELD.with_dnr()
        assert (await queue.log(LogId.HEALTH, 512))[0] == INVALID_LOG_PAGE.with_dnr()
        assert (await queue.get_feature(FeatureId.NUMBER_OF_QUEUES))[0] == INVALID_FIELD.with_dnr()
        assert (await queue.get_feature(FeatureId.KEEP_ALIVE_TIMER))[1] == 5000
        assert (await queue.command(SubmissionEntry(opc=AdminOpcode.KEEP_ALIVE).pack()))[0].ok
        status, _, _ = await queue.command(SubmissionEntry(opc=AdminOpcode.ABORT).pack())
        assert status == INVALID_OPCODE.with_dnr()


async def test_silent_host_without_keep_alive(autojump_clock):
    async with target() as t, t.queue() as queue:
        await queue.connect(data=discovery_data())
        await queue.set_cc(Cc.of(en=1))
        with trio.fail_after(250):
            await queue.dead.wait()


V4, V6 = AddressFamily.IPV4, AddressFamily.IPV6


def endpoint(host: str, family: AddressFamily, port: int = 4420) -> Endpoint:
    return Endpoint(Address(host, port), family)


@pytest.mark.parametrize(
    ("listening", "reached_at", "expected"),
    [
        ([("0.0.0.0", V4), ("::", V6)], ("192.0.2.1", V4), ["192.0.2.1"]),
        ([("0.0.0.0", V4), ("::", V6)], ("fe80::1%eth0", V6), ["fe80::1"]),
        ([("127.0.0.1", V4), ("::1", V6)], ("::1", V6), ["127.0.0.1", "::1"]),
        ([], ("127.0.0.1", V4), []),
    ],
)
def test_addresses_in_the_log(listening, reached_at, expected):
    subsystem = DiscoverySubsystem(TransportType.TCP)
    subsystem.set_portals([Portal(SUBNQN, endpoint(*one)) for one in listening])
    page = subsystem._log(endpoint(reached_at[0], reached_at[1], 8009))

    assert DiscoveryLogHeader.unpack(page).numrec == len(expected)
    entries = [DiscoveryLogEntry.unpack(page, 1024 * (1 + n)) for n in range(len(expected))]
    assert [entry.traddr for entry in entries] == expected
    assert all(entry.trsvcid == "4420" for entry in entries)


def test_generation_counter_tells_of_changes():
    subsystem = DiscoverySubsystem(TransportType.TCP)
    at = endpoint("127.0.0.1", V4)
    before = DiscoveryLogHeader.unpack(subsystem._log(at)).genctr
    subsystem.set_portals([Portal(SUBNQN, at)])
    assert DiscoveryLogHeader.unpack(subsystem._log(at)).genctr == before + 1
