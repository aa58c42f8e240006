"""Commands and data over loopback sockets."""

import os
import socket

import pytest
import trio
import trio.testing

from nvmf_tcp import TcpTransport
from nvmf_tcp.turn import SWITCH
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConnectionLostError,
    DataDigestError,
)
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams

from .loopback import (
    ANY_PORT,
    pattern,
    qpairs,
    receive_exactly,
    scripted_controller,
    serve_commands,
    soon,
)
from .pair import ic_resp, read_command, write_command

pytestmark = pytest.mark.usefixtures("sending")


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


async def test_statistics_count_pdus_and_bytes():
    async with qpairs() as (host, controller):
        host.transmit(read_command(1, None))
        await controller.receive()
        controller.transmit(ResponseCapsule(1))
        await host.receive()
        assert (host.statistics.pdus_sent, host.statistics.bytes_sent) == (2, 128 + 72)
        assert (host.statistics.pdus_received, host.statistics.bytes_received) == (2, 128 + 24)
        assert controller.statistics.pdus_received == 2
