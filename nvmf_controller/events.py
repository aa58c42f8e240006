"""Asynchronous events: what a controller tells its host without being asked (Base 2.1, 5.1.2)."""

from collections import deque
from collections.abc import Callable
from typing import Final

from nvmf_transport.identify import MAX_ACTIVE_NAMESPACES, pack_namespace_list
from nvmf_transport.logs import LogId
from nvmf_transport.nvme import (
    AEC_NAMESPACE_ATTRIBUTE,
    NSID_ALL,
    AsyncEvent,
    AsyncEventType,
    Notice,
)

#: Asynchronous Event Requests outstanding at a time; AERL is one less.
MAX_EVENT_REQUESTS: Final = 8


class AsyncEvents:
    """The Asynchronous Event Requests of one controller, and the events that wait for one.

    An event of a log page is reported once, and again only after its page was read without RAE.
    """

    def __init__(self, complete: Callable[[int, int], None]) -> None:
        #: Completes the request with this CID, and this DW0.
        self._complete = complete
        self._requests: deque[int] = deque()
        self._pending: deque[AsyncEvent] = deque()
        #: Log pages that were reported and not read since.
        self._masked: set[int] = set()
        self._changed: dict[int, None] = {}
        self._changed_overflow = False
        #: Asynchronous Event Configuration, feature 0Bh.
        self.config = 0

    def reset(self) -> None:
        """Forgets everything, as a controller level reset does; requests get no completion."""
        self._requests.clear()
        self._pending.clear()
        self._masked.clear()
        self._changed.clear()
        self._changed_overflow = False
        self.config = 0

    def request(self, cid: int) -> bool:
        """Takes an Asynchronous Event Request; False where there are too many."""
        if len(self._requests) >= MAX_EVENT_REQUESTS:
            return False
        self._requests.append(cid)
        self._deliver()
        return True

    def abort(self, cid: int) -> bool:
        """Forgets the request with this CID; False where there is none."""
        if cid not in self._requests:
            return False
        self._requests.remove(cid)
        return True

    def is_outstanding(self, cid: int) -> bool:
        """True while a request with this CID waits for an event."""
        return cid in self._requests

    def namespace_changed(self, nsid: int) -> None:
        """Notes that a namespace came, went or changed, and reports it where asked to."""
        if nsid not in self._changed and len(self._changed) >= MAX_ACTIVE_NAMESPACES:
            self._changed_overflow = True
        else:
            self._changed[nsid] = None
        if self.config & AEC_NAMESPACE_ATTRIBUTE:
            self._raise(
                AsyncEvent.of(
                    event_type=AsyncEventType.NOTICE,
                    info=Notice.NAMESPACE_ATTRIBUTE_CHANGED,
                    log_page=LogId.CHANGED_NAMESPACES,
                )
            )

    def changed_list(self) -> bytes:
        """Changed Namespace List, log page 04h: FFFFFFFFh alone where it does not hold all."""
        return pack_namespace_list([NSID_ALL] if self._changed_overflow else sorted(self._changed))

    def page_read(self, log_page: int) -> None:
        """A log page was read without Retain Asynchronous Event: it may be reported again."""
        self._masked.discard(log_page)
        if log_page == LogId.CHANGED_NAMESPACES:
            self._changed.clear()
            self._changed_overflow = False

    def _raise(self, event: AsyncEvent) -> None:
        if event.log_page in self._masked:
            return
        self._masked.add(event.log_page)
        self._pending.append(event)
        self._deliver()

    def _deliver(self) -> None:
        while self._requests and self._pending:
            self._complete(self._requests.popleft(), self._pending.popleft().value)
