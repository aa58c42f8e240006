"""What tests of the host share: its identity, parameters, and a host on a network in memory."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from nvmf_host.config import ConnectParams
from nvmf_host.controller import Controller
from nvmf_host.host import Host, NodeEvent, open_host
from nvmf_host.identity import HostIdentity
from nvmf_host.state import ControllerState
from nvmf_transport.errors import NvmfError
from nvmf_transport.interfaces import register
from nvmf_transport.loop import LoopTransport

from .scripted import ADDRESS, SUBNQN, Scripted

IDENTITY = HostIdentity(
    nqn="nqn.2014-08.org.nvmexpress:uuid:8f7a3a52-5f5b-4b63-9a43-0c3e2ad5a001",
    hostid=uuid.UUID("8f7a3a52-5f5b-4b63-9a43-0c3e2ad5a001"),
)


def params(**fields) -> ConnectParams:
    """Parameters for the scripted controller: two I/O queues, reconnection by hand only."""
    fields.setdefault("address", ADDRESS)
    fields.setdefault("subnqn", SUBNQN)
    fields.setdefault("identity", IDENTITY)
    fields.setdefault("transport", "loop")
    fields.setdefault("nr_io_queues", 2)
    fields.setdefault("reconnect_delay_s", 0)
    return ConnectParams(**fields).checked()


@asynccontextmanager
async def hosting(network: LoopTransport) -> AsyncIterator[tuple[Host, list[NodeEvent]]]:
    """A host on this network, and its node events; nothing of it may be left at the end."""
    register(network)
    events: list[NodeEvent] = []
    async with open_host(identity=IDENTITY) as host:
        host.subscribe(events.append)
        yield host, events
    assert host.controllers == {}
    assert not [each for each in network.connections if each.host.error is None]


async def until(condition: Callable[[], object], *, limit_s: float = 100) -> None:
    """Waits, in steps too short to matter, until a condition holds."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110 - of what it waits for there is no event
            await trio.sleep(0.001)


async def in_state(controller: Controller, state: ControllerState, *, limit_s: float = 100) -> None:
    await until(lambda: controller.state is state, limit_s=limit_s)


class Outcome:
    """What became of something that runs beside the test."""

    def __init__(self) -> None:
        self.value: object = None
        self.error: NvmfError | None = None
        self.at: float | None = None

    async def of(self, call, *args) -> None:
        try:
            self.value = await call(*args)
        except NvmfError as error:
            self.error = error
        self.at = trio.current_time()


def waiting(controller: Controller, nsid: int = 1) -> int:
    return controller.namespaces[nsid].info().waiting_requests


async def lose(target: Scripted, controller: Controller, qid: int = 0) -> None:
    target.close_queue(qid)
    await until(lambda: controller.state is not ControllerState.LIVE)
