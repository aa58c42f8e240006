"""Lets those who have been killed go: ends the waits of processes that are about to die.

The kernel lets a process that waits for an answer of ours die only once it has one.  So whoever
has waited for a while is looked at, once a second; where nobody waits, that costs nothing.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from . import processes
from .backend import HostLike

_log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
#: What is younger may well be answered by itself.
_YOUNG_S: Final = 0.5


async def find_dying(pids: set[int]) -> set[int]:
    """Those processes that have been killed; looks in a thread, there may be many."""
    return await trio.to_thread.run_sync(processes.dying, pids, abandon_on_cancel=True)


async def let_the_killed_go(
    host: HostLike, find: Callable[[set[int]], Awaitable[set[int]]] = find_dying
) -> None:
    """A task of the daemon; `find` gives those of some processes that have been killed."""
    while True:
        await trio.sleep(_LOOK_S)
        await _look(host, find)


async def _look(host: HostLike, find: Callable[[set[int]], Awaitable[set[int]]]) -> None:
    old = trio.current_time() - _YOUNG_S
    waits = [
        (namespace, wait.request, wait.request.opener.pid)
        for controller in host.controllers.values()
        for namespace in controller.namespaces.values()
        for wait in namespace.waits()
        if wait.request.opener is not None and wait.request.since <= old
    ]
    if not waits:
        return
    killed = await find({pid for _, _, pid in waits})
    for namespace, request, pid in waits:
        if pid in killed:
            _log.info(
                "%s: a %s ends: process %d has been killed", namespace.name, request.kind.value, pid
            )
            namespace.kill(request)
