"""A connected pair of qpairs in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from nvmf_transport.address import Address
from nvmf_transport.capsule import CommandCapsule
from nvmf_transport.interfaces import ControllerQueueParams, HostQueueParams
from nvmf_transport.loop import LoopTransport
from nvmf_transport.loop_ends import (
    LoopConnection,
    LoopControllerQueuePair,
    LoopHostQueuePair,
)
from nvmf_transport.nvme import NvmOpcode, SubmissionEntry
from nvmf_transport.wire import Buffer


@attrs.define(eq=False)
class Pair:
    """Both ends, what lies between them, and the ways in which each end leaves."""

    transport: LoopTransport
    connection: LoopConnection
    host: LoopHostQueuePair
    controller: LoopControllerQueuePair
    host_leaves: trio.CancelScope
    controller_leaves: trio.CancelScope


@asynccontextmanager
async def loop_pair(
    host_params: HostQueueParams | None = None,
    controller_params: ControllerQueueParams | None = None,
) -> AsyncIterator[Pair]:
    """Connects; each end then stays until its scope is cancelled or the block is left."""
    transport = LoopTransport()
    scopes = trio.CancelScope(), trio.CancelScope()
    hosts, controllers = [], []
    both = trio.Event()

    async with transport.listen(Address("controller", 4420)) as listener:

        async def be_host() -> None:
            deadline = trio.current_time() + 5
            params = host_params or HostQueueParams()
            with scopes[0]:
                async with transport.connect(
                    listener.endpoints[0], params, deadline=deadline
                ) as host:
                    hosts.append(host)
                    both.set()
                    await trio.sleep_forever()

        async def be_controller() -> None:
            incoming = await listener.accept()
            params = controller_params or ControllerQueueParams()
            with scopes[1]:
                async with incoming.establish(params, timeout_s=5) as controller:
                    controllers.append(controller)
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_host)
            nursery.start_soon(be_controller)
            await both.wait()
            (connection,) = transport.connections
            yield Pair(transport, connection, hosts[0], controllers[0], *scopes)
            nursery.cancel_scope.cancel()


def command(
    cid: int, *, data_out: Buffer | None = None, data_in: bytearray | None = None
) -> CommandCapsule:
    """A command with perhaps some data."""
    sqe = bytearray(SubmissionEntry(opc=NvmOpcode.READ, flags=0x80, cid=cid, nsid=1).pack())
    return CommandCapsule(sqe, cid, data_out, None if data_in is None else memoryview(data_in))
