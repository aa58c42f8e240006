"""The transport over loopback sockets, with trio."""

import contextlib
import errno
import os
import socket
import struct
from typing import cast

import pytest
import trio
import trio.testing

from nvmf_tcp import TcpOptions, TcpTransport
from nvmf_tcp.driver import _reason
from nvmf_tcp.pdu import PduType, TermReq
from nvmf_tcp.sockets import _connect_reason, endpoint_of, set_options
from nvmf_tcp.transport import TcpListener, _listen
from nvmf_tcp.turn import SWITCH
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConfigError,
    ConnectionLostError,
    ConnectionTerminatedError,
    DataDigestError,
    HandshakeError,
    RemoteProtocolError,
    UnreachableError,
)
from nvmf_transport.fabrics import AddressFamily, TransportType
from nvmf_transport.interfaces import (
    ControllerQueuePair,
    ControllerQueueParams,
    Endpoint,
    HostQueuePair,
    HostQueueParams,
    Transport,
)

from .pair import data_specific, ic_req, ic_resp, pdu, read_command, write_command

ANY_PORT = Address("127.0.0.1", 0)
STEP = "ICReq/ICResp"


@pytest.fixture(autouse=True, params=["at the end of turns", "by tasks"])
def _sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of sending do the same."""
    if request.param == "by tasks":
        monkeypatch.setenv(SWITCH, "1")


def soon(seconds=5.0):
    return trio.current_time() + seconds


@contextlib.asynccontextmanager
async def qpairs(host_params=None, controller_params=None, options=None):
    """A host's qpair and its controller's, connected over loopback."""
    transport: Transport = TcpTransport(options)
    established: list[ControllerQueuePair] = []
    ready, finished = trio.Event(), trio.Event()

    async def control(listener):
        incoming = await listener.accept()
        params = controller_params or ControllerQueueParams()
        async with incoming.establish(params, timeout_s=5) as qpair:
            qpair.configure(entries=128, sq_flow_control=True, in_capsule_bytes=8192)
            established.append(qpair)
            ready.set()
            await finished.wait()

    async with trio.open_nursery() as nursery, transport.listen(ANY_PORT) as listener:
        nursery.start_soon(control, listener)
        params = host_params or HostQueueParams()
        host: HostQueuePair
        async with transport.connect(listener.endpoints[0], params, deadline=soon()) as host:
            await ready.wait()
            try:
                yield host, established[0]
            finally:
                finished.set()


@contextlib.asynccontextmanager
async def scripted_controller(script):
    """An endpoint where `script` plays the controller, with the stream of each connection."""

    async def serve(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await script(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield Endpoint(Address("127.0.0.1", port), AddressFamily.IPV4)
        nursery.cancel_scope.cancel()


async def receive_exactly(stream, count):
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, f"closed after {len(data)} of {count} bytes"
        data += piece
    return data


def pattern(length):
    return bytes(i * 11 % 253 for i in range(length))


async def serve_commands(qpair):
    """Answers reads with the pattern and takes writes; returns what was written, by CID."""
    written = {}

    async def take(command):
        written[command.cid] = bytes(await qpair.receive_data(command))
        qpair.transmit(ResponseCapsule(command.cid))

    async with trio.open_nursery() as nursery:
        try:
            while True:
                command = await qpair.receive()
                if command.sqe[0] & 1:
                    nursery.start_soon(take, command)
                    continue
                await qpair.send_data(command, [pattern(command.transfer_bytes)], complete=False)
                qpair.transmit(ResponseCapsule(command.cid))
        except ConnectionLostError:
            return written


@pytest.mark.parametrize("digests", [False, True])
async def test_reads_and_writes_of_many_sizes(digests):
    params = HostQueueParams(header_digest=digests, data_digest=digests)
    sizes = [1, 512, 8192, 8193, 70_001, 300_000, 1 << 20]
    async with qpairs(params) as (host, controller), trio.open_nursery() as nursery:
        nursery.start_soon(serve_commands, controller)
        targets = {cid: bytearray(size) for cid, size in enumerate(sizes)}
        for cid, target in targets.items():
            host.transmit(read_command(cid, memoryview(target)))
            host.transmit(write_command(cid + 50, pattern(sizes[cid])))
        responses = [await host.receive() for _ in range(2 * len(sizes))]
        assert sorted(response.cid for response in responses) == sorted(
            [*targets, *(cid + 50 for cid in targets)]
        )
        assert all(target == pattern(len(target)) for target in targets.values())
        assert not any(response.status or response.digest_error for response in responses)
        assert host.limits.data_digest == controller.limits.header_digest == digests
        assert host.peer == controller.local
        assert host.local == controller.peer
        nursery.cancel_scope.cancel()


async def test_data_of_more_than_a_batch_leaves_though_nothing_else_comes(monkeypatch):
    monkeypatch.setattr("nvmf_tcp.host.H2C_BATCH_BYTES", 4096)
    params = ControllerQueueParams(maxh2cdata_bytes=4096)
    async with qpairs(controller_params=params) as (host, controller):
        host.transmit(write_command(1, pattern(40_000)))
        command = await controller.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.receive)
            nursery.start_soon(controller.receive)
            with trio.fail_after(5):
                assert await controller.receive_data(command) == pattern(40_000)
            nursery.cancel_scope.cancel()


async def test_much_is_sent_before_the_turn_ends_and_all_of_it_in_order():
    params = ControllerQueueParams(max_queued_bytes=64 << 20)
    sending_by_tasks = bool(os.environ.get(SWITCH))
    async with qpairs(controller_params=params) as (host, controller):
        targets = {cid: bytearray(1 << 20) for cid in range(20)}
        for cid, target in targets.items():
            host.transmit(read_command(cid, memoryview(target)))
        commands = [await controller.receive() for _ in targets]
        await trio.testing.wait_all_tasks_blocked()
        for command in commands:
            # More than the kernel takes at once; none of these yields.
            await controller.send_data(command, [bytes([command.cid]) * (1 << 20)], complete=False)
            if command.cid == 0:
                left = controller._connection.unsent_bytes < 1 << 20
                assert left != sending_by_tasks
            controller.transmit(ResponseCapsule(command.cid))
        assert controller._connection.unsent_bytes > 0
        with trio.fail_after(5):
            assert [(await host.receive()).cid for _ in targets] == list(targets)
        assert all(target == bytes([cid]) * (1 << 20) for cid, target in targets.items())


async def test_data_in_more_buffers_than_one_system_call_takes():
    async with qpairs() as (host, controller):
        pieces = [pattern(301)[at % 30 :] for at in range(3000)]
        target = bytearray(sum(map(len, pieces)))
        host.transmit(read_command(1, memoryview(target)))
        await controller.send_data(await controller.receive(), pieces, complete=False)
        controller.transmit(ResponseCapsule(1))
        assert (await host.receive()).data_bytes == len(target)
        assert target == b"".join(pieces)


async def test_receive_nowait_returns_what_is_at_hand_only():
    async with qpairs() as (host, controller):
        host.transmit(read_command(1, None))
        host.transmit(read_command(2, None))
        for _ in range(2):
            controller.transmit(ResponseCapsule((await controller.receive()).cid))
        assert host.receive_nowait() is None
        assert (await host.receive()).cid == 1
        second = host.receive_nowait()
        assert second is not None
        assert second.cid == 2
        assert host.receive_nowait() is None


async def test_a_cancelled_receive_loses_nothing():
    async with qpairs() as (host, controller):
        for cid in range(100):
            host.transmit(read_command(cid, None))
            with trio.CancelScope() as scope:
                scope.cancel()
                await host.receive()
        received = [(await controller.receive()).cid for _ in range(100)]
        for cid in received:
            controller.transmit(ResponseCapsule(cid))
        seen: list[int] = []
        while len(seen) < 100:
            with trio.CancelScope() as scope:
                scope.cancel()
                seen.append((await host.receive()).cid)
            await trio.lowlevel.checkpoint()
        assert seen == list(range(100))


async def test_leaving_sends_what_is_queued():
    finished = []
    async with trio.open_nursery() as nursery, TcpTransport().listen(ANY_PORT) as listener:

        async def control():
            incoming = await listener.accept()
            async with incoming.establish(ControllerQueueParams(), timeout_s=5) as qpair:
                finished.append((await qpair.receive()).cid)

        nursery.start_soon(control)
        endpoint = listener.endpoints[0]
        async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            host.transmit(read_command(7, None))
    assert finished == [7]


async def test_the_last_response_arrives_though_more_commands_were_on_their_way():
    responses = []
    async with trio.open_nursery() as nursery, TcpTransport().listen(ANY_PORT) as listener:

        async def control():
            incoming = await listener.accept()
            async with incoming.establish(ControllerQueueParams(), timeout_s=5) as qpair:
                qpair.configure(entries=16, sq_flow_control=True, in_capsule_bytes=8192)
                await qpair.receive()
                qpair.transmit(ResponseCapsule(0, status=0x183))

        nursery.start_soon(control)
        endpoint = listener.endpoints[0]
        async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            host.transmit(read_command(0, None))
            await trio.testing.wait_all_tasks_blocked()
            host.transmit(read_command(1, None))
            await trio.testing.wait_all_tasks_blocked()
            responses.append(await host.receive())
            with pytest.raises(ConnectionLostError, match="between PDUs"):
                await host.receive()
    assert [response.status for response in responses] == [0x183]


async def test_a_lost_connection_is_told_at_every_call_and_to_every_waiter():
    async with scripted_controller(play_write_then_close) as endpoint:
        transport = TcpTransport()
        async with transport.connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            host.transmit(read_command(1, None))
            with pytest.raises(ConnectionLostError, match="inside a PDU") as first:
                await host.receive()
            host.transmit(read_command(2, None))
            with pytest.raises(ConnectionLostError) as second:
                await host.receive()
            assert first.value is second.value


async def play_write_then_close(stream):
    await receive_exactly(stream, 128)
    await stream.send_all(ic_resp())
    await receive_exactly(stream, 72)
    await stream.send_all(b"\x05\x00")


async def test_receive_data_ends_with_the_connection():
    failed = []
    async with qpairs() as (host, controller):

        async def want(command):
            with pytest.raises(ConnectionLostError):
                await controller.receive_data(command)
            failed.append(command.cid)

        host.transmit(write_command(1, bytes(100_000)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(want, await controller.receive())
            await trio.testing.wait_all_tasks_blocked()
            host.driver._sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionLostError):
                await controller.receive()
        assert failed == [1]


async def test_a_cancelled_receive_data_does_not_disturb_the_connection():
    async with qpairs() as (host, controller):
        host.transmit(write_command(1, bytes(1 << 20)))
        command = await controller.receive()
        with trio.move_on_after(0):
            await controller.receive_data(command)
        controller.transmit(ResponseCapsule(1, status=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_commands, controller)
            # The data on its way comes first: the host's queue is in order.
            assert (await host.receive()).status == 4
            host.transmit(write_command(1, bytes(1 << 20)))
            assert (await host.receive()).status == 0
            nursery.cancel_scope.cancel()


async def test_a_bad_data_digest_from_the_host_fails_receive_data():
    async with qpairs(HostQueueParams(data_digest=True)) as (host, controller):
        host.transmit(write_command(1, bytes(100_000)))
        failed = []

        async def want(command):
            with pytest.raises(DataDigestError):
                await controller.receive_data(command)
            failed.append(command.cid)
            controller.transmit(ResponseCapsule(command.cid, status=0x22))

        async with trio.open_nursery() as nursery:
            # The digest as the host computes it is of other data than it sends.
            connection = host._connection
            make = connection._send_h2c_data

            def spoil(r2t):
                length = make(r2t)
                connection._out[-1] = bytes(4)
                return length

            connection._send_h2c_data = spoil
            nursery.start_soon(want, await controller.receive())
            nursery.start_soon(serve_commands, controller)
            assert (await host.receive()).status == 0x22
            assert failed == [1]
            nursery.cancel_scope.cancel()


async def test_a_controller_takes_no_command_while_too_much_is_unsent():
    params = ControllerQueueParams(max_queued_bytes=100_000, max_transfer_bytes=64 << 20)
    async with qpairs(controller_params=params) as (host, controller):
        target = bytearray(64 << 20)
        host.transmit(read_command(1, memoryview(target)))
        host.transmit(read_command(2, memoryview(bytearray(512))))
        command = await controller.receive()
        await controller.send_data(command, [bytes(64 << 20)], complete=False)
        controller.transmit(ResponseCapsule(1))
        with trio.move_on_after(0.05) as waited:
            await controller.receive()
        assert waited.cancelled_caught
        with trio.move_on_after(0.05) as waited:
            await controller.send_data(command, [bytes(64 << 20)], complete=False)
        assert waited.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_commands, controller)
            assert [(await host.receive()).cid for _ in range(2)] == [1, 2]
            nursery.cancel_scope.cancel()


async def test_whoever_waits_for_room_goes_on_as_soon_as_there_is_some():
    """It is sent when the loop is about to wait, for whatever comes: nothing else comes here."""
    params = ControllerQueueParams(max_queued_bytes=0)
    async with qpairs(controller_params=params) as (host, controller):
        for cid in (1, 2):
            host.transmit(read_command(cid, memoryview(bytearray(512))))
        with trio.fail_after(5):
            for cid in (1, 2):
                command = await controller.receive()
                assert command.cid == cid
                began = trio.current_time()
                await controller.send_data(command, [bytes(512)], complete=False)
                controller.transmit(ResponseCapsule(cid))
                # Waits for that to leave.
                await controller.driver.drained(0)
                assert trio.current_time() - began < 1
            assert [(await host.receive()).cid for _ in range(2)] == [1, 2]


async def test_a_breach_sends_a_term_req_and_waits_for_the_peer_to_close():
    got = []

    async def script(stream):
        await receive_exactly(stream, 128)
        await stream.send_all(ic_resp() + pdu(PduType.R2T, data_specific(9, 0, 0, 512)))
        got.append(TermReq.unpack(await receive_exactly(stream, 48)))
        # Half-closed: the host sends no more, and still reads.
        assert await stream.receive_some(1) == b""

    async with scripted_controller(script) as endpoint:
        with pytest.raises(RemoteProtocolError, match="CCCID 9"):
            async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()) as host:
                await host.receive()
    assert (got[0].fes, got[0].fei) == (1, 8)


async def test_what_a_host_sent_and_nobody_took_is_not_sent_after_its_end():
    closed, over = trio.Event(), trio.Event()
    taken = 0
    reset = False

    async def script(stream):
        nonlocal taken, reset
        await receive_exactly(stream, 128)
        await stream.send_all(ic_resp())
        await closed.wait()
        try:
            while data := await stream.receive_some(1 << 20):
                taken += len(data)
        except trio.BrokenResourceError:
            reset = True
        over.set()

    async with scripted_controller(script) as endpoint:
        params = HostQueueParams(entries=4096, in_capsule_bytes=8192)
        async with TcpTransport().connect(endpoint, params, deadline=soon()) as host:
            for cid in range(2000):
                host.transmit(write_command(cid, bytes(8192)))
        closed.set()
        await over.wait()
    assert reset
    assert taken < 2000 * 8192


async def test_a_term_req_from_the_controller_is_named():
    async def script(stream):
        await receive_exactly(stream, 128)
        term = TermReq(pdu_type=PduType.C2H_TERM_REQ, hlen=24, plen=24, fes=3, fei=0xABCD)
        await stream.send_all(ic_resp() + term.pack())
        await stream.receive_some(1)

    async with scripted_controller(script) as endpoint:
        with pytest.raises(ConnectionTerminatedError, match="Header Digest Error"):
            async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()) as host:
                await host.receive()


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


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ECONNRESET, "reset the connection"),
        (errno.ETIMEDOUT, "does not acknowledge"),
        (errno.ENETDOWN, "Network is down"),
    ],
)
def test_reasons_for_a_lost_connection(code, text):
    assert text in _reason(OSError(code, ""))


async def test_a_reset_is_told_to_sender_and_receiver():
    async def script(stream):
        await receive_exactly(stream, 128)
        await stream.send_all(ic_resp(maxh2cdata=1 << 30))
        await receive_exactly(stream, 72)
        await stream.send_all(pdu(PduType.R2T, data_specific(1, 0, 0, 64 << 20)))
        await receive_exactly(stream, 1 << 16)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async with scripted_controller(script) as endpoint:
        transport = TcpTransport(TcpOptions(maxr2t=0))
        async with transport.connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            host.transmit(write_command(1, bytes(64 << 20)))
            with pytest.raises(ConnectionLostError, match="reset"):
                await host.receive()


async def test_a_term_req_is_read_though_sending_fails_by_then():
    async def script(stream):
        await receive_exactly(stream, 128)
        term = TermReq(pdu_type=PduType.C2H_TERM_REQ, hlen=24, plen=24, fes=2)
        await stream.send_all(ic_resp())
        await receive_exactly(stream, 72)
        await stream.send_all(term.pack())
        stream.socket.close()

    async with scripted_controller(script) as endpoint:
        transport = TcpTransport()
        async with transport.connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            for cid in range(5):
                host.transmit(read_command(cid, None))
                await trio.sleep(0.02)
            with pytest.raises(ConnectionTerminatedError, match="PDU Sequence Error"):
                await host.receive()


async def test_a_dead_sender_holds_up_nobody_who_waits_for_room():
    async with qpairs(controller_params=ControllerQueueParams(max_queued_bytes=0)) as (
        host,
        controller,
    ):
        host.transmit(read_command(1, memoryview(bytearray(512))))
        command = await controller.receive()
        controller.driver._sock.shutdown(socket.SHUT_WR)
        await controller.send_data(command, [bytes(512)], complete=False)
        await controller.send_data(command, [bytes(512)], complete=False)
        with pytest.raises(ConnectionLostError):
            await controller.receive()


async def test_statistics_count_pdus_and_bytes():
    async with qpairs() as (host, controller):
        host.transmit(read_command(1, None))
        await controller.receive()
        controller.transmit(ResponseCapsule(1))
        await host.receive()
        assert (host.statistics.pdus_sent, host.statistics.bytes_sent) == (2, 128 + 72)
        assert (host.statistics.pdus_received, host.statistics.bytes_received) == (2, 128 + 24)
        assert controller.statistics.pdus_received == 2
