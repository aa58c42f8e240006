"""A controller: it outlives its associations, and is the only one that decides to reconnect.

`run` is its task.  An association ends by any failure of it; then the namespaces are held, the
controller is reset if it still answers, the sockets are closed, and the next attempt is made when
it is due or wanted.  Whoever asks for something (`reconnect`, `close`) sets a wish; `run` acts.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from nvmf_transport.errors import (
    BusyError,
    NotConnectedError,
    NvmfError,
    ShutdownError,
    TransportError,
)
from nvmf_transport.interfaces import Transport

from .association import Association, open_association
from .attempts import Attempts, is_refusal
from .config import ConnectParams
from .cross_reset import reset_others
from .fencing import Fences
from .groups import single_error
from .identification import SCAN_STEP, identify
from .messages import ControllerInfo
from .namespace import Namespace
from .outage import Outage
from .report import controller_info
from .rescans import Rescans
from .roster import Roster
from .scan import NamespaceDescription
from .shutdown import flush_all, unsettled, wait_idle
from .state import CONTROLLER_TRANSITIONS, ControllerState, moved

log = logging.getLogger(__name__)

_S = ControllerState
#: An association that ends sooner counts as one more failed attempt: the next is not made at once,
#: or a controller that lets go as soon as it is connected would be called without a pause.
_SETTLED_S: Final = 1.0
#: All that an orderly end may take, sockets apart.
_CLOSE_S: Final = 9.0


class Controller:
    """One controller of one subsystem: the node `nvmeX`."""

    def __init__(
        self,
        name: str,
        params: ConnectParams,
        transport: Transport,
        *,
        on_added: Callable[[Namespace], None],
        on_changed: Callable[[Namespace | None], None],
        on_removed: Callable[[Namespace], None],
        on_reidentified: Callable[[Namespace], None] = lambda _namespace: None,
        twin_of: Callable[[Namespace, NamespaceDescription], str | None] = lambda *_: None,
    ) -> None:
        """`on_changed(None)` means the controller itself.

        `twin_of` names another node that has the identity which a namespace is to take on;
        `on_reidentified` is told when it has done so.
        """
        self.on_reidentified = on_reidentified
        self.twin_of = twin_of
        self.name = name
        self.params = params
        self.state = _S.CONNECTING
        self.association: Association | None = None
        #: The last association's, for what is shown while there is none.
        self.last_association: Association | None = None
        self.associations = 0
        #: Of ended associations whose controllers may still execute commands.
        self.fences = Fences(self._wake)
        self.last_error = self._warned = ""
        self.since = trio.current_time()
        self.attempts = Attempts()
        self.problems: list[str] = []
        self.closed = trio.Event()
        self._transport = transport
        self._on_changed = on_changed
        self.roster = Roster(self._make_namespace, on_added, on_changed, on_removed)
        self._close_wanted = trio.Event()
        self._wishes = trio.Event()
        self._keep_trying = False
        #: Cancelled where the attempt under way is not wanted any more.
        self._attempt_scope: trio.CancelScope | None = None
        #: Cancelled where there is nothing more to do with the association than to end it.
        self._serving: trio.CancelScope | None = None
        self._parting: trio.CancelScope | None = None
        self._alive_at = self._failed_at = trio.current_time()
        self._rescans = Rescans()
        self.outage = Outage(lambda: self.params, self._fail_fast, self._give_up)

    @property
    def namespaces(self) -> dict[int, Namespace]:
        """The namespaces that have a node, by NSID."""
        return self.roster.namespaces

    def info(self) -> ControllerInfo:
        """What `devlist` and the node show."""
        return controller_info(self)

    def live_association(self) -> Association:
        """The association, for commands that never wait; raises `NotConnectedError`."""
        if self.association is None or self.association.error is not None:
            raise NotConnectedError(
                f"{self.name} is not connected ({self.last_error or self.state.value}); "
                f"reconnect it first"
            )
        return self.association

    # What others may ask for.

    async def reconnect(self, params: ConnectParams) -> None:
        """Makes the next attempt now, with these parameters; returns when it has ended well.

        Raises `BusyError` while connected, else the attempt's error.  The parameters stay, but for
        the address of an attempt that failed: a slip must not make an outage permanent.
        """
        association = self.association
        if self.state is _S.LIVE and association is not None and association.error is None:
            raise BusyError(
                f"{self.name} is connected; disconnect it, or wait for it to be lost",
                field="device",
                value=self.name,
            )
        self._refuse_if_closing()
        if not self.associations and not self._keep_trying:
            raise BusyError(
                f"{self.name} is being connected for the first time; wait, or disconnect it",
                field="device",
                value=self.name,
            )
        old, self.params = self.params, params
        try:
            if self._attempt_scope is None:
                self.attempts.want()
            elif params != old:
                # The attempt under way is for what is not wanted any more.
                self._attempt_scope.cancel()
                with suppress(NvmfError):
                    await self.attempts.outcome()
                self._refuse_if_closing()
                self.attempts.want()
            await self.attempts.outcome()
        except BaseException:
            if old.address != params.address == self.params.address:
                self.params = attrs.evolve(self.params, address=old.address)
            raise

    def _refuse_if_closing(self) -> None:
        if self._close_wanted.is_set() or self.state in (_S.CLOSING, _S.CLOSED):
            raise BusyError(f"{self.name} is being disconnected", field="device", value=self.name)

    def set_params(self, params: ConnectParams) -> None:
        """Parameters that need no new association; they hold from now on."""
        self.params = params
        if self.association is not None:
            self.association.params = params
        self.outage.look()
        self.attempts.look()
        self._on_changed(None)

    def vouch(self) -> None:
        """The operator says that the controllers of ended associations have stopped."""
        self.fences.lift_all("the operator vouches for it")

    async def close(self) -> None:
        """An orderly end; returns when it has come.  `problems` says what did not end well."""
        self._want_close()
        await self.closed.wait()

    def _want_close(self) -> None:
        self._close_wanted.set()
        self._wishes.set()
        self.attempts.want()
        for scope in (self._attempt_scope, self._serving):
            if scope is not None:
                scope.cancel()
        if self._parting is not None:
            soon = trio.current_time() + _CLOSE_S
            self._parting.deadline = min(self._parting.deadline, soon)

    # The task.

    async def run(self, *, keep_trying: bool) -> None:
        """Lives until it is closed, or, without `keep_trying`, until the first attempt fails."""
        self._keep_trying = keep_trying
        try:
            with single_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.outage.watch)
                    await self._connect_again_and_again()
                    nursery.cancel_scope.cancel()
        finally:
            self._end()

    async def _connect_again_and_again(self) -> None:
        self.attempts.lost()
        while not self._close_wanted.is_set():
            error = await self._attempt()
            if self._close_wanted.is_set():
                break
            if not self.associations and not self._keep_trying:
                self._move(_S.CLOSING)
                break
            self._lost(error)
            await self.attempts.wait_for_turn(
                lambda: self.params.reconnect_delay_s, refused=is_refusal(error)
            )

    async def _attempt(self) -> NvmfError | None:
        """One attempt, and the life of the association that it makes; returns why that ended."""
        if self.state is _S.LOST:
            self._move(_S.RECONNECTING)
        self.attempts.begin()
        error: NvmfError | None = None
        scope = self._attempt_scope = trio.CancelScope()
        try:
            # A queue's error may come together with the cancellation: that is taken off first.
            with single_error(), scope:
                await self._live_and_die()
        except NvmfError as failure:
            error = failure
            self._name_target(failure)
        if scope.cancelled_caught:
            error = ShutdownError("the attempt was given up")
        self._attempt_scope = None
        if self.association is not None:
            self.fences.add(self.association.fence, trio.current_time())
        self.association = None
        self.roster.lose_paths()
        if self.state in (_S.CONNECTING, _S.RECONNECTING):
            self.attempts.end(error)
        return error

    def _name_target(self, error: NvmfError) -> None:
        """Has an error name what somebody typed, and may have to change."""
        if error.field is None and isinstance(error, TransportError):
            error.field = "address"
        if error.value is None and error.field in {"address", "subnqn"}:
            error.value = str(getattr(self.params, error.field))

    async def _live_and_die(self) -> None:
        async with open_association(
            self._transport,
            self.params,
            on_failed=self._association_failed,
            on_namespaces=self._namespaces_changed,
        ) as association:
            self.association = self.last_association = association
            # They may have been changed while it was made.
            association.params = self.params
            try:
                with trio.CancelScope() as self._serving:
                    await identify(
                        association,
                        self.roster,
                        self._rescans,
                        None,
                        reconnected=self.associations > 0,
                    )
                    if association.error is None and not self._close_wanted.is_set():
                        self._came_alive(association)
                        await self._serve(association)
            except NvmfError as error:
                association.fail(error)
            finally:
                self._serving = None
                await self._part(association)
        failure = association.error
        if failure is not None:
            if isinstance(failure, TransportError) and self.state is not _S.LIVE:
                failure.step = failure.step or SCAN_STEP
            raise failure

    def _came_alive(self, association: Association) -> None:
        # From here on nobody cancels: the end of an association is orderly.
        self._attempt_scope = None
        self._alive_at = trio.current_time()
        self.associations += 1
        self.last_error = ""
        self.outage.end()
        self._move(_S.LIVE)
        self.attempts.end(None)
        log.info(
            "%s: connected to %s at %s, CNTLID %d, %d I/O queues",
            self.name,
            self.params.subnqn,
            association.endpoint,
            association.cntlid,
            len(association.io),
        )

    async def _serve(self, association: Association) -> None:
        """Acts on wishes until the association fails or is to be closed."""
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    reset_others,
                    association.admin,
                    association.controller,
                    association.fence,
                    self.fences,
                )
                await self._act_on_wishes(association)
                nursery.cancel_scope.cancel()

    async def _act_on_wishes(self, association: Association) -> None:
        while association.error is None and not self._close_wanted.is_set():
            self._wishes = trio.Event()
            now = trio.current_time()
            self.fences.look(now)
            due = self._rescans.take_due()
            if due:
                nsids = None if None in due else {nsid for nsid in due if nsid is not None}
                await identify(association, self.roster, self._rescans, nsids, reconnected=False)
                continue
            wake_at = min(self._rescans.next_at, self.fences.next_at())
            with trio.move_on_at(wake_at):
                await self._wishes.wait()

    async def _part(self, association: Association) -> None:
        """The end of an association, while its sockets are still open."""
        closing = self._close_wanted.is_set() and association.error is None
        if not closing:
            association.fail(ShutdownError("the attempt was given up"))
        problem: str | None = "the controller was not seen to stop in time"
        with trio.CancelScope(shield=True) as self._parting:
            if self._close_wanted.is_set():
                self._parting.deadline = trio.current_time() + _CLOSE_S
            if closing:
                self._move(_S.CLOSING)
                self.roster.end("the controller was disconnected")
                await wait_idle(association)
                self.problems += await flush_all(association, self.roster.namespaces.values())
            problem = await association.stop(orderly=closing)
        self._parting = None
        if problem is not None:
            log.info("%s: %s", self.name, problem)
            if closing:
                self.problems.append(problem)

    # Called from below, synchronously.

    def _wake(self) -> None:
        self._wishes.set()

    def _association_failed(self, error: NvmfError) -> None:
        self.last_error = str(error)
        self._failed_at = trio.current_time()
        if self.associations:
            self.outage.begin()
        self.roster.hold(f"connection lost: {error}")
        if self._serving is not None:
            self._serving.cancel()

    def _namespaces_changed(self, nsids: set[int] | None) -> None:
        """The controller reports changed attributes: nothing is sent before they are known."""
        self.roster.hold("the controller reports a change; being identified", nsids)
        self._rescans.now(nsids)
        self._wishes.set()

    def _fail_fast(self, reason: str) -> None:
        log.warning("%s: %s: waiting I/O fails", self.name, reason)
        for namespace in self.roster.namespaces.values():
            namespace.fail_fast(reason)
            self._on_changed(namespace)

    def _give_up(self, reason: str) -> None:
        log.error("%s: %s: disconnected", self.name, reason)
        self.problems.append(f"{self.name}: {reason}")
        self._want_close()

    def _recheck(self, namespace: Namespace, reason: str) -> None:
        """A status asks for one namespace to be identified again, after a while."""
        log.warning("%s: %s", namespace.name, reason)
        self._rescans.soon(namespace.nsid)
        self._wishes.set()
        self._on_changed(namespace)

    def _make_namespace(self, description: NamespaceDescription) -> Namespace:
        return Namespace(
            f"{self.name}ns{description.nsid}",
            description,
            read_only=self.params.read_only,
            on_recheck=self._recheck,
        )

    # States.

    def _lost(self, error: NvmfError | None) -> None:
        if error is not None:
            self.last_error = str(error)
        if self.state is _S.LIVE:
            if self._failed_at - self._alive_at >= _SETTLED_S:
                self.attempts.lost()
            log.warning("%s: association lost: %s", self.name, self.last_error)
        else:
            # An outage may last for days: what is said again and again is no news.
            level = logging.WARNING if self.last_error != self._warned else logging.INFO
            log.log(level, "%s: attempt %d: %s", self.name, self.attempts.count, self.last_error)
        self._warned = self.last_error
        self._rescans.reset()
        self._move(_S.LOST)

    def _end(self) -> None:
        self.fences.look(trio.current_time())
        self.problems += unsettled(
            self.roster.namespaces.values(), flushed=self.state is _S.CLOSING
        )
        if self.state is not _S.CLOSING:
            self._move(_S.CLOSING)
        self.roster.end("the controller was disconnected")
        self.roster.clear()
        self._move(_S.CLOSED)
        self.attempts.end(ShutdownError(f"{self.name} was disconnected"))
        self.closed.set()

    def _move(self, new: ControllerState) -> None:
        # An attempt to reconnect is part of the loss, whose time goes on.
        if {self.state, new} != {_S.LOST, _S.RECONNECTING}:
            self.since = trio.current_time()
        self.state = moved(CONTROLLER_TRANSITIONS, self.state, new)
        self._on_changed(None)
