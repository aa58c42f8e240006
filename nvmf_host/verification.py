"""Comparing the medium with what was written before the connection was lost, and writing it again.

Goes over the new association's own queue, past the engine: nothing else runs on the namespace yet.
"""

from collections.abc import Callable
from typing import Final

import attrs
import trio

from nvmf_transport.errors import CommandError
from nvmf_transport.nvme import NvmOpcode

from .cache_log import CacheLog, Expected, Written
from .groups import single_error
from .io_path import IoPath, io_sqe, rw_cdw12
from .policy import Action, action_for

#: Reads of the comparison that are outstanding at a time.
_WORKERS: Final = 8
#: Differences that are named; one is enough to stop.
MAX_NAMED: Final = 4


@attrs.frozen
class Difference:
    """LBAs that do not read as what was written there, which was `expected`."""

    slba: int
    nlb: int
    expected: Expected = attrs.field(repr=False, eq=False)
    #: Why they cannot be read at all, "" where they can.
    unreadable: str = ""

    def __str__(self) -> str:
        lbas = f"LBA {self.slba}" if self.nlb == 1 else f"LBAs {self.slba} to {self.end - 1}"
        return f"{lbas} ({self.unreadable})" if self.unreadable else lbas

    @property
    def end(self) -> int:
        """The LBA after the last."""
        return self.slba + self.nlb


async def compare(
    path: IoPath,
    log: CacheLog,
    unknown: list[Written],
    lba_bytes: int,
    *,
    most: int | None = MAX_NAMED,
) -> list[Difference]:
    """Reads back what `log` expects; returns what differs in order, no more than `most`.

    LBAs of changes that are under way, which are `unknown`, may have their data too.  LBAs that
    cannot be read differ; raises what else commands raise, and what may pass.
    """
    parts = [
        (one, slba, nlb) for one in log.expected() for slba, nlb in path.split(one.slba, one.nlb)
    ]
    todo = iter(parts)
    differences: list[Difference] = []

    async def worker() -> None:
        for one, slba, nlb in todo:
            if most is not None and len(differences) >= most:
                return
            data = memoryview(bytearray(nlb * lba_bytes))
            try:
                await path.queue().execute(
                    io_sqe(NvmOpcode.READ, path.nsid, slba, rw_cdw12(nlb)),
                    data_in=data,
                    name="Read (comparison)",
                )
            except CommandError as error:
                if action_for(error.status) is not Action.FAIL:
                    raise
                differences.append(Difference(slba, nlb, one, str(error)))
                continue
            if data == _slice(one, slba, nlb, lba_bytes):
                continue
            doubts = log.doubts(unknown, slba, nlb)
            differences.extend(_differing(one, slba, data, lba_bytes, doubts))

    with single_error():
        async with trio.open_nursery() as nursery:
            for _ in range(min(_WORKERS, len(parts))):
                nursery.start_soon(worker)
    return sorted(differences, key=lambda difference: difference.slba)[:most]


async def rewrite(
    path: IoPath,
    log: CacheLog,
    unknown: list[Written],
    lba_bytes: int,
    check: Callable[[], None],
) -> None:
    """Writes again what the medium has lost of `log`, and flushes.  Raises what commands raise.

    Only the newest of each LBA is written, and only where the medium has something else: so no
    write of this can land over another, and none undoes what somebody has read.  `check` raises
    where it is to go on no longer, and is asked before each command.
    """
    mark = log.mark()
    for lost in await compare(path, log, unknown, lba_bytes, most=None):
        for slba, nlb in path.split(lost.slba, lost.nlb):
            check()
            await trio.lowlevel.checkpoint_if_cancelled()
            # A write that nobody waits for any more could land over what is written next.
            with trio.CancelScope(shield=True):
                await path.queue().execute(
                    io_sqe(NvmOpcode.WRITE, path.nsid, slba, rw_cdw12(nlb)),
                    data_out=_slice(lost.expected, slba, nlb, lba_bytes),
                    name="Write (rewriting)",
                )
    check()
    await path.queue().execute(io_sqe(NvmOpcode.FLUSH, path.nsid, 0), name="Flush (rewriting)")
    log.flushed(mark)


def _slice(one: Expected, slba: int, nlb: int, lba_bytes: int) -> memoryview:
    if one.data is None:
        return memoryview(bytes(nlb * lba_bytes))
    start = (slba - one.slba) * lba_bytes
    return one.data[start : start + nlb * lba_bytes]


def _differing(
    one: Expected, slba: int, found: memoryview, lba_bytes: int, doubts: list[Written]
) -> list[Difference]:
    nlb = len(found) // lba_bytes
    wanted = _slice(one, slba, nlb, lba_bytes)
    runs: list[Difference] = []
    for lba in range(nlb):
        there = slice(lba * lba_bytes, (lba + 1) * lba_bytes)
        if found[there] == wanted[there] or CacheLog.admits(doubts, slba + lba, found[there]):
            continue
        if runs and runs[-1].end == slba + lba:
            runs[-1] = attrs.evolve(runs[-1], nlb=runs[-1].nlb + 1)
        else:
            runs.append(Difference(slba + lba, 1, one))
    return runs
