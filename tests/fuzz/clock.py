"""Runs a whole stack inside one input: time that costs nothing, the same order at every run."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio._core._run as trio_run
import trio.testing


def run(main: Callable[..., Awaitable[Any]], *args: object, limit_s: float) -> None:
    """Runs `main` under a clock that jumps; it must end within `limit_s` of that clock.

    The scheduler's order, which is random by design, is the same for the same input.
    """

    async def bounded() -> None:
        with trio.fail_after(limit_s):
            await main(*args)

    # What Hypothesis does for the same reason, through trio's own switch for it.
    names = vars(trio_run)
    before = names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"]
    names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"] = True, random.Random(0)
    try:
        trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"] = before
