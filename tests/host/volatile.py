"""A host and a controller that has a volatile write cache, and loses what a test takes from it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from nvmf_host.controller import Controller
from nvmf_host.host import Host
from nvmf_host.messages import ResumeRequest
from nvmf_host.namespace import Namespace
from nvmf_host.service import Requests
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport.errors import NvmfError
from nvmf_transport.nvme import NvmOpcode

from .hosting import hosting, in_state, params
from .medium import LBA_BYTES as L
from .scripted import Scripted, scripted

LOST = ControllerState.LOST
NODE = "nvme0ns1"


@attrs.define(eq=False)
class Stage:
    """A controller with a volatile cache, and tasks that go on beside the test."""

    target: Scripted
    host: Host
    controller: Controller
    tasks: trio.Nursery

    @property
    def namespace(self) -> Namespace:
        return self.controller.namespaces[1]

    @property
    def state(self) -> NamespaceState:
        return self.namespace.state

    @property
    def disk(self) -> bytearray:
        return self.target.disks[1].data

    def lbas(self, slba: int, nlb: int = 1) -> bytes:
        return bytes(self.disk[slba * L : (slba + nlb) * L])

    async def lose(self) -> None:
        self.target.close_queue(0)
        await in_state(self.controller, LOST)
        self.target.seen.clear()

    async def back(self) -> None:
        await self.controller.reconnect(self.controller.params)

    def in_background(self, call, *args) -> None:
        """What it ends with is of no interest."""

        async def run() -> None:
            with suppress(NvmfError):
                await call(*args)

        self.tasks.start_soon(run)


@asynccontextmanager
async def stage(announce, **fields) -> AsyncIterator[Stage]:
    announce("association lost", optional=True)
    # How things stand at the end of a test is its own affair.
    announce("may still land|not flushed|unknown outcome|durable|could not be told", optional=True)
    target = Scripted(**{"vwc": 1} | fields)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        yield Stage(target, host, controller, tasks)
        tasks.cancel_scope.cancel()


async def resume(it: Stage, *, rewrite: bool = False, accept: bool = False) -> None:
    await Requests(it.host).handle(ResumeRequest(device=NODE, rewrite=rewrite, accept=accept))


def io(target: Scripted) -> list[tuple[str, int]]:
    """I/O commands with their SLBA."""
    return [
        (seen.what, int.from_bytes(seen.sqe[40:48], "little"))
        for seen in target.seen
        if seen.qid > 0 and seen.what in NvmOpcode.__members__
    ]
