"""Connecting and listening: the handshake, local ends, names, and why it fails."""

import contextlib
import errno
import socket
from typing import cast

import pytest
import trio

from nvmf_tcp import TcpOptions, TcpTransport
from nvmf_tcp.pdu import PduType, TermReq
from nvmf_tcp.sockets import _connect_reason, endpoint_of, set_options
from nvmf_tcp.transport import TcpListener, _listen
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    ConfigError,
    ConnectionLostError,
    ConnectionTerminatedError,
    HandshakeError,
    RemoteProtocolError,
    UnreachableError,
)
from nvmf_transport.fabrics import AddressFamily, TransportType
from nvmf_transport.interfaces import ControllerQueueParams, Endpoint, HostQueueParams

from .loopback import ANY_PORT, qpairs, receive_exactly, scripted_controller, soon
from .pair import ic_req, ic_resp

STEP = "ICReq/ICResp"


pytestmark = pytest.mark.usefixtures("sending")


async def say_nothing(stream):
    await trio.sleep_forever()


async def close_at_once(stream):
    await receive_exactly(stream, 128)


async def answer_http(stream):
    await receive_exactly(stream, 128)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await stream.receive_some(1)


async def terminate(stream):
    await receive_exactly(stream, 128)
    await stream.send_all(
        TermReq(pdu_type=PduType.C2H_TERM_REQ, hlen=24, plen=24, fes=6, fei=8).pack()
    )


async def grant_no_digest(stream):
    await receive_exactly(stream, 128)
    await stream.send_all(ic_resp())
    await stream.receive_some(1)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        (say_nothing, HandshakeError, "no ICResp within 0.2 s; is that an NVMe/TCP port?"),
        (close_at_once, ConnectionLostError, "during initialisation"),
        (answer_http, RemoteProtocolError, "does not speak NVMe/TCP"),
        (terminate, ConnectionTerminatedError, "Unsupported Parameter, at byte 8"),
        (grant_no_digest, HandshakeError, "does not grant the header digest"),
    ],
)
async def test_a_handshake_that_fails_names_its_step(script, error, text):
    """Also: it comes as one plain error, never in an ExceptionGroup."""
    async with scripted_controller(script) as endpoint:
        params = HostQueueParams(header_digest=True)
        with pytest.raises(error) as info:
            async with TcpTransport().connect(endpoint, params, deadline=soon(0.2)):
                pytest.fail("connected")
    assert type(info.value) is error
    assert text in str(info.value)
    assert info.value.step == STEP


@pytest.mark.parametrize(
    ("sent", "error", "text"),
    [
        (b"", HandshakeError, "no ICReq within 0.2 s"),
        (b"GET / HTTP/1.1\r\n\r\n", RemoteProtocolError, "does not speak NVMe/TCP"),
        (ic_req(pfv=3), RemoteProtocolError, "PFV 3"),
    ],
)
async def test_a_controller_gives_up_a_host_that_does_not_initialise(sent, error, text):
    async with TcpTransport().listen(ANY_PORT) as listener:
        port = listener.endpoints[0].address.port or 0
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(sent)
            incoming = await listener.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain_stream, stream)
                with pytest.raises(error, match=text) as info:
                    async with incoming.establish(ControllerQueueParams(), timeout_s=0.2):
                        pytest.fail("established")
    assert info.value.step == STEP


async def drain_stream(stream):
    while await stream.receive_some(65536):
        pass
    await stream.send_eof()


async def test_a_caller_that_is_cancelled_leaves_and_closes():
    async with scripted_controller(say_nothing) as endpoint:
        with trio.move_on_after(0.05) as scope:
            async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()):
                pytest.fail("connected")
        assert scope.cancelled_caught
    async with qpairs() as (host, _):
        with trio.move_on_after(0.05) as scope:
            await host.receive()
        assert scope.cancelled_caught


async def test_the_bodys_own_error_comes_out_as_it_is():
    class OurError(Exception):
        pass

    async with scripted_controller(grant_no_digest) as endpoint:
        with pytest.raises(OurError):
            async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()):
                raise OurError


async def test_nobody_listening_is_unreachable():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint = endpoint_of(sock.family, sock.getsockname())
        with pytest.raises(UnreachableError, match="connection refused") as info:
            async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()):
                pytest.fail("connected")
    assert (info.value.field, info.value.value) == ("address", str(endpoint))


async def test_no_answer_to_syn_ends_at_the_deadline():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        endpoint = endpoint_of(full.family, full.getsockname())
        with contextlib.ExitStack() as stack:
            # The backlog is one connection; further SYNs are dropped.
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            await trio.sleep(0.05)
            with pytest.raises(UnreachableError, match=r"no TCP connection within 0\.1 s"):
                async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon(0.1)):
                    pytest.fail("connected")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (HostQueueParams(host_iface="nosuch0"), "host_iface"),
        (HostQueueParams(host_iface="x" * 40), "host_iface"),
        (HostQueueParams(host_traddr="192.0.2.77"), "host_traddr"),
        (HostQueueParams(host_traddr="::1"), "host_traddr"),
        (HostQueueParams(host_traddr="a name"), "host_traddr"),
    ],
)
async def test_a_local_end_that_is_not_ours_is_a_config_error(params, field):
    endpoint = Endpoint(Address("127.0.0.1", 9), AddressFamily.IPV4)
    with pytest.raises(ConfigError) as info:
        async with TcpTransport().connect(endpoint, params, deadline=soon()):
            pytest.fail("connected")
    assert (info.value.field, info.value.value) == (field, getattr(params, field))


async def test_local_address_interface_and_peer_timeout_are_used():
    params = HostQueueParams(host_traddr="127.0.0.2", host_iface="lo", peer_timeout_s=15)
    async with qpairs(params) as (host, controller):
        assert host.local.address.host == controller.peer.address.host == "127.0.0.2"
        sock = host.driver._sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_keepalive_is_at_least_a_second():
    with socket.socket() as sock:
        set_options(sock, 0.5)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 500
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1


@pytest.mark.parametrize("peer_timeout_s", [200_000.0, 4_294_967.0])
def test_a_timeout_that_the_kernel_does_not_take_is_the_longest_it_takes(peer_timeout_s):
    with socket.socket() as sock:
        set_options(sock, peer_timeout_s)
        longest_ms = min(round(peer_timeout_s * 1000), 0x7FFFFFFF)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == longest_ms
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 32767


async def test_names_and_literals_are_resolved():
    transport = TcpTransport()
    assert (transport.name, transport.trtype) == ("tcp", TransportType.TCP)
    (endpoint,) = await transport.resolve(Address("127.0.0.1", 4420), deadline=soon())
    assert endpoint == Endpoint(Address("127.0.0.1", 4420), AddressFamily.IPV4)
    (endpoint,) = await transport.resolve(Address("::1", 4420), deadline=soon())
    assert endpoint == Endpoint(Address("::1", 4420), AddressFamily.IPV6)
    names = await transport.resolve(Address("localhost", 4420), deadline=soon())
    assert Endpoint(Address("127.0.0.1", 4420), AddressFamily.IPV4) in names


async def test_a_zone_stays_with_its_address():
    (endpoint,) = await TcpTransport().resolve(Address("fe80::1%lo", 4420), deadline=soon())
    assert str(endpoint) == "[fe80::1%lo]:4420"


async def test_a_name_that_does_not_exist_is_unreachable():
    address = Address("no-such-host.invalid", 4420)
    with pytest.raises(UnreachableError, match=r"no-such-host\.invalid") as info:
        await TcpTransport().resolve(address, deadline=soon())
    assert info.value.value == "no-such-host.invalid:4420"


async def test_a_look_up_without_an_answer_ends_at_the_deadline(monkeypatch, autojump_clock):
    async def never(*args, **kwargs):
        await trio.sleep_forever()

    monkeypatch.setattr(trio.socket, "getaddrinfo", never)
    with pytest.raises(UnreachableError, match="no answer to the look-up within 3 s"):
        await TcpTransport().resolve(Address("slow.example", 4420), deadline=soon(3))


async def test_a_port_is_required():
    with pytest.raises(ConfigError, match="port"):
        await TcpTransport().resolve(Address("127.0.0.1"), deadline=soon())


async def test_listening_at_several_addresses_and_on_a_port_in_use():
    transport = TcpTransport()
    async with transport.listen(Address("localhost", 0)) as listener:
        assert len({endpoint.address.port for endpoint in listener.endpoints}) == 1
        for endpoint in listener.endpoints:
            async with trio.open_nursery() as nursery:

                async def take():
                    incoming = await listener.accept()
                    assert str(incoming.peer) != str(incoming.local)
                    await incoming.aclose()

                nursery.start_soon(take)
                host, port = endpoint.address.host, endpoint.address.port or 0
                stream = await trio.open_tcp_stream(host, port)
                assert await stream.receive_some(1) == b""
                await stream.aclose()
        with pytest.raises(ConfigError, match="choose another port"):
            async with transport.listen(listener.endpoints[0].address):
                pytest.fail("listening")
    with pytest.raises(ConfigError, match="cannot listen"):
        async with transport.listen(Address("192.0.2.77", 0)):
            pytest.fail("listening")
    with pytest.raises(ConfigError, match="address of this machine"):
        async with transport.listen(Address("no-such-host.invalid", 0)):
            pytest.fail("listening")


async def test_any_of_several_sockets_may_be_the_one_that_is_connected_to():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_listen("127.0.0.1", 0)) for _ in range(3)]
        listener = TcpListener(sockets, TcpOptions())
        for sock in sockets:
            async with trio.open_nursery() as nursery:

                async def take(expected):
                    incoming = await listener.accept()
                    assert incoming.local.address.port == expected
                    await incoming.aclose()

                nursery.start_soon(take, sock.getsockname()[1])
                await trio.testing.wait_all_tasks_blocked()
                stack.enter_context(socket.create_connection(sock.getsockname()))


async def test_no_route_is_unreachable():
    endpoint = Endpoint(Address("255.255.255.255", 4420), AddressFamily.IPV4)
    with pytest.raises(UnreachableError):
        async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()):
            pytest.fail("connected")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ECONNREFUSED, "nothing listens"),
        (errno.EHOSTUNREACH, "no route to this address"),
        (errno.ETIMEDOUT, "timed out"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_reasons_for_no_connection(code, text):
    assert text in _connect_reason(code)


async def test_accept_waits_out_a_lack_of_descriptors(autojump_clock):
    async with TcpTransport().listen(ANY_PORT) as listener:
        real = listener._sockets[0]
        failures = [errno.EMFILE, errno.ECONNABORTED]

        class Exhausted:
            def accept(self):
                if failures:
                    raise OSError(failures.pop(0), "none left")
                return real.accept()

            def fileno(self):
                return real.fileno()

        listener._sockets = [cast("socket.socket", Exhausted())]
        with socket.create_connection(real.getsockname()):
            started = trio.current_time()
            incoming = await listener.accept()
            await incoming.aclose()
        assert trio.current_time() - started >= 0.1
