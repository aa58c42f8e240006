"""Writes that are not whole LBAs: read, merged and written, and merged anew before each retry.

What was read may be old by the time of a retry: another host may have written there, and a write
that merges it would undo what that host was told is done.
"""

from functools import partial

from .change_line import ChangeLine
from .io_engine import IoEngine
from .io_request import IoRequest, Kind
from .patience import Patience
from .range_lock import Held


async def write_unaligned(
    engine: IoEngine, line: ChangeLine, held: Held, asked: IoRequest, offset: int
) -> None:
    """Reads the LBAs at the edges of what was asked for at `offset`, merges, writes.

    Gives `held`, the LBAs of `asked`, back to `line`.  Raises what `engine.perform` raises.
    """
    merge = partial(_merged, engine, asked, offset)
    request = IoRequest(
        Kind.WRITE,
        asked.order,
        asked.slba,
        asked.nlb,
        asked.lba_bytes,
        opener=asked.opener,
        since=asked.since,
        fua=asked.fua,
        merge=merge,
        patience=Patience(),
    )
    try:
        request.data = await merge(request)
        await engine.perform(request)
    finally:
        line.let_go(held, request)


async def _merged(
    engine: IoEngine, asked: IoRequest, offset: int, request: IoRequest
) -> memoryview:
    """The data of `request`, which can be sent at once, over the path that the edges were read on.

    Nobody writes to it any more, which the log of unflushed writes can see.
    """
    size, slba, nlb, data = asked.lba_bytes, asked.slba, asked.nlb, asked.data
    assert data is not None
    start = offset - slba * size
    edges = [slba] if start or nlb == 1 else []
    if nlb > 1 and (start + len(data)) % size:
        edges.append(slba + nlb - 1)
    while True:
        merged = memoryview(bytearray(nlb * size))
        reads = [
            IoRequest(
                Kind.READ,
                # The same place in the order of arrival, whatever has to be done again.
                asked.order,
                edge,
                1,
                size,
                merged[(edge - slba) * size :][:size],
                asked.opener,
                asked.since,
                patience=request.patience,
                ambiguous=request.ambiguous,
                for_change=True,
            )
            for edge in edges
        ]
        for read in reads:
            await engine.perform(read)
        # What was read may be old by now: one edge when the other had to be read again, and both
        # where the write could not be sent at once.
        if not any(read.has_slept for read in reads[1:]) and all(
            engine.sends(read.path, ambiguous=request.ambiguous) for read in reads
        ):
            merged[start : start + len(data)] = data
            return merged.toreadonly()
