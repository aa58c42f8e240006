"""Commands that are not answered: a controller may be alive on one queue and dead on another.

Keep Alive sees the death of the peer; a command that is acknowledged by TCP and never answered is
seen by its age alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from .qpair import Command, HostQueue

log = logging.getLogger(__name__)

#: What is unanswered for so long is worth a warning.
WARN_S: Final = 10.0
_LOOK_S: Final = 1.0
#: While nothing is outstanding there is little to look at: many idle controllers cost little then.
_IDLE_LOOK_S: Final = 5.0


async def watch(
    name: str, queues: Callable[[], Sequence[HostQueue]], limit_s: Callable[[], float]
) -> str:
    """Returns, once a command is older than `limit_s()` (0: never), what is to be said of it.

    `queues` gives the queues of the association as it is at the time.
    """
    warned: Command | None = None
    idle = False
    while True:
        look_s = _IDLE_LOOK_S if idle and not 0 < limit_s() < WARN_S else _LOOK_S
        # At the same moments for all controllers: each wake by itself costs more than the look.
        look_at = trio.current_time() + look_s
        await trio.sleep_until(look_at - look_at % _LOOK_S)
        now = trio.current_time()
        idle = True
        for queue in queues():
            command = queue.oldest()
            if command is None:
                continue
            idle = False
            age_s, limit = now - command.sent_at, limit_s()
            what = f"queue {queue.qid}: a command (opcode {command.sqe[0]:02X}h) is unanswered"
            if limit and age_s >= limit:
                return f"{what} for {limit:g} s (command age)"
            # On the admin queue every step has a deadline of its own, with an error that says more.
            if queue.qid and age_s >= WARN_S and command is not warned:
                warned = command
                log.warning("%s: %s for %.0f s", name, what, age_s)
