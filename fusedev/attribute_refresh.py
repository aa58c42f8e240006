"""Makes the kernel ask for a node's size when it has a wrong one.

O_TRUNC makes the kernel believe in a size of 0 until its next GETATTR, and it does so only after
our answer to the open: an asynchronous direct read of another opener then ends early.  Somebody
else's `stat` cures that, so we do one ourselves, several times, because we cannot know when the
process that opened the node gets to run.  The same goes for a namespace that has grown.
"""

import os
from functools import partial
from typing import Final

import attrs
import trio

from .bystander import Bystander

#: Seconds between one `stat` and the next.
_PAUSES_S: Final = (0.001, 0.01, 0.1, 0.5)


@attrs.define(eq=False)
class AttributeRefresh:
    """Stats the nodes that it is told of, in another thread: the answer comes from this process."""

    _directory: str = attrs.field(alias="directory")
    _bystander: Bystander = attrs.field(alias="bystander")
    #: How many times each has been looked at.  Bounded by the number of nodes.
    _rounds: dict[str, int] = attrs.field(init=False, factory=dict)
    _news: trio.Event = attrs.field(init=False, factory=trio.Event)

    def request(self, name: str) -> None:
        """Has the kernel ask for the attributes of a node, soon."""
        self._rounds[name] = 0
        self._news.set()

    async def run(self) -> None:
        """Serves requests until it is cancelled."""
        while True:
            if not self._rounds:
                await self._news.wait()
            self._news = trio.Event()
            names = list(self._rounds)
            await self._bystander.run(partial(self._stat, names))
            pause_s = min(_PAUSES_S[self._rounds[name]] for name in names)
            for name in names:
                self._rounds[name] += 1
                if self._rounds[name] == len(_PAUSES_S):
                    del self._rounds[name]
            with trio.move_on_after(pause_s):
                await self._news.wait()

    def _stat(self, names: list[str]) -> None:
        for name in names:
            try:
                os.stat(f"{self._directory}/{name}")  # noqa: PTH116
            except OSError:
                continue  # the node, or the mount, is gone
