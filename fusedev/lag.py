"""How late the event loop is: Keep Alive is sent by it, and the controller does not wait."""

import logging
from typing import Final

import attrs
import trio

from .backend import ControllerLike, HostLike

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.2
#: What is late is warned of once in so long.
_QUIET_S: Final = 60.0
#: Keep Alive is due when half of its time has passed; half of what is left then may be lost.
_SHARE: Final = 4
#: No Keep Alive Timeout is shorter than a second.
_ALWAYS_FINE_S: Final = 1.0 / _SHARE


@attrs.define(eq=False)
class LoopLag:
    """Measures by how much a sleep is too long."""

    _host: HostLike = attrs.field(alias="host")
    #: The longest so far, in seconds.
    longest_s: float = 0.0
    _warned_at: float = float("-inf")

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            due = trio.current_time() + _LOOK_S
            await trio.sleep_until(due)
            self.take(trio.current_time() - due)

    def take(self, lag_s: float) -> None:
        """A sleep was so much too long."""
        self.longest_s = max(self.longest_s, lag_s)
        if lag_s < _ALWAYS_FINE_S or trio.current_time() - self._warned_at < _QUIET_S:
            return
        endangered = [
            controller.name
            for controller in self._host.controllers.values()
            if 0 < _kato_s(controller) < lag_s * _SHARE
        ]
        if endangered:
            self._warned_at = trio.current_time()
            _log.warning(
                "this process stood still for %.1f s, which endangers the keep-alive of %s; "
                "give it more of a processor, or connect with a longer --keep-alive-tmo",
                lag_s,
                ", ".join(endangered),
            )


def _kato_s(controller: ControllerLike) -> float:
    """The Keep Alive Timeout of a live controller, 0 where there is none."""
    info = controller.info()
    parameter = info.parameters.get("kato_s")
    if info.state != "live" or parameter is None:
        return 0.0
    return float(parameter.value or 0)
