"""A command and its response through a qpair in memory, with the host's queue on top.

What 4 KiB cost either way when there is no socket: CIDs, capsules, and the turns of the event loop
that every I/O needs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pytest
import trio

from nvmf_host.io_path import io_sqe
from nvmf_host.qpair import HostQueue
from nvmf_transport.address import Address
from nvmf_transport.capsule import ResponseCapsule
from nvmf_transport.interfaces import (
    ControllerQueuePair,
    ControllerQueueParams,
    HostQueueParams,
    Listener,
)
from nvmf_transport.loop import LoopTransport
from nvmf_transport.nvme import NvmOpcode

from .conftest import Measure
from .event_loop import within

_ENTRIES: Final = 129
_IN_CAPSULE_BYTES: Final = 8192
_DATA_BYTES: Final = 4096
_OPERATIONS: Final = 512
_DEADLINE_S: Final = 5.0


@asynccontextmanager
async def _queue() -> AsyncIterator[HostQueue]:
    """A queue of a host, to a controller that answers whatever comes."""
    transport = LoopTransport()
    async with (
        transport.listen(Address("controller", 4420)) as listener,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_serve, listener)
        params = HostQueueParams(entries=_ENTRIES, in_capsule_bytes=_IN_CAPSULE_BYTES)
        deadline = trio.current_time() + _DEADLINE_S
        async with transport.connect(listener.endpoints[0], params, deadline=deadline) as qpair:
            queue = HostQueue(qpair, qid=1, entries=_ENTRIES)
            nursery.start_soon(queue.run)
            yield queue
            nursery.cancel_scope.cancel()


async def _serve(listener: Listener) -> None:
    incoming = await listener.accept()
    async with incoming.establish(ControllerQueueParams(), timeout_s=_DEADLINE_S) as qpair:
        qpair.configure(entries=_ENTRIES, sq_flow_control=False, in_capsule_bytes=_IN_CAPSULE_BYTES)
        await _answer(qpair)


async def _answer(qpair: ControllerQueuePair) -> None:
    data = bytes(_DATA_BYTES)
    while True:
        command = await qpair.receive()
        if command.sqe[0] == NvmOpcode.READ:
            if await qpair.send_data(command, (data,), complete=True):
                continue
        else:
            await qpair.receive_data(command)
        qpair.transmit(ResponseCapsule(command.cid, sqhd=0))


async def _round(queue: HostQueue, depth: int, *, write: bool) -> None:
    """So many operations by so many tasks."""
    data = bytes(_DATA_BYTES)

    async def task() -> None:
        target = memoryview(bytearray(_DATA_BYTES))
        for _ in range(_OPERATIONS // depth):
            if write:
                await queue.execute(io_sqe(NvmOpcode.WRITE, 1, 0), data_out=data)
            else:
                await queue.execute(io_sqe(NvmOpcode.READ, 1, 0), data_in=target)

    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(task)


@pytest.mark.parametrize("depth", [1, 32, 128])
@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.benchmark(group="qpair over loop")
def test_round_trip(measure: Measure, kind: str, depth: int) -> None:
    with within(_queue()) as (queue, run):
        work = partial(_round, queue, depth, write=kind == "write")
        measure(partial(run, work), operations=_OPERATIONS)
