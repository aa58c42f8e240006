"""What trio has no public name for, in one place: what its event loop waits in, and what may run.

Where a release of trio has it elsewhere, `of_this_run` returns None, and all waits go through trio.
"""

import logging
import select
from collections import deque
from typing import Final

import attrs
import trio

_log: Final = logging.getLogger(__name__)


@attrs.frozen
class InsideTrio:
    """Parts of a running event loop, to be looked at only."""

    #: It is readable where the loop would not wait.
    epoll_fd: int
    #: The tasks that will run in the next pass.
    runnable: deque[trio.lowlevel.Task]


def of_this_run() -> InsideTrio | None:
    """Those of the loop that calls this."""
    try:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner
        epoll, runnable = runner.io_manager._epoll, runner.runq
    except AttributeError:
        pass
    else:
        if isinstance(epoll, select.epoll) and isinstance(runnable, deque):
            return InsideTrio(epoll.fileno(), runnable)
    _log.info("trio's epoll and tasks were not found: every wait goes through trio, and sleeps")
    return None
