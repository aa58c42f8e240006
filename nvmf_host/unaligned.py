"""Writes that are not whole LBAs: read, merged, written, and begun again where that was lost."""

from functools import partial

from .change_line import ChangeLine
from .fencing import Fence
from .io_engine import IoEngine
from .io_path import IoPath
from .io_request import IoRequest, Kind
from .range_lock import Held


async def write_unaligned(
    engine: IoEngine, line: ChangeLine, held: Held, asked: IoRequest, offset: int
) -> None:
    """Reads the LBAs at the edges of what was asked for at `offset`, merges, writes.

    Gives `held`, the LBAs of `asked`, back to `line`.  Raises what `engine.perform` raises.
    """
    size, slba, nlb, data = asked.lba_bytes, asked.slba, asked.nlb, asked.data
    assert data is not None
    start = offset - slba * size
    last_is_whole = (start + len(data)) % size == 0
    request: IoRequest | None = None
    fences: list[Fence] = []
    try:
        while True:
            again = request is not None and request.ambiguous
            # The same place in the order of arrival, whatever has to be done again.
            make = partial(
                IoRequest,
                order=asked.order,
                lba_bytes=size,
                ambiguous=again,
                for_change=True,
                opener=asked.opener,
            )
            merged = bytearray(nlb * size)
            view = memoryview(merged)
            path: IoPath | None = None
            if start or nlb == 1:
                await engine.perform(make(Kind.READ, slba=slba, nlb=1, data=view[:size]))
                path = engine.path
            if not last_is_whole and nlb > 1:
                last = slba + nlb - 1
                await engine.perform(make(Kind.READ, slba=last, nlb=1, data=view[-size:]))
                path = path or engine.path
            if not engine.sends(path, ambiguous=again):
                # What was read may be old before the write can be sent.
                continue
            view[start : start + len(data)] = data
            request = make(
                Kind.WRITE,
                slba=slba,
                nlb=nlb,
                # Nobody writes to it any more, which the log of unflushed writes can see.
                data=view.toreadonly(),
                fua=asked.fua,
                restarts=True,
                fences=fences,
            )
            if await engine.perform(request):
                return
    finally:
        line.let_go(held, request)
