"""The operators of a scenario: they reconnect, look after paused namespaces, vouch for fences."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs
import trio

from nvmf_host import by_hand
from nvmf_host.config import ConnectParams
from nvmf_host.controller import Controller
from nvmf_host.host import Host, NodeEvent
from nvmf_host.namespace import Namespace
from nvmf_host.state import ControllerState, NamespaceState, PauseCause
from nvmf_transport.errors import NvmfError

from .history import NEVER, History, Record
from .network import SimNetwork
from .plan import Plan
from .target import Target

#: Between an event of the host and what it was decided by.
_SLACK_S: Final = 0.01


@attrs.define(eq=False, kw_only=True)
class Hands:
    """What is done by hand; `controller` is the present one."""

    plan: Plan
    params: ConnectParams
    network: SimNetwork
    target: Target
    history: History
    counts: "Counter[str]"
    host: Host
    controller: Controller = attrs.field(init=False)
    _attempts: int = 0
    #: As the host told: when its last association was lost, and the next attempt began that won.
    _lost_at: float = 0.0
    _tried_at: float = 0.0
    _was: ControllerState = ControllerState.CONNECTING
    #: When somebody let a namespace go on, by NSID.
    _let_go_at: dict[int, float] = attrs.field(factory=dict)

    async def connect(self) -> None:
        """Makes a controller."""
        controller = await self.host.connect(self.params)
        # What is random must be the plan's.
        self._attempts += 1
        controller.attempts._random = random.Random(self.plan.schedule + 1 + self._attempts)
        self.controller = controller

    def watch(self, event: NodeEvent) -> None:
        """For the host to call."""
        state = self.controller.state
        if state is not self._was and event.name == self.controller.name:
            now = trio.current_time()
            if state is ControllerState.LOST and self._was is ControllerState.LIVE:
                self._lost_at = now
            elif state is ControllerState.RECONNECTING:
                self._tried_at = now
            self._was = state

    async def operate(self) -> None:
        """Never ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reconnect_and_resume)
            if not self.plan.kato_s:
                nursery.start_soon(self._vouch)

    def refusal(self, record: Record) -> str:
        """Why a write must not arrive now: it is older than the replay limit, and nobody looked.

        Another host may have the namespace by then.  Sloppy targets begin late with what they got
        before the loss: there nobody can tell.
        """
        limit_ms = self.plan.replay_limit_ms
        if limit_ms is None or self.plan.sloppy or self._was is not ControllerState.LIVE:
            return ""
        # What has an end may be among what somebody else has read and writes again.
        too_old = record.returned == record.left == NEVER and (
            record.invoked_at < self._lost_at < self._tried_at
            and self._tried_at - self._lost_at > limit_ms / 1000 + _SLACK_S
        )
        if too_old and self._let_go_at.get(record.namespace + 1, -1.0) < self._tried_at:
            return "it was sent by itself after the replay limit"
        return ""

    async def _reconnect_and_resume(self) -> None:
        reconnects = not self.plan.reconnect_delay_s
        while True:
            await trio.sleep((self.plan.by_hand_ms or 500) / 1000)
            controller = self.controller
            if controller.closed.is_set():
                # What it knew of volatile caches went with it, also where nobody was waiting.
                self.history.given_up = True
                await self._try(self.connect, "connections after a loss timeout")
            elif reconnects and controller.state is ControllerState.LOST:
                await self._try(
                    lambda: self.host.reconnect(self.controller, self.params),
                    "reconnections by hand",
                )
            for namespace in list(self.controller.namespaces.values()):
                if namespace.state is NamespaceState.PAUSED:
                    await self._resume(namespace)

    async def _try(self, what: Callable[[], object], name: str) -> None:
        try:
            await what()  # type: ignore[misc]
        except NvmfError:
            self.counts[f"failed {name}"] += 1
        else:
            self.counts[name] += 1

    async def _resume(self, namespace: Namespace) -> None:
        """What was lost, or has waited long, is for a hand; another namespace is not."""
        cause = namespace.engine.cause
        if cause is PauseCause.IDENTITY and "size was" in namespace.engine.reason:
            self.counts["found smaller"] += 1
        if cause is PauseCause.REPLAY_LIMIT:
            self.counts["replay limits"] += 1
            self._let_go_at[namespace.nsid] = trio.current_time()
            await self._let_go(namespace, rewrite=False, accept=False)
        elif cause is PauseCause.UNFLUSHED_LOST:
            self.counts["losses found"] += 1
            if not self.history.losses:
                self.history.faults.append("a loss was found, and no target had lost its cache")
            accept = self.plan.accept
            before = namespace.losses
            if accept:
                self.history.given_up = True
            if await self._let_go(namespace, rewrite=not accept, accept=accept):
                if accept and namespace.losses == before:
                    self.history.faults.append("a loss was given up, and no fsync will say so")
                self.counts["losses given up" if accept else "losses written again"] += 1

    async def _let_go(self, namespace: Namespace, *, rewrite: bool, accept: bool) -> bool:
        try:
            await by_hand.resume(self.controller, namespace, rewrite_lost=rewrite, accept=accept)
        except NvmfError:
            self.counts["failed resumptions"] += 1
            return False
        return True

    async def _vouch(self) -> None:
        """Somebody waits until nothing of the old controllers can land any more, then says so."""
        while True:
            await trio.sleep(0.2)
            standing = self.controller.fences.standing()
            frozen = any(one.to_controller.frozen for one in self.network.connections)
            if not standing or frozen:
                continue
            await trio.sleep(self.target.pace.fence_s)
            if self.controller.fences.standing() == standing:
                self.controller.vouch()
                self.counts["fences vouched for"] += 1
