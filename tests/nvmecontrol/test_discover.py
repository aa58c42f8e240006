"""discover and connect-all, against a discovery that a test makes up."""

import attrs
import pytest

from nvmecontrol.discovery import Query
from nvmf_host.discovery import Discovery, DiscoveryLog, ReferralFailure
from nvmf_host.messages import ErrorInfo
from nvmf_transport.address import Address
from nvmf_transport.errors import ConnectRejectedError, UnreachableError
from nvmf_transport.fabrics import DISCOVERY_NQN, AddressFamily, DiscoveryLogEntry, SubsystemType
from nvmf_transport.identify import IdentifyController
from nvmf_transport.interfaces import Endpoint
from nvmf_transport.status import Status

from .fakes import FakeDaemon, FakeDiscovery, connected, run

ADDRESS = Address("192.0.2.1", 8009)
ENTRY = DiscoveryLogEntry(
    trtype=3,
    adrfam=1,
    subtype=2,
    treq=4,
    portid=1,
    cntlid=0xFFFF,
    asqsz=32,
    trsvcid="4420",
    subnqn="nqn.2014-08.org.example:disk",
    traddr="192.0.2.1",
)


def discovery(*entries, failures=()):
    log = DiscoveryLog(
        address=ADDRESS,
        endpoint=Endpoint(ADDRESS, AddressFamily.IPV4),
        subnqn=DISCOVERY_NQN,
        genctr=7,
        entries=entries,
        controller=IdentifyController(mn="Discoverer", ver=0x20100),
    )
    return FakeDiscovery(Discovery(logs=(log,), failures=tuple(failures)))


def entry(**changes):
    return attrs.evolve(ENTRY, **changes)


def test_discover_prints_as_freebsd_does():
    second = entry(adrfam=2, treq=1, cntlid=5, traddr="2001:db8::1", sectype=2, subtype=1)

    outcome = run("discover", "192.0.2.1", discovery=discovery(ENTRY, second))

    assert (outcome.code, outcome.err) == (0, "")
    assert (
        outcome.out
        == """\
Discovery
=========
Entry 01
========
 Transport type:       TCP
 Address family:       AF_INET
 Subsystem type:       NVMe
 SQ flow control:      optional
 Secure Channel:       Not specified
 Port ID:              1
 Controller ID:        Dynamic
 Max Admin SQ Size:    32
 Sub NQN:              nqn.2014-08.org.example:disk
 Transport address:    192.0.2.1
 Service identifier:   4420
 Security Type:        None
Entry 02
========
 Transport type:       TCP
 Address family:       AF_INET6
 Subsystem type:       Discovery
 SQ flow control:      required
 Secure Channel:       Required
 Port ID:              1
 Controller ID:        5
 Max Admin SQ Size:    32
 Sub NQN:              nqn.2014-08.org.example:disk
 Transport address:    2001:db8::1
 Service identifier:   4420
 Security Type:        TLS 1.3
"""
    )


def test_unknown_codes_and_hostile_strings_stay_on_their_lines():
    strange = entry(
        trtype=9, adrfam=7, subtype=77, treq=3, cntlid=0xFFFE, subnqn="a\nb\x1b[H\udcff",
        traddr="x\x9b", trsvcid="",
    )  # fmt: skip

    outcome = run("discover", "192.0.2.1", discovery=discovery(strange))

    assert (
        outcome.out
        == """\
Discovery
=========
Entry 01
========
 Transport type:       0x09
 Address family:       0x07
 Subsystem type:       0x4d
 SQ flow control:      required
 Secure Channel:       0x03
 Port ID:              1
 Controller ID:        Static
 Max Admin SQ Size:    32
 Sub NQN:              a\\x0ab\\x1b[H\\xff
 Transport address:    x\\x9b
 Service identifier:
"""
    )


def test_no_entries():
    outcome = run("discover", "192.0.2.1", discovery=discovery())

    assert (outcome.code, outcome.out) == (0, "Discovery\n=========\nNo entries found\n")


def test_verbose_has_the_controller_first():
    lines = run("discover", "-v", "192.0.2.1", discovery=discovery(ENTRY)).out.splitlines()

    assert lines[0] == "Controller Capabilities/Features"
    assert "Model Number:                Discoverer" in lines
    assert "Version:                     2.1.0" in lines
    assert lines[lines.index("Discovery") - 1] == ""


def test_what_is_asked():
    asked = discovery()

    run("discover", *"-q n -I i -w 192.0.2.9 -f eth0 -t TCP fe80::1%eth0".split(), discovery=asked)  # noqa: SIM905

    assert asked.queries == [
        Query(
            transport="tcp",
            address="[fe80::1%eth0]:8009",
            hostnqn="n",
            hostid="i",
            host_traddr="192.0.2.9",
            host_iface="eth0",
        )
    ]


def test_json():
    outcome = run("discover", "192.0.2.1", "--json", discovery=discovery(ENTRY))

    shown = outcome.json
    assert (shown["schema"], shown["genctr"], shown["address"]) == (1, 7, "192.0.2.1:8009")
    assert shown["entries"][0]["subnqn"] == ENTRY.subnqn
    assert "controller" not in shown
    verbose = run("discover", "192.0.2.1", "-v", "--json", discovery=discovery(ENTRY))
    assert verbose.json["controller"]["mn"] == "Discoverer"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ("[::1", 64, "ADDRESS [::1: not an address; a bracketed IPv6 address is written [v6] or "
                     "[v6]:port"),
        ("a:99999", 64, "ADDRESS a:99999: '99999' is not a port; give a number from 1 to 65535"),
        ("-t fc a", 69, "--transport fc: unknown transport; available: tcp"),
        ("a", 68, "ADDRESS a:8009: nobody there; "
                  "check the address, and that a controller listens there"),
    ],
)  # fmt: skip
def test_discover_errors(arguments, code, line):
    outcome = run("discover", *arguments.split())

    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err == f"nvmecontrol discover: {line}\n"


def test_discovery_that_is_refused_is_74():
    refused = FakeDiscovery(ConnectRejectedError(Status(sct=1, sc=0x84)))

    assert run("discover", "a", discovery=refused).code == 74


def connect_all(found, daemon, *arguments):
    return run("connect-all", *arguments, "192.0.2.1", discovery=found, daemon=daemon)


def _devices():
    numbers = iter(range(10))
    return lambda _: connected(device=f"nvme{next(numbers)}", namespaces=())


def test_connect_all_connects_to_every_subsystem_with_the_options():
    daemon = FakeDaemon({"connect": _devices()})
    found = discovery(
        ENTRY,
        entry(subtype=SubsystemType.REFERRAL),
        entry(subtype=SubsystemType.CURRENT_DISCOVERY),
        entry(traddr="2001:db8::1", adrfam=2),
        ENTRY,
    )

    outcome = connect_all(found, daemon, "-r", "0", "-i", "2", "-q", "n")

    assert (outcome.code, outcome.out, outcome.err) == (0, "nvme0\nnvme1\n", "")
    assert found.queries[0].follow_referrals
    assert found.queries[0].hostnqn == "n"
    options = {"reconnect_delay_s": 0.0, "nr_io_queues": 2, "hostnqn": "n"}
    base = {"command": "connect", "subnqn": ENTRY.subnqn} | options
    assert daemon.requests == [
        base | {"address": "192.0.2.1:4420"},
        base | {"address": "[2001:db8::1]:4420"},
    ]


def test_connect_all_skips_with_a_note():
    def answer(request):
        if request["subnqn"] == "already":
            return ErrorInfo(kind="busy", message="already connected as nvme9; use that")
        return connected()

    found = discovery(
        entry(trtype=1),
        entry(adrfam=3),
        entry(sectype=1),
        entry(treq=1),
        entry(subnqn="already"),
        ENTRY,
        failures=[ReferralFailure("192.0.2.7:8009", UnreachableError("refused"))],
    )

    outcome = connect_all(found, FakeDaemon({"connect": answer}))

    assert (outcome.code, outcome.out) == (0, "nvme0\n")
    at = "nvmecontrol connect-all: nqn.2014-08.org.example:disk at 192.0.2.1:4420: skipped:"
    assert outcome.err.splitlines() == [
        "nvmecontrol connect-all: referral 192.0.2.7:8009: not followed: refused",
        f"{at} transport RDMA, only TCP is connected to",
        f"{at} address family 0x03, only IPv4 and IPv6 are connected to",
        f"{at} it demands TLS, which is not offered",
        f"{at} it demands TLS, which is not offered",
        "nvmecontrol connect-all: already at 192.0.2.1:4420: skipped: "
        "already connected as nvme9; use that",
    ]


def test_connect_all_goes_on_after_a_failure():
    def answer(request):
        if request["subnqn"] == "bad":
            return ErrorInfo(
                kind="connect-rejected", message="CONNECT: no; allow it", status="1/84"
            )
        return connected()

    found = discovery(entry(subnqn="bad"), entry(subnqn="n" * 224), entry(traddr="?"), ENTRY)

    outcome = connect_all(found, FakeDaemon({"connect": answer}))

    assert (outcome.code, outcome.out) == (0, "nvme0\n")
    lines = outcome.err.splitlines()
    assert lines[0] == "nvmecontrol connect-all: bad at 192.0.2.1:4420: CONNECT: no; allow it"
    assert "the NQN has 224 bytes" in lines[1]
    assert "not a valid host name" in lines[2]
    assert len(lines) == 3


def test_connect_all_has_the_code_of_the_first_failure_where_all_failed():
    errors = iter(
        [ErrorInfo(kind="unreachable", message="a; b"), ErrorInfo(kind="command", message="c; d")]
    )
    daemon = FakeDaemon({"connect": lambda _: next(errors)})

    outcome = connect_all(discovery(ENTRY, entry(subnqn="other")), daemon, "--json")

    assert outcome.code == 68
    shown = outcome.json
    assert (shown["schema"], shown["connected"], len(shown["failed"])) == (1, [], 2)
    assert shown["failed"][0]["kind"] == "unreachable"


@pytest.mark.parametrize("entries", [[], [entry(trtype=1)], [entry(subtype=1)]])
def test_connect_all_with_nothing_to_connect_to(entries):
    outcome = connect_all(discovery(*entries), FakeDaemon())

    assert (outcome.code, outcome.out) == (69, "")
    assert outcome.err.splitlines()[-1] == (
        "nvmecontrol connect-all: ADDRESS 192.0.2.1:8009: nothing to connect to; "
        "see `nvmecontrol discover`"
    )


def test_connect_all_ends_where_everything_is_connected_already():
    daemon = FakeDaemon({"connect": ErrorInfo(kind="busy", message="already connected; use it")})

    outcome = connect_all(discovery(ENTRY), daemon, "--json")

    assert outcome.code == 0
    assert outcome.json["skipped"][0]["reason"] == "already connected; use it"
