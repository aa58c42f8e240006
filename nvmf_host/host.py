"""The host: its controllers by name, and the library's entry points.

async with nvmf_host.connect("127.0.0.1:4420", "nqn...") as controller:
    data = await controller.namespaces[1].read(0, 4096)
"""

import enum
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from nvmf_transport.errors import BusyError, NoSuchDeviceError, NvmfError, ShutdownError
from nvmf_transport.interfaces import lookup

from .config import ConnectParams
from .controller import Controller
from .groups import single_error
from .identity import HostIdentity, resolve
from .messages import ConnectRequest
from .namespace import Namespace
from .quarantine import Quarantine
from .scan import NamespaceDescription
from .state import ControllerState

log = logging.getLogger(__name__)

#: An orderly end takes no longer; then everything is cut.
CLOSE_LIMIT_S: Final = 10.0


class NodeEventKind(enum.Enum):
    """What happened to a node."""

    ADDED = enum.auto()
    REMOVED = enum.auto()
    #: Its size, mode or state.
    CHANGED = enum.auto()


@attrs.frozen
class NodeEvent:
    """Something happened to the node `name`."""

    kind: NodeEventKind
    name: str


class Host:
    """All controllers of this process.  Made by `open_host`."""

    def __init__(self, identity: HostIdentity, nursery: trio.Nursery) -> None:
        self.identity = identity
        self.controllers: dict[str, Controller] = {}
        #: What requests may hold while they wait, as whoever serves files has bounded it; shown.
        self.max_held_bytes: int | None = None
        self._nursery = nursery
        self._closing = False
        self._subscribers: list[Callable[[NodeEvent], None]] = []
        #: The names that subscribers know.
        self._nodes: set[str] = set()
        #: Namespaces with the same identifiers in the same subsystem, in the order of their coming.
        self._paths: dict[tuple[str, ...], list[Namespace]] = {}
        #: The key of each, as it was when it came: the address of a connection can change.
        self._keys: dict[Namespace, tuple[str, ...]] = {}
        #: Quarantines of namespaces whose last node is gone, for the next one.
        self._estates: dict[tuple[str, ...], list[Quarantine]] = {}

    def subscribe(self, callback: Callable[[NodeEvent], None]) -> None:
        """`callback` is called, synchronously, with every `NodeEvent` from now on."""
        self._subscribers.append(callback)

    async def connect(self, params: ConnectParams, *, keep_trying: bool = False) -> Controller:
        """Makes a controller and waits for its first attempt to end.

        Raises that attempt's error, and the controller is gone again; with `keep_trying` it stays
        and goes on trying, and the error is in its `last_error`.  Raises `BusyError` where the
        same connection exists, `UnavailableError` for an unknown transport.
        """
        transport = lookup(params.transport)
        if self._closing:
            raise ShutdownError("the host is being shut down")
        self._refuse_duplicate(params, None)
        name = self._free_name()
        controller = Controller(
            name,
            params,
            transport,
            on_added=lambda namespace: self._joined(controller, namespace),
            on_changed=lambda namespace: self._changed(controller, namespace),
            on_removed=self._left,
            on_reidentified=lambda namespace: self._reidentified(controller, namespace),
            twin_of=lambda namespace, offered: self._twin(controller, namespace, offered),
        )
        self.controllers[name] = controller
        self.controllers = dict(sorted(self.controllers.items(), key=lambda item: _number(item[0])))
        if keep_trying:
            self._emit(NodeEventKind.ADDED, name)
        # Else it has a node from its first association on; see `_changed`.
        self._nursery.start_soon(self._run, controller, keep_trying)
        try:
            await controller.attempts.outcome()
        except NvmfError:
            if not keep_trying:
                await controller.closed.wait()
                raise
        except trio.Cancelled:
            # Nobody waits for it any more: it must not appear later by itself.
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_LIMIT_S):
                await controller.close()
            raise
        return controller

    async def reconnect(self, controller: Controller, params: ConnectParams) -> None:
        """The next attempt now, with these parameters; see `Controller.reconnect`."""
        self._refuse_duplicate(params, controller)
        await controller.reconnect(params)

    async def disconnect(self, controller: Controller) -> list[str]:
        """Ends a controller in order; returns problems, none where all ended well."""
        with trio.move_on_after(CLOSE_LIMIT_S) as scope:
            await controller.close()
        if scope.cancelled_caught:
            return [*controller.problems, f"{controller.name} did not end in {CLOSE_LIMIT_S:g} s"]
        return controller.problems

    async def close(self) -> list[str]:
        """Ends all controllers in order, at the same time; returns problems."""
        self._closing = True
        problems: list[str] = []

        async def end(controller: Controller) -> None:
            problems.extend(await self.disconnect(controller))

        async with trio.open_nursery() as nursery:
            for controller in list(self.controllers.values()):
                nursery.start_soon(end, controller)
        return problems

    def find_controller(self, name: str) -> Controller:
        """The controller of this name; raises `NoSuchDeviceError`."""
        try:
            return self.controllers[name]
        except KeyError:
            known = ", ".join(self.controllers) or "none"
            raise NoSuchDeviceError(f"no such controller; there are: {known}", value=name) from None

    def find_namespace(self, name: str) -> tuple[Controller, Namespace]:
        """The namespace of this name and its controller; raises `NoSuchDeviceError`."""
        for controller in self.controllers.values():
            for namespace in controller.namespaces.values():
                if namespace.name == name:
                    return controller, namespace
        raise NoSuchDeviceError("no such namespace; `devlist` shows what is there", value=name)

    # Internals.

    async def _run(self, controller: Controller, keep_trying: bool) -> None:
        try:
            await controller.run(keep_trying=keep_trying)
        except Exception:
            # A bug met by one controller must not end the others, and the mount with them.
            log.exception("%s: ends by a fault of this program", controller.name)
        finally:
            del self.controllers[controller.name]
            self._emit(NodeEventKind.REMOVED, controller.name)

    def _changed(self, controller: Controller, namespace: Namespace | None) -> None:
        if namespace is not None:
            self._emit(NodeEventKind.CHANGED, namespace.name)
        elif controller.state is ControllerState.LIVE and controller.name not in self._nodes:
            self._emit(NodeEventKind.ADDED, controller.name)
        else:
            self._emit(NodeEventKind.CHANGED, controller.name)

    def _emit(self, kind: NodeEventKind, name: str) -> None:
        """Tells the subscribers; of what has no node they hear nothing."""
        if kind is NodeEventKind.ADDED:
            self._nodes.add(name)
        elif name not in self._nodes:
            return
        if kind is NodeEventKind.REMOVED:
            self._nodes.remove(name)
        event = NodeEvent(kind, name)
        for callback in self._subscribers:
            callback(event)

    def _free_name(self) -> str:
        taken = {_number(name) for name in self.controllers}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        return f"nvme{number}"

    def _refuse_duplicate(self, params: ConnectParams, itself: Controller | None) -> None:
        if params.duplicate or (itself is not None and itself.params.key == params.key):
            return
        for other in self.controllers.values():
            if other is not itself and other.params.key == params.key:
                raise BusyError(
                    f"already connected as {other.name}; use that, or -D for a second connection",
                    field="subnqn",
                    value=f"{params.subnqn} at {params.address}",
                )

    def _joined(self, controller: Controller, namespace: Namespace) -> None:
        """A namespace has got its node: it may be a second path to one that is there."""
        # No I/O can have reached the node yet: what it must not write over is known in time.
        self._enter_path(namespace, _path_key(controller, namespace.description, namespace.nsid))
        self._emit(NodeEventKind.ADDED, namespace.name)

    def _left(self, namespace: Namespace) -> None:
        self._leave_path(namespace)
        self._emit(NodeEventKind.REMOVED, namespace.name)

    def _reidentified(self, controller: Controller, namespace: Namespace) -> None:
        """A node has another identity than the one that it came with."""
        key = _path_key(controller, namespace.description, namespace.nsid)
        if self._keys.get(namespace, key) != key:
            self._leave_path(namespace)
            namespace.same_as = None
            self._enter_path(namespace, key)

    def _twin(
        self, controller: Controller, namespace: Namespace, description: NamespaceDescription
    ) -> str | None:
        """The name of another node that has this identity, which `namespace` is to take on."""
        paths = self._paths.get(_path_key(controller, description, namespace.nsid), [])
        return next((path.name for path in paths if path is not namespace), None)

    def _enter_path(self, namespace: Namespace, key: tuple[str, ...]) -> None:
        self._keys[namespace] = key
        paths = self._paths.setdefault(key, [])
        if paths:
            namespace.same_as = paths[0].name
            log.warning(
                "%s is the same namespace as %s, and read-only here",
                namespace.name,
                paths[0].name,
            )
        paths.append(namespace)
        for estate in self._estates.pop(key, []):
            self._bequeath(estate, namespace)

    def _leave_path(self, namespace: Namespace) -> None:
        key = self._keys.pop(namespace, ())
        paths = self._paths.get(key, [])
        if namespace in paths:
            paths.remove(namespace)
            for path in paths:
                first = None if path is paths[0] else paths[0].name
                if path.same_as != first:
                    path.same_as = first
                    self._emit(NodeEventKind.CHANGED, path.name)
            if not paths:
                del self._paths[key]
        if paths:
            self._bequeath(namespace.quarantine, paths[0])
        elif not namespace.quarantine.is_over:
            self._estates.setdefault(key, []).append(namespace.quarantine)

    def _bequeath(self, estate: Quarantine, heir: Namespace) -> None:
        """What a node that is gone had in quarantine is so for the next node of the namespace."""
        holder = next(
            controller
            for controller in self.controllers.values()
            if controller.namespaces.get(heir.nsid) is heir
        )
        estate.bequeath(heir.quarantine, holder.fences)


def _path_key(
    controller: Controller, description: NamespaceDescription, nsid: int
) -> tuple[str, ...]:
    """What makes two nodes the same namespace; without identifiers, the same NSID there."""
    ids = description.identifiers
    if not ids:
        return (*controller.params.key, f"NSID {nsid}")
    return (controller.params.subnqn, *(f"{name} {value}" for name, value in ids.items()))


def _number(name: str) -> int:
    return int(name.removeprefix("nvme"))


@asynccontextmanager
async def open_host(*, identity: HostIdentity) -> AsyncIterator[Host]:
    """The owner of all controllers' tasks; leaving it ends them in order."""
    with single_error():
        async with trio.open_nursery() as nursery:
            host = Host(identity, nursery)
            try:
                yield host
            finally:
                with trio.move_on_after(CLOSE_LIMIT_S + 1, shield=True):
                    for problem in await host.close():
                        log.warning("%s", problem)
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect(
    address: str, subnqn: str, *, identity: HostIdentity | None = None, **options: object
) -> AsyncIterator[Controller]:
    """One controller for as long as the block lasts; `options` are fields of `ConnectRequest`.

    Raises `NvmfError` where no association can be made.  The transport must be registered first.
    """
    who = identity or resolve()
    request = ConnectRequest(address=address, subnqn=subnqn, **options)  # type: ignore[arg-type]
    async with open_host(identity=who) as host:
        yield await host.connect(ConnectParams.from_request(request, who))


__all__ = ["ControllerState", "Host", "NodeEvent", "NodeEventKind", "connect", "open_host"]
