"""A launched read or write and who waits for its answer, as the daemon has them; see `launch`."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs
import trio

from nvmf_host.launch import Launch
from nvmf_host.namespace import Namespace
from nvmf_transport.errors import NvmfError

#: How often whoever is killed is let go, and how soon that must have an effect, once a task is due.
_KILL_EVERY_S: Final = 0.01
_KILL_PATIENCE_S: Final = 1.0


@attrs.define(eq=False)
class Flight:
    """One launch.  Where it needs a task, that comes late: others are in its way."""

    _namespace: Namespace = attrs.field(alias="namespace")
    _launch: Launch = attrs.field(alias="launch")
    _tasks: trio.Nursery = attrs.field(alias="tasks")
    _late_s: float = attrs.field(alias="late_s")
    #: Called in the step in which it has succeeded.
    _answer: Callable[[], None] = attrs.field(alias="answer")
    #: Told what must not be.
    _accuse: Callable[[str], None] = attrs.field(alias="accuse")
    _counts: "Counter[str]" = attrs.field(alias="counts")
    _error: NvmfError | None = attrs.field(init=False, default=None)
    _ended: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def end(self) -> None:
        """Waits for the answer.  Raises what the launch does; whoever is cancelled is killed."""
        request = self._launch.request
        if request.outstanding:
            request.on_end = self._conclude
        else:
            self._take_task()
        try:
            await self._ended.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._kill()
            raise
        if self._error is not None:
            raise self._error

    def _conclude(self) -> None:
        if self._launch.conclude():
            self._counts["launches without a task"] += 1
            self._succeed()
        else:
            self._take_task()

    def _take_task(self) -> None:
        self._counts["launches with a task"] += 1
        self._tasks.start_soon(self._see_through)

    async def _see_through(self) -> None:
        await trio.sleep(self._late_s)
        try:
            await self._launch.see_through()
        except NvmfError as error:
            self._error = error
            self._ended.set()
        else:
            self._counts["launches sent again"] += self._launch.request.ambiguous
            self._succeed()

    def _succeed(self) -> None:
        self._answer()
        self._ended.set()

    async def _kill(self) -> None:
        """The caller dies, and goes as soon as it has an answer: see `fusedev.killing`."""
        with trio.move_on_after(self._late_s + _KILL_PATIENCE_S):
            while not self._ended.is_set():
                self._namespace.kill(self._launch.request)
                with trio.move_on_after(_KILL_EVERY_S):
                    await self._ended.wait()
        if not self._ended.is_set():
            self._accuse("a caller that was killed got no answer")
