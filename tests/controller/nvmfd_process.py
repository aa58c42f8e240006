"""nvmfd as a process, and a host of it."""

import re
import sys
from contextlib import asynccontextmanager

import trio

from nvmf_tcp import TcpTransport
from nvmf_transport.address import Address
from nvmf_transport.interfaces import HostQueueParams
from nvmf_transport.nvme import FeatureId
from tests.controller.raw_host import ENABLED, Queue

NVMFD = (sys.executable, "-m", "nvmf_controller.main")
READY = re.compile(r"ready((?: io=\S+)+) discovery=(\S+) subnqn=(\S+)\n")
ANY_PORT = ("-p", "0", "-P", "0")


@asynccontextmanager
async def hosted(at, *, cattr=0, kato=0, **params):
    """An enabled controller of the process at `at`, with its admin queue and one I/O queue."""
    transport = TcpTransport()
    (endpoint,) = await transport.resolve(Address.parse(at), deadline=trio.current_time() + 5)
    asked = HostQueueParams(in_capsule_bytes=8192, **params)

    def connect():
        return transport.connect(endpoint, asked, deadline=trio.current_time() + 5)

    async with trio.open_nursery() as nursery, connect() as admin_pair, connect() as io_pair:
        admin, io = Queue(admin_pair), Queue(io_pair)
        nursery.start_soon(admin.run)
        nursery.start_soon(io.run)
        status, result, _ = await admin.connect(kato=kato)
        assert status.ok, status
        admin.cntlid = result & 0xFFFF
        assert (await admin.set_cc(ENABLED)).ok
        await admin.set_feature(FeatureId.NUMBER_OF_QUEUES, 0)
        status, *_ = await io.connect(qid=1, cntlid=admin.cntlid, sqsize=63, cattr=cattr)
        assert status.ok, status
        yield admin, io
