"""The transport in memory behaves as one on a wire does."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_transport import status
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConfigError,
    ConnectionLostError,
    ConnectionTerminatedError,
    LocalProtocolError,
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
    IncomingConnection,
    Listener,
    Transport,
)
from nvmf_transport.loop import LoopIncomingConnection, LoopListener, LoopTransport
from nvmf_transport.loop_ends import LoopControllerQueuePair, LoopHostQueuePair
from nvmf_transport.nvme import SglId, SubmissionEntry
from tests.transport.loop_pair import command, loop_pair


def _satisfies_the_protocols(
    incoming: LoopIncomingConnection,
    listener: LoopListener,
    host: LoopHostQueuePair,
    controller: LoopControllerQueuePair,
) -> tuple[Transport, IncomingConnection, Listener, HostQueuePair, ControllerQueuePair]:
    """Judged by mypy, never called."""
    return LoopTransport(), incoming, listener, host, controller


def endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(Address(host, port), AddressFamily.INTRA_HOST)


async def test_names():
    transport = LoopTransport()

    assert (transport.name, transport.trtype) == ("loop", TransportType.LOOP)
    assert await transport.resolve(Address("a", 1), deadline=1) == (endpoint("a", 1),)


async def test_port_0_takes_a_free_one():
    transport = LoopTransport()
    async with (
        transport.listen(Address("a", 0)) as first,
        transport.listen(Address("a", 0)) as second,
        transport.listen(Address("b", 7)) as third,
    ):
        ports = [each.endpoints[0].address.port for each in (first, second, third)]

        assert ports == [49152, 49153, 7]


@pytest.mark.parametrize("address", [Address("a", 1), Address("a")])
async def test_addresses_that_cannot_be_listened_at(address):
    transport = LoopTransport()
    async with transport.listen(Address("a", 1)):
        with pytest.raises(ConfigError) as caught:
            async with transport.listen(address):
                raise AssertionError

    assert caught.value.value == str(address)


async def test_no_listener_no_connection():
    transport = LoopTransport()
    async with transport.listen(Address("a", 1)):
        pass
    with pytest.raises(UnreachableError, match="a:1: connection refused"):
        async with transport.connect(endpoint("a", 1), HostQueueParams(), deadline=1):
            raise AssertionError


async def test_both_ends_know_each_other():
    async with loop_pair(HostQueueParams(host_traddr="me")) as pair:
        assert str(pair.host.local) == "me:1" == str(pair.controller.peer)
        assert str(pair.host.peer) == "controller:4420" == str(pair.controller.local)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
async def test_digests_are_used_where_both_want_them(asked, allowed):
    async with loop_pair(
        HostQueueParams(header_digest=asked, data_digest=True, in_capsule_bytes=100),
        ControllerQueueParams(header_digest=allowed, in_capsule_bytes=200),
    ) as pair:
        assert pair.host.limits.header_digest is (asked and allowed)
        assert pair.controller.limits.header_digest is (asked and allowed)
        assert pair.host.limits.data_digest
        assert pair.host.limits.in_capsule_bytes == 100
        assert pair.controller.limits.in_capsule_bytes == 200


async def test_a_command_and_its_response():
    async with loop_pair() as pair:
        pair.host.transmit(command(7))
        received = await pair.controller.receive()
        pair.controller.transmit(ResponseCapsule(7, status=2, result=2**40, sqhd=3))
        response = await pair.host.receive()

    assert (received.cid, received.transfer_bytes, received.fault) == (7, 0, None)
    assert await pair.controller.receive_data(received) == b""
    assert (response.cid, response.status, response.result) == (7, 2, 2**40)
    assert (response.sqhd, response.data_bytes, response.digest_error) == (3, 0, False)


@pytest.mark.parametrize(
    ("length", "sgl_id"),
    [(100, SglId.DATA_BLOCK_OFFSET), (101, SglId.TRANSPORT_DATA_BLOCK)],
)
async def test_the_transport_writes_the_sgl(length, sgl_id):
    async with loop_pair(HostQueueParams(in_capsule_bytes=100)) as pair:
        pair.host.transmit(command(1, data_out=bytes(length)))
        entry = SubmissionEntry.unpack((await pair.controller.receive()).sqe)

    assert (entry.psdt, entry.sgl_id, entry.sgl_address) == (1, sgl_id, 0)
    assert entry.sgl_length == length
    assert (entry.cid, entry.nsid) == (1, 1)


async def test_small_writes_take_their_data_along():
    async with loop_pair() as pair:
        data = bytearray(b"a" * 8192)
        pair.host.transmit(command(1, data_out=data))
        data[:] = b"b" * 8192
        received = await pair.controller.receive()

        assert received.transfer_bytes == 8192
        assert received.in_capsule_data == b"a" * 8192
        assert await pair.controller.receive_data(received) == b"a" * 8192


async def test_large_writes_are_asked_for():
    """Data moves only while both ends receive, as on a socket."""
    async with loop_pair() as pair, trio.open_nursery() as nursery:
        data = bytes(range(256)) * 64
        pair.host.transmit(command(1, data_out=data))
        received = await pair.controller.receive()
        got = []

        async def fetch() -> None:
            got.append(await pair.controller.receive_data(received))

        nursery.start_soon(fetch)
        await wait_all_tasks_blocked()
        assert received.in_capsule_data is None
        assert got == []

        assert pair.host.receive_nowait() is None
        await wait_all_tasks_blocked()
        assert got == []

        nursery.start_soon(pair.controller.receive)
        await wait_all_tasks_blocked()
        assert got == [data]
        nursery.cancel_scope.cancel()


async def test_data_lands_in_the_hosts_buffer():
    async with loop_pair() as pair:
        target = bytearray(10)
        pair.host.transmit(command(1, data_in=target))
        received = await pair.controller.receive()
        completed = await pair.controller.send_data(received, [b"abc", b"defg"], complete=False)
        pair.controller.transmit(ResponseCapsule(1))

        assert target == bytes(10)
        response = await pair.host.receive()

    assert received.transfer_bytes == 10
    assert not completed
    assert target == b"abcdefg\0\0\0"
    assert response.data_bytes == 7


@pytest.mark.parametrize("flow_control", [False, True])
async def test_data_completes_only_without_sq_flow_control(flow_control):
    async with loop_pair() as pair:
        pair.controller.configure(entries=32, sq_flow_control=flow_control, in_capsule_bytes=0)
        pair.host.transmit(command(1, data_in=bytearray(4)))
        received = await pair.controller.receive()
        completed = await pair.controller.send_data(received, [b"abcd"], complete=True)

        assert completed is not flow_control
        if flow_control:
            assert pair.host.receive_nowait() is None
        else:
            response = await pair.host.receive()
            assert (response.cid, response.status, response.sqhd) == (1, 0, None)
            assert response.data_bytes == 4


@pytest.mark.parametrize("target", [None, bytearray(3)])
async def test_data_that_does_not_fit_breaks_the_protocol(target):
    async with loop_pair() as pair:
        pair.host.transmit(command(1, data_in=target))
        received = await pair.controller.receive()
        await pair.controller.send_data(received, [b"abcd"], complete=False)
        pair.controller.transmit(ResponseCapsule(1))
        for _ in range(2):
            assert pair.host.receive_nowait() is None
            with pytest.raises(RemoteProtocolError, match="C2HData for CID 1"):
                await pair.host.receive()
        with pytest.raises(ConnectionTerminatedError, match="C2HData for CID 1") as caught:
            await pair.controller.receive()

    assert caught.value.fes in (2, 4)
    assert target in (None, bytearray(3))


async def test_asking_for_data_that_there_is_not_breaks_the_protocol():
    async with loop_pair() as pair, trio.open_nursery() as nursery:
        pair.host.transmit(command(1, data_in=bytearray(4)))
        received = await pair.controller.receive()

        async def ask() -> None:
            with pytest.raises(ConnectionTerminatedError):
                await pair.controller.receive_data(received)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        with pytest.raises(RemoteProtocolError, match="R2T for CID 1"):
            await pair.host.receive()
        with pytest.raises(ConnectionTerminatedError):
            await pair.controller.receive()


async def test_limits_are_faults_of_the_command():
    async with loop_pair(
        HostQueueParams(in_capsule_bytes=200), ControllerQueueParams(max_transfer_bytes=1000)
    ) as pair:
        pair.controller.configure(entries=32, sq_flow_control=False, in_capsule_bytes=100)
        for cid, length in enumerate((100, 101, 1000, 1001)):
            pair.host.transmit(command(cid, data_out=bytes(length)))
        faults = [(await pair.controller.receive()).fault for _ in range(4)]

    assert pair.controller.limits.in_capsule_bytes == 100
    assert faults == [
        None,
        status.DATA_SGL_LENGTH_INVALID.with_dnr(),
        None,
        status.INVALID_FIELD.with_dnr(),
    ]


async def test_the_controller_waits_while_too_much_is_queued():
    async with (
        loop_pair(None, ControllerQueueParams(max_queued_bytes=1000)) as pair,
        trio.open_nursery() as nursery,
    ):
        for cid in range(3):
            pair.host.transmit(command(cid, data_in=bytearray(2000)))
        first, second = await pair.controller.receive(), await pair.controller.receive()
        await pair.controller.send_data(first, [bytes(2000)], complete=False)
        done: list[object] = []

        async def send() -> None:
            await pair.controller.send_data(second, [bytes(2000)], complete=False)
            done.append("sent")

        async def receive() -> None:
            done.append((await pair.controller.receive()).cid)

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert done == []

        # Twice: where the data was sent first, there is too much again.
        for _ in range(2):
            pair.host.receive_nowait()
            await wait_all_tasks_blocked()
        assert sorted(map(str, done)) == ["2", "sent"]


async def test_a_host_that_leaves_is_seen_after_what_it_sent():
    async with loop_pair() as pair:
        pair.host.transmit(command(1))
        pair.host_leaves.cancel()
        await wait_all_tasks_blocked()
        assert (await pair.controller.receive()).cid == 1
        for _ in range(2):
            with pytest.raises(ConnectionLostError, match="host:1 closed the connection"):
                await pair.controller.receive()
        with pytest.raises(ConnectionLostError, match="closed by this side"):
            await pair.host.receive()

        pair.controller.transmit(ResponseCapsule(1))
        pair.host.transmit(command(2))
        assert pair.host.receive_nowait() is None
        assert pair.transport.connections == []


async def test_a_controller_that_leaves_is_seen_after_what_it_sent():
    async with loop_pair() as pair:
        pair.host.transmit(command(1))
        await pair.controller.receive()
        pair.controller.transmit(ResponseCapsule(1))
        pair.controller_leaves.cancel()
        await wait_all_tasks_blocked()
        assert (await pair.host.receive()).cid == 1
        assert pair.host.receive_nowait() is None
        for _ in range(2):
            with pytest.raises(ConnectionLostError, match="controller:4420 closed"):
                await pair.host.receive()


async def test_leaving_wakes_all_that_wait():
    async with loop_pair(None, ControllerQueueParams(max_queued_bytes=0)) as pair:
        pair.host.transmit(command(1, data_out=bytes(9000)))
        pair.host.transmit(command(2, data_in=bytearray(4)))
        first, second = await pair.controller.receive(), await pair.controller.receive()
        woken = []

        async def expect(what: str, wait) -> None:
            try:
                await wait()
            except ConnectionLostError:
                woken.append(what)
            else:
                woken.append(f"{what} returned")

        async def send() -> None:
            await pair.controller.send_data(second, [b"abcd"], complete=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, "data", lambda: pair.controller.receive_data(first))
            await wait_all_tasks_blocked()
            nursery.start_soon(expect, "send", send)
            nursery.start_soon(expect, "receive", pair.controller.receive)
            await wait_all_tasks_blocked()
            assert woken == []
            pair.host_leaves.cancel()

        # Nothing fails on a dead queue but receiving.
        assert sorted(woken) == ["data", "receive", "send returned"]


async def test_a_cancelled_receive_loses_nothing():
    async with loop_pair() as pair:
        for receive in (pair.host.receive, pair.controller.receive):
            with trio.move_on_after(0):
                await receive()
        pair.host.transmit(command(1))
        await pair.controller.receive()
        pair.controller.transmit(ResponseCapsule(1))

        assert (await pair.host.receive()).cid == 1


async def test_receiving_does_not_yield_where_something_is_at_hand():
    async with loop_pair() as pair:
        pair.host.transmit(command(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            assert (await pair.controller.receive()).cid == 1
            pair.controller.transmit(ResponseCapsule(1))
            assert (await pair.host.receive()).cid == 1


async def test_misuse_is_told_to_the_caller():
    async with loop_pair() as pair, trio.open_nursery() as nursery:
        pair.host.transmit(command(1))
        with pytest.raises(LocalProtocolError, match="CID 1 is in use"):
            pair.host.transmit(command(1))
        with pytest.raises(LocalProtocolError, match="both directions"):
            pair.host.transmit(command(2, data_out=b"a", data_in=bytearray(1)))
        nursery.start_soon(pair.host.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(LocalProtocolError, match="two tasks"):
            await pair.host.receive()
        nursery.cancel_scope.cancel()


async def test_responses_without_a_command_are_for_the_layer_above():
    async with loop_pair() as pair:
        pair.controller.transmit(ResponseCapsule(99))

        assert (await pair.host.receive()).cid == 99


async def test_a_listener_that_ends_resets_its_backlog():
    transport = LoopTransport()

    async def connect() -> None:
        with pytest.raises(ConnectionLostError) as caught:
            async with transport.connect(endpoint("a", 1), HostQueueParams(), deadline=1e9):
                raise AssertionError
        assert caught.value.step is not None

    async with trio.open_nursery() as nursery, transport.listen(Address("a", 1)):
        nursery.start_soon(connect)
        await wait_all_tasks_blocked()


async def test_a_connection_that_is_closed_without_an_answer():
    transport = LoopTransport()
    async with transport.listen(Address("a", 1)) as listener, trio.open_nursery() as nursery:

        async def close() -> None:
            await (await listener.accept()).aclose()

        nursery.start_soon(close)
        with pytest.raises(ConnectionLostError, match="a:1 closed the connection"):
            async with transport.connect(endpoint("a", 1), HostQueueParams(), deadline=1e9):
                raise AssertionError
