"""Asynchronous events: as many requests outstanding as the controller takes, armed again always.

Each request is a loop of its own: what goes wrong with one event costs that event, not the slot
(NVMe Base 2.1, section 5.1.2).
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from nvmf_transport import status as st
from nvmf_transport.errors import CommandError, DataDigestError, NvmfError
from nvmf_transport.identify import IdentifyController, unpack_namespace_list
from nvmf_transport.logs import ErrorEntry, HealthLog, LogId
from nvmf_transport.nvme import (
    AEC_ANA_CHANGE,
    AEC_NAMESPACE_ATTRIBUTE,
    NSID_ALL,
    AdminOpcode,
    AsyncEvent,
    AsyncEventType,
    FeatureId,
    Notice,
)

from . import admin
from .qpair import HostQueue

log = logging.getLogger(__name__)

MAX_AERS: Final = 4
#: Critical warnings that are worth an event: spare, reliability, read-only, volatile backup.
_WARNINGS: Final = 0x1D
_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
#: So many events in a row may come at once; after these, one in so long.
_BURST: Final = 16
_FLOOD_S: Final = 0.1
#: How often the log page of one event is asked for.
_TRIES: Final = 3
#: Statuses of a request that another one would only meet again.
_NEVER: Final = frozenset(
    {st.AER_LIMIT_EXCEEDED.code, st.INVALID_OPCODE.code, st.INVALID_FIELD.code}
)
_CHANGED_LIST_BYTES: Final = 4096


def aer_count(controller: IdentifyController) -> int:
    """How many requests are kept outstanding: AERL is 0's based."""
    return min(MAX_AERS, controller.aerl + 1)


async def configure(queue: HostQueue, controller: IdentifyController) -> None:
    """Asks for the events that are acted on; a controller that refuses is lived with."""
    wanted = _WARNINGS | controller.oaes & (AEC_NAMESPACE_ATTRIBUTE | AEC_ANA_CHANGE)
    try:
        await admin.set_features(queue, FeatureId.ASYNC_EVENT_CONFIG, wanted)
    except CommandError as error:
        log.info("asynchronous events are as the controller has them: %s", error)


async def listen(
    queue: HostQueue,
    controller: IdentifyController,
    on_namespaces: Callable[[set[int] | None], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """One request's loop; returns when the queue is dead or the controller wants no more.

    `on_namespaces` gets the NSIDs that changed, None for "any of them".  Whoever starts this with
    `nursery.start` goes on when the first request is armed.
    """
    # From here to the first request there is no checkpoint, so it leaves before `start` returns.
    task_status.started()
    pause_s = _RETRY_S
    hasty = 0
    while True:
        armed_at = trio.current_time()
        command = admin.sqe(AdminOpcode.ASYNC_EVENT_REQUEST)
        try:
            response = await queue.execute(command, name="Asynchronous Event Request")
        except CommandError as error:
            if error.status.code in _NEVER:
                log.info("one Asynchronous Event Request fewer: %s", error)
                return
            log.debug("armed again in %g s: %s", pause_s, error)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
            continue
        except NvmfError:
            return
        pause_s = _RETRY_S
        event = AsyncEvent(response.result & 0xFFFFFFFF)
        hasty = hasty + 1 if trio.current_time() - armed_at < _FLOOD_S else 0
        if not await _see_to(queue, controller, event, on_namespaces):
            return
        if hasty > _BURST:
            # A controller without end of events would keep this host, all of it, busy with them.
            await trio.sleep(_FLOOD_S)


async def _see_to(
    queue: HostQueue,
    controller: IdentifyController,
    event: AsyncEvent,
    on_namespaces: Callable[[set[int] | None], None],
) -> bool:
    """Handles an event, a few times if need be; False where the queue is dead.

    The controller says nothing more of this kind until the log page was read, so a page that
    could not be read is asked for again.
    """
    for _ in range(_TRIES):
        try:
            await _handle(queue, controller, event, on_namespaces)
        except (CommandError, DataDigestError) as error:
            log.info("event %#010x: %s", event.value, error)
            if _concerns_namespaces(event):
                # The list could not be read: any of them may have changed.
                on_namespaces(None)
            await trio.sleep(_RETRY_S)
        except NvmfError:
            return False
        else:
            break
    return True


def _concerns_namespaces(event: AsyncEvent) -> bool:
    return event.event_type == AsyncEventType.NOTICE and event.info in (
        Notice.NAMESPACE_ATTRIBUTE_CHANGED,
        Notice.ANA_CHANGE,
    )


async def _handle(
    queue: HostQueue,
    controller: IdentifyController,
    event: AsyncEvent,
    on_namespaces: Callable[[set[int] | None], None],
) -> None:
    """Reads the log page that the event names, which also lets the controller send the next."""
    page = event.log_page
    log.debug("event type %d, info %#04x, page %02Xh", event.event_type, event.info, page)
    if page == LogId.CHANGED_NAMESPACES:
        data = await admin.get_log_page(queue, page, _CHANGED_LIST_BYTES)
        changed = set(unpack_namespace_list(data))
        on_namespaces(None if not changed or NSID_ALL in changed else changed)
        return
    if page == LogId.ERROR:
        length = min(4096, ErrorEntry.SIZE * (controller.elpe + 1))
        entry = ErrorEntry.unpack(await admin.get_log_page(queue, page, length))
        log.info("the controller logged an error: %s", entry)
    elif page == LogId.HEALTH:
        health = HealthLog.unpack(await admin.get_log_page(queue, page, HealthLog.SIZE))
        log.warning("the controller reports a critical warning: %#04x", health.critical_warning)
    elif page == LogId.ANA:
        await admin.get_log_page(queue, page, 4096)
        on_namespaces(None)
    else:
        log.info("event %#010x is not one that this host acts on", event.value)
