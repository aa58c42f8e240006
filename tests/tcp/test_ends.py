"""How a connection over loopback sockets ends, and what each side is told."""

import errno
import socket
import struct

import pytest
import trio
import trio.testing

from nvmf_tcp import TcpOptions, TcpTransport
from nvmf_tcp.driver import _reason
from nvmf_tcp.pdu import PduType, TermReq
from nvmf_transport.errors import (
    ConnectionLostError,
    ConnectionTerminatedError,
    RemoteProtocolError,
)
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams

from .loopback import (
    qpairs,
    receive_exactly,
    scripted_controller,
    soon,
)
from .pair import data_specific, ic_resp, pdu, read_command, write_command

pytestmark = pytest.mark.usefixtures("sending")


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


async def test_an_error_that_came_with_a_response_is_raised_though_the_peer_stays():
    """The peer sends nothing more, and does not close either."""
    over = trio.Event()

    async def script(stream):
        await receive_exactly(stream, 128)
        await stream.send_all(ic_resp())
        await receive_exactly(stream, 72)
        response = pdu(PduType.CAPSULE_RESP, struct.pack("<QHHHH", 0, 0, 0, 1, 0))
        await stream.send_all(response * 2)
        await over.wait()

    async with scripted_controller(script) as endpoint:
        async with TcpTransport().connect(endpoint, HostQueueParams(), deadline=soon()) as host:
            host.transmit(read_command(1, None))
            with trio.fail_after(5):
                assert (await host.receive()).cid == 1
                with pytest.raises(RemoteProtocolError):
                    await host.receive()
        over.set()


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
