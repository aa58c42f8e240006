"""Keep Alive, by timestamps (NVMe Base 2.1, section 3.9).

Due KATO/2 after the last command that restarts the controller's timer; the peer is dead KATO after
the last proof of life.  With traffic based keep alive (TBKAS) every command restarts the timer and
every completion is a proof; without it only Keep Alive does, and is.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from nvmf_transport.errors import CommandError, NvmfError

from . import admin
from .qpair import HostQueue

#: Keep Alives are sent up to this much early, those of many controllers at the same moments: being
#: woken for each by itself is most of what an idle daemon does.
_TOGETHER_S: Final = 0.5
#: And never earlier than by this part of the Keep Alive Timeout.
_EARLY_SHARE: Final = 1 / 16


async def keep_alive(
    admin_queue: HostQueue,
    queues: Callable[[], Sequence[HostQueue]],
    *,
    kato_s: float,
    traffic_based: bool,
) -> None:
    """Returns when the peer is dead: no proof of life for `kato_s`.

    `queues` gives the queues of the association as it is at the time, the admin queue among them.
    """
    grain_s = min(_TOGETHER_S, kato_s * _EARLY_SHARE)
    sent_at = proof_at = trio.current_time()
    answered = trio.Event()
    answered.set()

    async def exchange() -> None:
        nonlocal proof_at
        try:
            await admin.keep_alive(admin_queue)
        except CommandError:
            pass  # even a refusal is an answer
        except NvmfError:
            return
        proof_at = trio.current_time()
        answered.set()

    async with trio.open_nursery() as nursery:
        while True:
            if traffic_based:
                sent_at = max(sent_at, *(queue.last_submit_at for queue in queues()))
                proof_at = max(proof_at, *(queue.last_completion_at for queue in queues()))
            now = trio.current_time()
            dead_at, due_at = proof_at + kato_s, sent_at + kato_s / 2
            due_at -= due_at % grain_s
            if now >= dead_at:
                nursery.cancel_scope.cancel()
                return
            if answered.is_set() and now >= due_at:
                sent_at, answered = now, trio.Event()
                nursery.start_soon(exchange)
            elif answered.is_set():
                await trio.sleep_until(min(dead_at, due_at))
            else:
                with trio.move_on_at(dead_at):
                    await answered.wait()
