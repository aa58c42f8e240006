"""When the next attempt to connect is due, and who waits for how it ends."""

import math
import random
from collections.abc import Callable
from typing import Final

import trio

from nvmf_transport.errors import ConnectRejectedError, NvmfError
from nvmf_transport.status import AUTHENTICATION_REQUIRED

_FIRST_DELAY_S: Final = 0.5
_REFUSED_DELAY_S: Final = 60.0
#: A delay is shortened by up to this part, so that many hosts do not come at once.
_JITTER: Final = 0.25


def is_refusal(error: NvmfError | None) -> bool:
    """True where the controller has to be configured before it takes this host."""
    return isinstance(error, ConnectRejectedError) and (
        error.status.dnr or error.status.code == AUTHENTICATION_REQUIRED.code
    )


class Attempts:
    """Counts attempts since the last loss; `wait_for_turn` returns when the next one is due."""

    def __init__(self, randomness: random.Random | None = None) -> None:
        self.count = 0
        self.next_at: float | None = None
        self._random = randomness or random.Random()  # noqa: S311 - it spreads load, no more
        self._wanted = trio.Event()
        self._changed = trio.Event()
        self._result = _Result()

    def lost(self) -> None:
        """An association ended, or is to be made for the first time."""
        self.count = 0

    def want(self) -> None:
        """Somebody asks for the next attempt now."""
        self._wanted.set()
        self._changed.set()

    async def outcome(self) -> None:
        """Waits for the end of the next attempt; raises its error."""
        await self._result.get()

    def look(self) -> None:
        """The longest delay may have changed."""
        self._changed.set()

    async def wait_for_turn(
        self, longest_delay_s: Callable[[], float], *, refused: bool = False
    ) -> None:
        """Waits until the next attempt is due, or wanted; a delay of 0: until it is wanted.

        A controller that `refused` the last one is asked less and less often, down to once a
        minute: it has to be configured before it will not.
        """
        began_at = trio.current_time()
        chance = self._random.random()
        while not self._wanted.is_set():
            self._changed = trio.Event()
            longest_s = longest_delay_s()
            if longest_s and refused:
                longest_s = max(longest_s, _REFUSED_DELAY_S)
            self.next_at = began_at + self._delay_s(longest_s, chance) if longest_s else None
            with trio.move_on_at(self.next_at or math.inf) as waited:
                await self._changed.wait()
            if waited.cancelled_caught:
                break
        self.next_at = None

    def begin(self) -> None:
        """An attempt begins: a wish from now on is for the one after it."""
        self.count += 1
        self.next_at = None
        self._wanted = trio.Event()

    def end(self, error: NvmfError | None) -> None:
        """The attempt has ended, with this error or well."""
        result, self._result = self._result, _Result()
        result.set(error)

    def _delay_s(self, longest_s: float, chance: float) -> float:
        if self.count == 0:
            return 0.0
        delay_s = min(_FIRST_DELAY_S * float(1 << min(self.count - 1, 20)), longest_s)
        return delay_s * (1 - _JITTER * chance)


class _Result:
    """A value that is waited for by any number of tasks."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._error: NvmfError | None = None

    def set(self, error: NvmfError | None) -> None:
        self._error = error
        self._event.set()

    async def get(self) -> None:
        await self._event.wait()
        if self._error is not None:
            raise self._error
