"""Loads a controller through the host's queues alone: no FUSE, no namespaces, no requests to split.

    python -m benchmarks.generator '{"address": ..., ...}'

Connects, says `ready`, waits for a line on standard input, loads each queue with its depth of
commands until the time is over, and writes what it counted as JSON.  Every completion sends the
next command, from the task that received it.
"""

import hashlib
import itertools
import json
import os
import random
import struct
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import cattrs
import trio

from nvmf_host.association import Association, open_association
from nvmf_host.config import ConnectParams
from nvmf_host.identity import HostIdentity
from nvmf_host.io_path import io_sqe, rw_cdw12
from nvmf_host.qpair import Command, HostQueue
from nvmf_tcp import TcpTransport
from nvmf_transport.address import Address
from nvmf_transport.nvme import NvmOpcode, SubmissionEntry

from .usage import cpu_s

#: nvmfd's default.
LBA_BYTES: Final = 512
NSID: Final = 1
_CHECK_BYTES: Final = 1 << 20
_SLBA: Final = struct.Struct("<Q")
_SLBA_AT: Final = SubmissionEntry.offset_of("cdw10")
#: Places that are drawn before the time begins.
_PLACES: Final = 1 << 14


@attrs.frozen(kw_only=True)
class Job:
    """What one generator does."""

    address: str
    subnqn: str
    size_bytes: int
    queues: int = 1
    depth: int = 1
    write: bool = False
    sequential: bool = False
    block_bytes: int = 4096
    seconds: float = 1.0
    seed: int = 0
    digests: bool = False
    #: Write everything and read it back instead.
    check: bool = False


@attrs.frozen(kw_only=True)
class Done:
    """What came of it."""

    operations: int
    seconds: float
    cpu_s: float
    latencies_us: list[float]


@asynccontextmanager
async def associated(job: Job) -> AsyncIterator[Association]:
    """An association with the job's controller and its queues."""
    hostid = uuid.uuid4()
    params = ConnectParams(
        address=Address.parse(job.address),
        subnqn=job.subnqn,
        identity=HostIdentity(nqn=f"nqn.2014-08.org.nvmexpress:uuid:{hostid}", hostid=hostid),
        nr_io_queues=job.queues,
        queue_size=max(2, job.depth + 1),
        header_digests=job.digests,
        data_digests=job.digests,
        kato_s=0,
    ).checked()
    opened = open_association(
        TcpTransport(), params, on_failed=_raise, on_namespaces=lambda _nsids: None
    )
    async with opened as association:
        for queue in association.io:
            limits = queue.qpair.limits
            if (limits.header_digest, limits.data_digest) != (job.digests, job.digests):
                raise RuntimeError("the controller does not grant the digests that were asked for")
        try:
            yield association
        finally:
            with trio.move_on_after(5, shield=True):
                await association.stop(orderly=True)


def _raise(error: Exception) -> None:
    raise error


class QueueLoad:
    """Keeps one queue busy."""

    def __init__(self, queue: HostQueue, job: Job, number: int) -> None:
        self.latencies_ns: list[int] = []
        self._queue = queue
        self._depth = job.depth
        blocks = job.size_bytes // job.block_bytes
        lbas = job.block_bytes // LBA_BYTES
        if job.sequential:
            # Each queue has its own part.
            first = number * blocks // job.queues
            places = [(first + index) % blocks for index in range(blocks)]
        else:
            drawn = random.Random(f"{job.seed} {number}")
            places = [drawn.randrange(blocks) for _ in range(_PLACES)]
        self._slbas = itertools.cycle([place * lbas for place in places])
        self._opcode = NvmOpcode.WRITE if job.write else NvmOpcode.READ
        self._cdw12 = rw_cdw12(lbas)
        self._data = random.Random(job.seed).randbytes(job.block_bytes) if job.write else None
        self._block_bytes = job.block_bytes
        self._end_ns = 0
        self._outstanding = 0
        self._over = trio.Event()

    async def run(self, end_ns: int) -> None:
        """Until then, and until all that was sent is answered."""
        self._end_ns = end_ns
        for _ in range(self._depth):
            buffer = None if self._data else memoryview(bytearray(self._block_bytes))
            sqe = io_sqe(self._opcode, NSID, 0, self._cdw12)
            self._outstanding += 1
            self._submit(sqe, buffer)
        await self._over.wait()

    def _submit(self, sqe: bytearray, buffer: memoryview | None) -> None:
        begin_ns = time.perf_counter_ns()
        _SLBA.pack_into(sqe, _SLBA_AT, next(self._slbas))

        def done(command: Command) -> None:
            response = command.response
            if response is None or response.status or response.digest_error:
                raise RuntimeError(f"a command failed: {response}")
            now_ns = time.perf_counter_ns()
            self.latencies_ns.append(now_ns - begin_ns)
            if now_ns < self._end_ns:
                self._submit(sqe, buffer)
                return
            self._outstanding -= 1
            if not self._outstanding:
                self._over.set()

        self._queue.submit(Command(sqe, done, self._data, buffer))


async def load(job: Job) -> Done:
    """Connects, waits for the word, and loads."""
    async with associated(job) as association:
        loads = [QueueLoad(queue, job, number) for number, queue in enumerate(association.io)]
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        own = (os.getpid(),)
        before_s, begin_ns = cpu_s(own), time.perf_counter_ns()
        async with trio.open_nursery() as nursery:
            for each in loads:
                nursery.start_soon(each.run, begin_ns + int(job.seconds * 1e9))
        seconds = (time.perf_counter_ns() - begin_ns) / 1e9
        used_s = cpu_s(own) - before_s
    latencies_us = [ns / 1000 for each in loads for ns in each.latencies_ns]
    return Done(
        operations=len(latencies_us), seconds=seconds, cpu_s=used_s, latencies_us=latencies_us
    )


async def check(job: Job) -> str:
    """Fills the namespace with random data and reads it back; returns what was verified."""
    written, read = hashlib.sha256(), hashlib.sha256()
    lbas = _CHECK_BYTES // LBA_BYTES
    starts = range(0, job.size_bytes // LBA_BYTES, lbas)
    drawn = random.Random(job.seed)
    async with associated(job) as association:
        queue = association.io[0]
        for slba in starts:
            data = drawn.randbytes(_CHECK_BYTES)
            written.update(data)
            sqe = io_sqe(NvmOpcode.WRITE, NSID, slba, rw_cdw12(lbas))
            await queue.execute(sqe, data_out=data)
        buffer = memoryview(bytearray(_CHECK_BYTES))
        for slba in starts:
            sqe = io_sqe(NvmOpcode.READ, NSID, slba, rw_cdw12(lbas))
            await queue.execute(sqe, data_in=buffer)
            read.update(buffer)
    if written.digest() != read.digest():
        raise RuntimeError("the controller does not give back what was written")
    return f"SHA-256 of {job.size_bytes >> 20} MiB written and read back"


def main() -> None:
    """Does the job on the command line."""
    job = cattrs.structure(json.loads(sys.argv[1]), Job)
    if job.check:
        print(json.dumps(trio.run(check, job)))
    else:
        print(json.dumps(cattrs.unstructure(trio.run(load, job))))


if __name__ == "__main__":
    main()
