"""Which namespaces are to be identified again, and when."""

from typing import Final

import trio

#: A namespace that has to be looked at again and again is so after 0.1 s, doubling to 5 s.
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 5.0


class Rescans:
    """NSIDs and times; None stands for every namespace."""

    def __init__(self) -> None:
        self._due_at: dict[int | None, float] = {}
        self._delays_s: dict[int, float] = {}

    @property
    def next_at(self) -> float:
        """When the next one is due; infinity where none is."""
        return min(self._due_at.values(), default=float("inf"))

    def now(self, nsids: set[int] | None) -> None:
        """These NSIDs are due now; None: all."""
        now = trio.current_time()
        for nsid in {None} if nsids is None else nsids:
            self._due_at[nsid] = now

    def soon(self, nsid: int) -> None:
        """This NSID is due after a delay that grows from time to time."""
        delay_s = self._delays_s.get(nsid, _FIRST_DELAY_S)
        self._delays_s[nsid] = min(2 * delay_s, _LONGEST_DELAY_S)
        self._due_at.setdefault(nsid, trio.current_time() + delay_s)

    def take_due(self) -> set[int | None]:
        """Takes out what is due."""
        now = trio.current_time()
        due = {nsid for nsid, at in self._due_at.items() if at <= now}
        for nsid in due:
            del self._due_at[nsid]
        return due

    def drop_all(self) -> None:
        """Everything is about to be identified."""
        self._due_at.clear()

    def reset(self) -> None:
        """The association is over: what was due on it means nothing on the next."""
        self._due_at.clear()
        self._delays_s.clear()
