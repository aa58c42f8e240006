"""A host and a controller in one event loop, over a transport of choice, and work for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from nvmf_controller import Namespace, NvmSubsystem, RamDisk, serve
from nvmf_host.host import open_host
from nvmf_host.namespace import Namespace as HostNamespace
from nvmf_tcp import TcpTransport
from nvmf_transport.address import Address
from nvmf_transport.interfaces import Transport, register
from nvmf_transport.loop import LoopTransport
from tests.host.hosting import IDENTITY, params

SUBNQN: Final = "nqn.2024-01.org.example:counted"
KIB, MIB = 1024, 1 << 20
_DISK_BYTES: Final = 16 * MIB

#: An operation; it is given the number of the task that does it.
Work = Callable[[int], Awaitable[object]]


@attrs.define(eq=False)
class Stage:
    """One namespace, live, over one I/O queue."""

    namespace: HostNamespace
    transport: Transport

    async def repeat(self, work: Work, count: int, depth: int) -> None:
        """Does `work` so often, `depth` of it at a time; it is given numbers that are apart."""
        if depth == 1:
            for _ in range(count):
                await work(0)
            return

        async def task(number: int) -> None:
            for _ in range(count // depth):
                await work(number)

        async with trio.open_nursery() as nursery:
            for number in range(depth):
                nursery.start_soon(task, number)

    def reads(self, length: int) -> Work:
        return lambda number: self.namespace.read(number * length % _DISK_BYTES, length)

    def writes(self, length: int, *, shift: int = 0) -> Work:
        """Writes, at offsets that are `shift` bytes off a block's beginning."""
        data = bytes(length)
        # Unaligned ones must not share a block: they would wait for each other.
        stride = length + (4 * KIB if shift else 0)
        return lambda number: self.namespace.write(number * stride % _DISK_BYTES + shift, data)


@asynccontextmanager
async def stage(kind: str, *, digests: bool = False) -> AsyncIterator[Stage]:
    """Connects over `loop` or `tcp`."""
    transport: Transport = LoopTransport() if kind == "loop" else TcpTransport()
    register(transport)
    subsystem = NvmSubsystem(SUBNQN)
    subsystem.add_namespace(Namespace(1, RamDisk(_DISK_BYTES)))
    listen = Address("127.0.0.1", 0) if kind == "tcp" else Address("controller", 4420)
    async with (
        serve(transport, subsystem, [listen]) as server,
        open_host(identity=IDENTITY) as host,
    ):
        controller = await host.connect(
            params(
                address=server.endpoints[0].address,
                subnqn=SUBNQN,
                transport=kind,
                nr_io_queues=1,
                header_digests=digests,
                data_digests=digests,
            )
        )
        yield Stage(controller.namespaces[1], transport)
    subsystem.close()
