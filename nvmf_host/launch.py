"""Reads and writes that are sent without a task, and take one only where they do not just succeed.

A task for each request costs its wakes, and a pass through half a dozen frames to where it waits.
Nearly every request of a live namespace is one command that succeeds: whoever launched it is called
back in the step that took the response, and answers there.  Everything else goes the way that
`Namespace.read` and `write` go: what is launched here differs from them in nothing but who waits.
"""

from typing import TYPE_CHECKING, Final

from nvmf_transport import heap
from nvmf_transport.wire import Buffer

from .io_request import IoRequest, Kind, Opener
from .range_lock import Held
from .state import NamespaceState

if TYPE_CHECKING:
    from .namespace import Namespace

#: An enumeration's members are looked up by a call (Python 3.11), which every request would make.
_READ: Final = Kind.READ
_WRITE: Final = Kind.WRITE
_LIVE: Final = NamespaceState.LIVE


class Launch:
    """A request on its way.

    Where `request.outstanding`, `request.on_end` is called, once; then `conclude` it.  Where that
    is False, or nothing was outstanding to begin with, it takes a task: `see_through`.
    """

    __slots__ = ("_concluded", "_held", "_namespace", "data", "request")

    def __init__(
        self, namespace: "Namespace", request: IoRequest, data: Buffer, held: Held | None
    ) -> None:
        self._namespace = namespace
        self._held = held
        self._concluded = False
        self.request = request
        #: What a read reads into; a write's.
        self.data = data

    def conclude(self) -> bool:
        """True where the request has succeeded and all is done."""
        engine, request = self._namespace.engine, self.request
        if not engine.conclude(request):
            return False
        self._concluded = True
        if self._held is not None:
            self._namespace.line.let_go(self._held, request)
            return not engine.log.is_full
        return True

    async def see_through(self) -> None:
        """Waits for the end.  Raises what `Namespace.read` and `write` raise."""
        namespace, request, held = self._namespace, self.request, self._held
        engine, line = namespace.engine, namespace.line
        if held is None:
            if not self._concluded:
                await engine.see_through(request)
            return
        if not self._concluded:
            try:
                if request.path is not None:
                    await engine.see_through(request)
                else:
                    # Its LBAs were another's.  Whoever fails what waits for some may have come
                    # before the task has.
                    engine.check()
                    await line.wait(held, request)
                    await engine.perform(request)
            finally:
                line.let_go(held, request)
        await namespace.relieve(request.opener)


def read(namespace: "Namespace", offset: int, length: int, opener: Opener | None) -> Launch | None:
    """Sends a read of whole LBAs; None where it has to go another way."""
    engine, size = namespace.engine, namespace.lba_bytes
    if (
        engine.state is not _LIVE
        or offset % size
        or length % size
        or not 0 <= offset <= namespace.description.size_lbas * size - length
        or length <= 0
    ):
        return None
    data = heap.fresh_page(length)
    request = engine.transfer(_READ, offset // size, length // size, data, opener)
    engine.launch(request)
    return Launch(namespace, request, data, None)


def write(
    namespace: "Namespace", offset: int, data: Buffer, opener: Opener | None, *, fua: bool
) -> Launch | None:
    """Sends a write of whole LBAs, or lets it wait for its LBAs; None: it has to go another way.

    Nobody else changes `data` while the launch exists.
    """
    engine, size, length = namespace.engine, namespace.lba_bytes, len(data)
    if (
        engine.state is not _LIVE
        or offset % size
        or length % size
        or not 0 <= offset <= namespace.description.size_lbas * size - length
        or not length
        or namespace.read_only
    ):
        return None
    request = engine.transfer(_WRITE, offset // size, length // size, data, opener)
    if fua:
        request.fua = True
    held = namespace.line.enter(request)
    if not held.blockers:
        try:
            engine.launch(request)
        except BaseException:
            namespace.line.let_go(held, request)
            raise
    return Launch(namespace, request, data, held)
