"""Gives memory back that a burst of large requests has left."""

import trio

from nvmf_transport import heap

from .handles import Usage

_LOOK_S = 2.0


async def give_back_when_idle(usage: Usage) -> None:
    """Looks now and then, until it is cancelled: memory in use again soon is worth keeping."""
    while True:
        await trio.sleep(_LOOK_S)
        if usage.large and not usage.requests:
            usage.large = False
            heap.give_back()
