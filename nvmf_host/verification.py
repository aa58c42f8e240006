"""Comparing the medium with what was written before the connection was lost, and writing it again.

Goes over the new association's own queue, past the engine: nothing else runs on the namespace yet.
"""

from typing import Final

import attrs
import trio

from nvmf_transport.nvme import NvmOpcode

from .cache_log import CacheLog, Expected
from .groups import single_error
from .io_path import IoPath, io_sqe, rw_cdw12

#: Reads of the comparison that are outstanding at a time.
_WORKERS: Final = 8
#: Differences that are named; one is enough to stop.
_MAX_NAMED: Final = 4


@attrs.frozen
class Difference:
    """LBAs that do not read as what was written there."""

    slba: int
    nlb: int

    def __str__(self) -> str:
        return f"LBA {self.slba}" if self.nlb == 1 else f"LBAs {self.slba} to {self.end - 1}"

    @property
    def end(self) -> int:
        """The LBA after the last."""
        return self.slba + self.nlb


async def compare(
    path: IoPath, log: CacheLog, unknown: list[tuple[int, int]], lba_bytes: int
) -> list[Difference]:
    """Reads back what `log` expects, but for `unknown` LBAs; returns what differs, a few at most.

    Raises what commands raise.
    """
    parts = [
        (one, slba, nlb)
        for one in log.expected(unknown)
        for slba, nlb in path.split(one.slba, one.nlb)
    ]
    todo = iter(parts)
    differences: list[Difference] = []

    async def worker() -> None:
        for one, slba, nlb in todo:
            if len(differences) >= _MAX_NAMED:
                return
            data = bytearray(nlb * lba_bytes)
            await path.queue().execute(
                io_sqe(NvmOpcode.READ, path.nsid, slba, rw_cdw12(nlb)),
                data_in=memoryview(data),
                name="Read (comparison)",
            )
            differences.extend(_differing(one, slba, nlb, data, lba_bytes))

    with single_error():
        async with trio.open_nursery() as nursery:
            for _ in range(min(_WORKERS, len(parts))):
                nursery.start_soon(worker)
    return sorted(differences, key=lambda difference: difference.slba)[:_MAX_NAMED]


async def rewrite(path: IoPath, log: CacheLog, lba_bytes: int) -> None:
    """Writes again what `log` holds, oldest first, and flushes.  Raises what commands raise."""
    for entry in log.in_order():
        for slba, nlb in path.split(entry.slba, entry.nlb):
            if entry.data is None:
                data = memoryview(bytes(nlb * lba_bytes))
            else:
                start = (slba - entry.slba) * lba_bytes
                data = entry.data[start : start + nlb * lba_bytes]
            await path.queue().execute(
                io_sqe(NvmOpcode.WRITE, path.nsid, slba, rw_cdw12(nlb)),
                data_out=data,
                name="Write (rewriting)",
            )
    mark = log.mark()
    await path.queue().execute(io_sqe(NvmOpcode.FLUSH, path.nsid, 0), name="Flush (rewriting)")
    log.flushed(mark)


def _differing(
    one: Expected, slba: int, nlb: int, data: bytearray, lba_bytes: int
) -> list[Difference]:
    found = memoryview(data)
    if one.data is None:
        wanted = memoryview(bytes(len(data)))
    else:
        start = (slba - one.slba) * lba_bytes
        wanted = one.data[start : start + len(data)]
    if found == wanted:
        return []
    bad = [
        lba
        for lba in range(nlb)
        if found[lba * lba_bytes : (lba + 1) * lba_bytes]
        != wanted[lba * lba_bytes : (lba + 1) * lba_bytes]
    ]
    runs: list[Difference] = []
    for lba in bad:
        if runs and runs[-1].end == slba + lba:
            runs[-1] = Difference(runs[-1].slba, runs[-1].nlb + 1)
        else:
            runs.append(Difference(slba + lba, 1))
    return runs
