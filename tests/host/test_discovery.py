"""Reading discovery logs, from controllers that behave and from others."""

import uuid
from collections.abc import Callable

import attrs
import pytest
import trio

from nvmf_host.discovery import (
    ADMIN_PARAMS,
    MAX_ATTEMPTS,
    DiscoveryLog,
    discover,
    discover_all,
    entry_address,
)
from nvmf_host.identity import HostIdentity
from nvmf_transport import status
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    CommandError,
    ConfigError,
    ConnectionLostError,
    ConnectRejectedError,
    HandshakeError,
    NvmfError,
    RemoteProtocolError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.fabrics import DISCOVERY_NQN, AddressFamily, SubsystemType, TransportType
from nvmf_transport.interfaces import Endpoint
from nvmf_transport.loop import ConnectFault, LoopTransport
from nvmf_transport.status import Status
from tests.host.discovery_peer import DiscoveryPeer, nvm_entry, referral

IDENTITY = HostIdentity(nqn="nqn.2020-01.com.example:host", hostid=uuid.UUID(int=5))
HERE = Address("here", 8009)


@pytest.fixture
def network() -> LoopTransport:
    return LoopTransport()


@pytest.fixture
def add(network: LoopTransport, nursery: trio.Nursery) -> Callable[..., object]:
    async def add(host: str, peer: DiscoveryPeer) -> DiscoveryPeer:
        await nursery.start(peer.serve, network, Address(host, 8009))
        return peer

    return add


async def ask(network: LoopTransport, address: Address = HERE, **how) -> DiscoveryLog:
    return await discover(network, address, identity=IDENTITY, **how)


async def test_an_empty_log(network, add):
    peer = await add("here", DiscoveryPeer(genctr=7))
    log = await ask(network)

    assert (log.genctr, log.entries, log.address) == (7, (), HERE)
    assert log.controller.mn == "peer"
    assert peer.pieces == [(0, 1024), (0, 1024)]


async def test_entries_come_as_they_are(network, add):
    entries = [nvm_entry(1), referral("there"), nvm_entry(2)]
    await add("here", DiscoveryPeer(entries))

    assert list((await ask(network)).entries) == entries


async def test_how_it_connects(network, add):
    peer = await add("here", DiscoveryPeer())
    await ask(network)
    command, data = peer.connects[0]

    assert (command.qid, command.sqsize, command.kato) == (0, 31, 0)
    assert (data.cntlid, data.subnqn) == (0xFFFF, DISCOVERY_NQN)
    assert (data.hostnqn, data.hostid) == (IDENTITY.nqn, IDENTITY.hostid.bytes)


async def test_the_controller_is_shut_down_before_the_connection_ends(network, add):
    peer = await add("here", DiscoveryPeer())
    await ask(network)
    await trio.testing.wait_all_tasks_blocked()

    assert (peer.cc.en, peer.cc.shn) == (1, 1)
    assert peer.ended == {"ConnectionLostError": 1}
    assert network.connections == []


async def test_the_port_is_8009_where_none_is_given(network, add):
    await add("here", DiscoveryPeer())

    assert (await ask(network, Address("here"))).address == HERE


async def test_digests_are_asked_for_on_demand(network, add, monkeypatch):
    asked = []
    connect = network.connect

    def watch(endpoint, params, **how):
        asked.append((params.header_digest, params.data_digest))
        return connect(endpoint, params, **how)

    monkeypatch.setattr(network, "connect", watch)
    await add("here", DiscoveryPeer())
    await ask(network)
    await ask(network, params=attrs.evolve(ADMIN_PARAMS, header_digest=True, data_digest=True))

    assert asked == [(False, False), (True, True)]


@pytest.mark.parametrize(("mdts", "piece_bytes"), [(0, 65536), (1, 8192), (4, 65536), (255, 65536)])
async def test_long_logs_are_read_in_pieces(network, add, mdts, piece_bytes):
    entries = [nvm_entry(number) for number in range(130)]
    peer = await add("here", DiscoveryPeer(entries, mdts=mdts))
    log = await ask(network)

    assert list(log.entries) == entries
    pieces = peer.pieces[1:-1]
    assert max(length for _, length in pieces) == piece_bytes
    assert [offset for offset, _ in pieces] == list(range(1024, 131 * 1024, piece_bytes))
    assert sum(length for _, length in pieces) == 130 * 1024


async def test_a_log_that_changes_while_it_is_read_is_read_again(autojump_clock, network, add):
    peer = DiscoveryPeer([nvm_entry(1)])

    def change(offset: int, _length: int) -> None:
        if offset and peer.genctr == 1:
            peer.genctr = 2
            peer.entries = [nvm_entry(1), nvm_entry(2)]

    peer.on_log = change
    await add("here", peer)
    log = await ask(network)

    assert (log.genctr, list(log.entries)) == (2, [nvm_entry(1), nvm_entry(2)])


async def test_a_log_that_never_stands_still_is_given_up(autojump_clock, network, add):
    peer = DiscoveryPeer([nvm_entry(1)])

    def change(_offset: int, _length: int) -> None:
        peer.genctr += 1

    peer.on_log = change
    await add("here", peer)
    with pytest.raises(HandshakeError, match=f"each of {MAX_ATTEMPTS} attempts.*GENCTR went") as e:
        await ask(network)

    assert e.value.step == "discovery log"
    assert len(peer.pieces) == 3 * MAX_ATTEMPTS


async def test_restart_is_obeyed(autojump_clock, network, add):
    refusals = [status.DISCOVERY_RESTART, None, status.DISCOVERY_RESTART]

    def refuse(_offset: int, _length: int) -> Status | None:
        return refusals.pop(0) if refusals else None

    await add("here", DiscoveryPeer([nvm_entry(1)], on_log=refuse))

    assert (await ask(network)).entries == (nvm_entry(1),)
    assert refusals == []


async def test_endless_restarts_are_given_up(autojump_clock, network, add):
    await add("here", DiscoveryPeer(on_log=lambda *_: status.DISCOVERY_RESTART.with_dnr()))

    with pytest.raises(HandshakeError, match="Discover Restart"):
        await ask(network)


async def test_any_other_status_is_the_answer(network, add):
    await add("here", DiscoveryPeer(on_log=lambda *_: status.INVALID_LOG_PAGE))

    with pytest.raises(CommandError, match="Get Log Page 70h: Invalid Log Page"):
        await ask(network)


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        ({"numrec": 10_001}, "10001 records; at most 10000 are read"),
        ({"numrec": 2**64 - 1}, "18446744073709551615 records; at most 10000"),
        ({"recfmt": 1}, "record format 1, only 0"),
        ({"short_by": 4}, "1020 bytes of data, 1024 were asked for"),
    ],
)
async def test_hostile_logs_break_the_protocol(network, add, faults, text):
    peer = await add("here", DiscoveryPeer(**faults))
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        await ask(network)

    assert caught.value.step == "discovery log"
    assert peer.pieces == [(0, 1024)]


async def test_connect_refused(network, add):
    await add("here", DiscoveryPeer(connect_status=status.CONNECT_INVALID_HOST.with_dnr()))

    with pytest.raises(ConnectRejectedError, match="Connect Invalid Host"):
        await ask(network)


async def test_a_controller_that_is_never_ready(autojump_clock, network, add):
    await add("here", DiscoveryPeer(never_ready=True))
    with pytest.raises(HandshakeError, match=r"CSTS.RDY=1: not within 2 s") as caught:
        await ask(network)

    assert caught.value.step == "enable"
    assert trio.current_time() < 3


@pytest.mark.parametrize(
    ("answers", "step"),
    [(0, "CONNECT"), (1, "enable"), (4, "Identify Controller"), (5, "discovery log")],
)
async def test_silence_is_found_at_every_step(autojump_clock, network, add, answers, step):
    await add("here", DiscoveryPeer([nvm_entry(1)], mute_after=answers))
    with pytest.raises(HandshakeError, match=f"{step}: no answer within 3 s") as caught:
        await ask(network, timeout_s=3)

    assert caught.value.step == step
    assert trio.current_time() < 6


async def test_silence_at_the_shutdown_does_not_matter(autojump_clock, network, add):
    await add("here", DiscoveryPeer([nvm_entry(1)], mute_after=8))

    assert (await ask(network)).entries == (nvm_entry(1),)
    assert trio.current_time() <= 2


async def test_a_slow_log_has_the_time_for_each_piece(autojump_clock, network, add):
    await add("here", DiscoveryPeer([nvm_entry(number) for number in range(300)], pause_s=2))
    assert len((await ask(network, timeout_s=3)).entries) == 300
    assert trio.current_time() > 10


async def test_a_lost_connection_says_where(network, add):
    peer = DiscoveryPeer()

    def cut(*_):
        network.connections[0].cut()

    peer.on_log = cut
    await add("here", peer)
    with pytest.raises(ConnectionLostError) as caught:
        await ask(network)

    assert caught.value.step == "discovery log"


async def test_nobody_there(network):
    with pytest.raises(UnreachableError, match="here:8009"):
        await ask(network)


async def test_nobody_answers(autojump_clock, network, add):
    await add("here", DiscoveryPeer())
    network.connect_fault = ConnectFault.HANG
    with pytest.raises(UnreachableError):
        await ask(network, timeout_s=4)

    assert trio.current_time() == 4


async def test_every_address_of_a_name_is_tried(network, add, monkeypatch):
    await add("second", DiscoveryPeer(genctr=2))
    hosts = (Address("first", 8009), Address("second", 8009))

    async def resolve(_address: Address, *, deadline: float) -> list[Endpoint]:
        return [Endpoint(host, AddressFamily.INTRA_HOST) for host in hosts]

    monkeypatch.setattr(network, "resolve", resolve)
    log = await ask(network)

    assert (log.genctr, log.address, log.endpoint.address.host) == (2, HERE, "second")


async def test_a_malformed_nqn_is_refused_before_anything_is_sent(network):
    with pytest.raises(ConfigError, match="224 bytes"):
        await ask(network, subnqn="n" * 224)


# Referrals.


async def ask_all(network: LoopTransport, **how):
    return await discover_all(network, HERE, identity=IDENTITY, **how)


async def test_referrals_are_followed_once_each(network, add):
    await add("here", DiscoveryPeer([nvm_entry(1), referral("b"), referral("c")]))
    await add("b", DiscoveryPeer([nvm_entry(1), nvm_entry(2), referral("here"), referral("c")]))
    c = await add("c", DiscoveryPeer([referral("b"), referral("c"), nvm_entry(3)]))
    found = await ask_all(network)

    assert [log.address.host for log in found.logs] == ["here", "b", "c"]
    assert found.failures == ()
    assert list(found.subsystems) == [nvm_entry(1), nvm_entry(2), nvm_entry(3)]
    assert len(c.connects) == 1


async def test_the_controllers_own_entry_is_not_a_referral(network, add):
    own = referral("nowhere", subtype=SubsystemType.CURRENT_DISCOVERY)
    await add("here", DiscoveryPeer([own]))

    assert len((await ask_all(network)).logs) == 1


async def test_a_referral_names_its_own_subsystem(network, add):
    nqn = "nqn.2020-01.com.example:discovery"
    await add("here", DiscoveryPeer([referral("b", subnqn=nqn), referral("b", subnqn="")]))
    b = await add("b", DiscoveryPeer())
    await ask_all(network)

    assert [data.subnqn for _, data in b.connects] == [nqn, DISCOVERY_NQN]


async def test_failing_referrals_leave_the_others(network, add):
    entries = [
        referral("gone"),
        referral("b", trtype=TransportType.RDMA),
        referral("bad host"),
        referral("b", trsvcid="x"),
        referral("b", subnqn="n" * 255),
        referral("refuses"),
        referral("b"),
    ]
    await add("here", DiscoveryPeer(entries))
    await add("refuses", DiscoveryPeer(connect_status=status.CONNECT_INVALID_HOST))
    await add("b", DiscoveryPeer([nvm_entry(1)]))
    found = await ask_all(network)
    failures: list[tuple[str, type[NvmfError]]] = [
        (failure.address, type(failure.error)) for failure in found.failures
    ]

    assert failures == [
        ("gone:8009", UnreachableError),
        ("b:8009", UnavailableError),
        ("bad host:8009", ConfigError),
        ("b:x", ConfigError),
        ("b:8009", ConfigError),
        ("refuses:8009", ConnectRejectedError),
    ]
    assert list(found.subsystems) == [nvm_entry(1)]


async def test_a_chain_of_referrals_is_cut(network, add):
    await add("here", DiscoveryPeer([referral("r1")]))
    for number in range(1, 5):
        await add(f"r{number}", DiscoveryPeer([referral(f"r{number + 1}")]))
    found = await ask_all(network, max_depth=2)

    assert [log.address.host for log in found.logs] == ["here", "r1", "r2"]
    assert [failure.address for failure in found.failures] == ["r3:8009"]
    assert "2 are followed" in str(found.failures[0].error)


async def test_a_swarm_of_referrals_is_cut(network, add):
    await add("here", DiscoveryPeer([referral(f"r{number}") for number in range(9)]))
    found = await ask_all(network, max_controllers=4)

    assert len(found.failures) == 9
    reasons = [str(failure.error) for failure in found.failures]
    assert sum("refused" in reason for reason in reasons) == 3
    assert sum("4 discovery controllers were asked" in reason for reason in reasons) == 6


async def test_the_first_controllers_failure_is_the_answer(network):
    with pytest.raises(UnreachableError):
        await ask_all(network)


@pytest.mark.parametrize(
    ("traddr", "trsvcid", "address"),
    [
        ("1.2.3.4", "4420", Address("1.2.3.4", 4420)),
        ("fe80::1", "4420", Address("fe80::1", 4420)),
        ("::1", "", Address("::1", 8009)),
        ("name", "", Address("name", 8009)),
    ],
)
def test_addresses_of_entries(traddr, trsvcid, address):
    assert entry_address(referral(traddr, trsvcid), 8009) == address


@pytest.mark.parametrize(
    ("traddr", "trsvcid"), [("", "4420"), ("a", "none"), ("::1]:1", "4420"), ("a:1", "4420")]
)
def test_hostile_addresses_of_entries(traddr, trsvcid):
    with pytest.raises(ConfigError):
        entry_address(referral(traddr, trsvcid), 8009)
