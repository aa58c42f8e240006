"""A host's and a controller's end over loopback sockets, or a script for one of them."""

import contextlib

import trio

from nvmf_tcp import TcpTransport, poll_short_waits
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.errors import ConnectionLostError
from nvmf_transport.fabrics import AddressFamily
from nvmf_transport.interfaces import (
    ControllerQueuePair,
    ControllerQueueParams,
    Endpoint,
    HostQueuePair,
    HostQueueParams,
    Transport,
)

ANY_PORT = Address("127.0.0.1", 0)
#: Tasks that are alone wait in place, as in the programs.
IN_PLACE = False


def soon(seconds=5.0):
    return trio.current_time() + seconds


@contextlib.asynccontextmanager
async def qpairs(host_params=None, controller_params=None, options=None):
    """A host's qpair and its controller's, connected over loopback."""
    if IN_PLACE:
        poll_short_waits()
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
    if IN_PLACE:
        poll_short_waits()

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
