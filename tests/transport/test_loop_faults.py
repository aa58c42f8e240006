"""What tests can do to connections in memory."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_transport import status
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import (
    ConnectionLostError,
    DataDigestError,
    HandshakeError,
    UnreachableError,
)
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams
from nvmf_transport.loop import ConnectFault, LoopTransport
from nvmf_transport.status import TRANSIENT_TRANSPORT_ERROR
from tests.transport.loop_pair import command, loop_pair


async def test_a_cut_loses_what_is_on_its_way_but_not_what_has_arrived():
    async with loop_pair() as pair:
        pair.host.transmit(command(1, data_out=b"ghost"))
        pair.host.transmit(command(2))
        arrived = await pair.controller.receive()
        pair.controller.transmit(ResponseCapsule(1))
        pair.connection.cut()
        for receive in (pair.host.receive, pair.controller.receive):
            with pytest.raises(ConnectionLostError, match="was reset"):
                await receive()

        assert await pair.controller.receive_data(arrived) == b"ghost"
        pair.controller.transmit(ResponseCapsule(1))
        pair.host.transmit(command(3))
        assert pair.host.receive_nowait() is None
        assert pair.transport.connections == []


async def test_a_cut_wakes_those_who_receive():
    async with loop_pair() as pair, trio.open_nursery() as nursery:
        pair.host.transmit(command(1, data_out=bytes(9000)))
        received = await pair.controller.receive()

        async def expect(wait) -> None:
            with pytest.raises(ConnectionLostError):
                await wait()

        nursery.start_soon(expect, pair.host.receive)
        nursery.start_soon(expect, pair.controller.receive)
        nursery.start_soon(expect, lambda: pair.controller.receive_data(received))
        pair.connection.cut()


async def test_a_frozen_link_is_silent_and_goes_on_when_it_thaws(autojump_clock):
    async with loop_pair() as pair:
        pair.host.transmit(command(1))
        pair.connection.freeze()
        pair.host.transmit(command(2))
        assert (await pair.controller.receive()).cid == 1
        pair.controller.transmit(ResponseCapsule(1))
        for receive in (pair.host.receive, pair.controller.receive):
            with trio.move_on_after(3600) as scope:
                await receive()
            assert scope.cancelled_caught

        pair.connection.thaw()
        assert (await pair.host.receive()).cid == 1
        assert (await pair.controller.receive()).cid == 2


async def test_a_command_may_arrive_after_its_host_has_gone(autojump_clock):
    async with loop_pair() as pair:
        pair.connection.freeze()
        pair.host.transmit(command(1, data_out=b"ghost"))
        pair.host_leaves.cancel()
        await wait_all_tasks_blocked()
        with trio.move_on_after(3600) as scope:
            await pair.controller.receive()
        assert scope.cancelled_caught
        assert pair.transport.connections == [pair.connection]

        pair.connection.thaw()
        assert (await pair.controller.receive()).in_capsule_data == b"ghost"
        with pytest.raises(ConnectionLostError):
            await pair.controller.receive()
        assert pair.transport.connections == []


async def test_data_digests_can_be_spoiled():
    async with (
        loop_pair(HostQueueParams(in_capsule_bytes=10, data_digest=True)) as pair,
        trio.open_nursery() as nursery,
    ):
        pair.connection.spoil_to_controller = 2
        pair.host.transmit(command(1, data_out=b"inside"))
        pair.host.transmit(command(2, data_out=b"outside the capsule"))
        inside, outside = await pair.controller.receive(), await pair.controller.receive()
        nursery.start_soon(pair.host.receive)
        nursery.start_soon(pair.controller.receive)
        assert inside.fault == TRANSIENT_TRANSPORT_ERROR
        with pytest.raises(DataDigestError):
            await pair.controller.receive_data(outside)
        assert await pair.controller.receive_data(outside) == b"outside the capsule"
        nursery.cancel_scope.cancel()


async def test_data_digests_to_the_host_can_be_spoiled():
    async with loop_pair() as pair:
        pair.connection.spoil_to_host = 1
        responses = []
        for cid in (1, 2):
            pair.host.transmit(command(cid, data_in=bytearray(4)))
            received = await pair.controller.receive()
            await pair.controller.send_data(received, [b"abcd"], complete=False)
            pair.controller.transmit(ResponseCapsule(cid))
            responses.append(await pair.host.receive())

    assert [each.digest_error for each in responses] == [True, False]


async def test_a_fault_can_be_given_to_the_next_command():
    async with loop_pair() as pair:
        pair.connection.next_fault = status.SGL_TYPE_INVALID
        pair.host.transmit(command(1))
        pair.host.transmit(command(2))
        faults = [(await pair.controller.receive()).fault for _ in range(2)]

    assert faults == [status.SGL_TYPE_INVALID, None]


@pytest.mark.parametrize(
    ("fault", "error", "after_s"),
    [
        (ConnectFault.REFUSE, UnreachableError, 0),
        (ConnectFault.HANG, UnreachableError, 10),
        (ConnectFault.SILENT, HandshakeError, 10),
    ],
)
async def test_new_connections_can_be_made_to_fail(autojump_clock, fault, error, after_s):
    transport = LoopTransport()
    async with transport.listen(Address("a", 1)) as listener:
        transport.connect_fault = fault
        with pytest.raises(error):
            async with transport.connect(
                listener.endpoints[0], HostQueueParams(), deadline=trio.current_time() + 10
            ):
                raise AssertionError

    assert trio.current_time() == pytest.approx(after_s)
    assert transport.connections == []


async def test_a_controller_that_answers_too_late_finds_nobody(autojump_clock):
    transport = LoopTransport()
    async with transport.listen(Address("a", 1)) as listener:
        with pytest.raises(HandshakeError, match="a:1: no answer in time") as caught:
            async with transport.connect(
                listener.endpoints[0], HostQueueParams(), deadline=trio.current_time() + 10
            ):
                raise AssertionError
        incoming = await listener.accept()
        with pytest.raises(ConnectionLostError):
            async with incoming.establish(ControllerQueueParams(), timeout_s=1):
                raise AssertionError

    assert caught.value.step is not None
