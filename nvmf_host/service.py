"""What each request of the control node does."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from nvmf_transport.errors import BusyError, ConfigError, NoSuchDeviceError
from nvmf_transport.nvme import NSID_ALL

from . import admin, by_hand, identity, messages
from .config import ConnectParams
from .controller import Controller
from .host import Host
from .io_request import IoRequest
from .namespace import Namespace
from .quarantine import Quarantined

_MAX_LOG_BYTES: Final = 16 << 20
#: A request that was sent longer ago is shown with those that wait.
_SLOW_S: Final = 1.0
_LOG_PAGE_FIELDS: Final = {"lid": 0xFF, "lsp": 0x7F, "lsi": 0xFFFF, "nsid": NSID_ALL}


class Requests:
    """Carries requests out on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._handlers: dict[type, Callable[[Any], Awaitable[Any]]] = {
            messages.ConnectRequest: self._connect,
            messages.ReconnectRequest: self._reconnect,
            messages.DisconnectRequest: self._disconnect,
            messages.DevlistRequest: self._devlist,
            messages.IdentifyRequest: self._identify,
            messages.LogPageRequest: self._log_page,
            messages.NsidRequest: self._nsid,
            messages.SetRequest: self._set,
            messages.PausedRequest: self._paused,
            messages.ResumeRequest: self._resume,
            messages.FailRequest: self._fail,
            messages.FlushRequest: self._flush,
            messages.DeallocateRequest: self._deallocate,
            messages.WriteZeroesRequest: self._write_zeroes,
        }

    async def handle(self, request: messages.Request) -> Any:
        """Returns the answer; raises `NvmfError`."""
        return await self._handlers[type(request)](request)

    async def _connect(self, request: messages.ConnectRequest) -> messages.ConnectResult:
        who = self._identity(request.hostnqn, request.hostid)
        controller = await self._host.connect(ConnectParams.from_request(request, who))
        return _connected(controller)

    async def _reconnect(self, request: messages.ReconnectRequest) -> messages.ConnectResult:
        controller = self._host.find_controller(request.device)
        who = None
        if request.hostnqn is not None or request.hostid is not None:
            who = identity.resolve(request.hostnqn, request.hostid)
        params = controller.params.changed(request, who)
        if request.fenced:
            controller.vouch()
            if controller.association is not None and params == controller.params:
                # Connected again already: that it is fenced was all there was to say.
                return _connected(controller)
        await self._host.reconnect(controller, params)
        return _connected(controller)

    async def _disconnect(self, request: messages.DisconnectRequest) -> messages.DisconnectResult:
        controllers = (
            list(self._host.controllers.values())
            if request.device is None
            else self._named(request.device)
        )
        problems: dict[str, str] = {}

        async def end(controller: Controller) -> None:
            found = await self._host.disconnect(controller)
            if found:
                problems[controller.name] = "; ".join(found)

        async with trio.open_nursery() as nursery:
            for controller in controllers:
                nursery.start_soon(end, controller)
        return messages.DisconnectResult(
            devices=tuple(controller.name for controller in controllers), problems=problems
        )

    async def _devlist(self, _request: messages.DevlistRequest) -> messages.DevlistResult:
        return messages.DevlistResult(
            controllers=tuple(controller.info() for controller in self._host.controllers.values())
        )

    async def _identify(self, request: messages.IdentifyRequest) -> messages.DataResult:
        controller, namespace = self._device(request.device)
        _check_range("cns", request.cns, 0xFF)
        if request.nsid is not None:
            _check_range("nsid", request.nsid, NSID_ALL)
        own = 0 if namespace is None else namespace.nsid
        queue = controller.live_association().admin
        nsid = own if request.nsid is None else request.nsid
        return _data(await admin.identify(queue, request.cns, nsid=nsid))

    async def _log_page(self, request: messages.LogPageRequest) -> messages.DataResult:
        controller, namespace = self._device(request.device)
        for field, highest in _LOG_PAGE_FIELDS.items():
            value = getattr(request, field)
            if value is not None:
                _check_range(field, value, highest)
        _check_multiple_of_4("length_bytes", request.length_bytes, 4, _MAX_LOG_BYTES)
        _check_multiple_of_4("offset_bytes", request.offset_bytes, 0, 1 << 62)
        own = NSID_ALL if namespace is None else namespace.nsid
        data = await admin.get_log_page(
            controller.live_association().admin,
            request.lid,
            request.length_bytes,
            offset_bytes=request.offset_bytes,
            nsid=own if request.nsid is None else request.nsid,
            lsp=request.lsp,
            lsi=request.lsi,
            rae=request.rae,
        )
        return _data(data)

    async def _nsid(self, request: messages.NsidRequest) -> messages.NsidResult:
        controller, namespace = self._device(request.device)
        return messages.NsidResult(
            controller=controller.name, nsid=0 if namespace is None else namespace.nsid
        )

    async def _set(self, request: messages.SetRequest) -> messages.ControllerInfo:
        controller = self._device(request.device)[0]
        controller.set_params(controller.params.changed(request))
        return controller.info()

    async def _paused(self, request: messages.PausedRequest) -> messages.PausedResult:
        if request.device is None:
            namespaces = [
                (controller, namespace)
                for controller in self._host.controllers.values()
                for namespace in controller.namespaces.values()
            ]
        else:
            controller, only = self._device(request.device)
            namespaces = [
                (controller, namespace)
                for namespace in controller.namespaces.values()
                if only is None or only is namespace
            ]
        now = trio.current_time()
        waiting = [
            _waiting(namespace, wait.request, wait.reason, now, quarantined=wait.quarantined)
            for _, namespace in namespaces
            for wait in namespace.waits()
            if not wait.sent or now - wait.request.since >= _SLOW_S
        ]
        return messages.PausedResult(
            requests=tuple(sorted(waiting, key=lambda request: -request.age_s)),
            quarantine=tuple(
                _quarantined(namespace, one, now)
                for _, namespace in namespaces
                for one in namespace.quarantine.ranges()
            ),
            max_held_bytes=self._host.max_held_bytes,
        )

    async def _resume(self, request: messages.ResumeRequest) -> messages.NamespaceInfo:
        controller, namespace = self._host.find_namespace(request.device)
        await by_hand.resume(
            controller, namespace, rewrite_lost=request.rewrite, accept=request.accept
        )
        return namespace.info()

    async def _fail(self, request: messages.FailRequest) -> messages.NamespaceInfo:
        namespace = self._host.find_namespace(request.device)[1]
        if namespace.state is not namespace.state.LIVE:
            namespace.fail_fast("failed by hand")
        elif not namespace.fail_stuck("failed by hand"):
            raise BusyError("it is live; nothing waits", field="device", value=namespace.name)
        return namespace.info()

    async def _flush(self, request: messages.FlushRequest) -> dict[str, Any]:
        await self._host.find_namespace(request.device)[1].flush()
        return {}

    async def _deallocate(self, request: messages.DeallocateRequest) -> dict[str, Any]:
        await self._host.find_namespace(request.device)[1].deallocate(request.ranges)
        return {}

    async def _write_zeroes(self, request: messages.WriteZeroesRequest) -> dict[str, Any]:
        await self._host.find_namespace(request.device)[1].write_zeroes(
            request.slba, request.length_lbas, fua=request.fua, deallocate=request.deallocate
        )
        return {}

    def _identity(self, hostnqn: str | None, hostid: str | None) -> identity.HostIdentity:
        if hostnqn is None and hostid is None:
            return self._host.identity
        return identity.resolve(hostnqn, hostid)

    def _device(self, name: str) -> tuple[Controller, Namespace | None]:
        if name in self._host.controllers:
            return self._host.controllers[name], None
        return self._host.find_namespace(name)

    def _named(self, name: str) -> list[Controller]:
        """By the name of a node first, then by SUBNQN, which may mean several."""
        try:
            return [self._device(name)[0]]
        except NoSuchDeviceError:
            found = [
                controller
                for controller in self._host.controllers.values()
                if controller.params.subnqn == name
            ]
            if not found:
                known = ", ".join(self._host.controllers) or "none"
                raise NoSuchDeviceError(
                    f"no controller, namespace or SUBNQN of this name; controllers: {known}",
                    value=name,
                ) from None
            return found


def _connected(controller: Controller) -> messages.ConnectResult:
    info = controller.info()
    return messages.ConnectResult(
        device=controller.name, namespaces=info.namespaces, refused=info.refused
    )


def _waiting(
    namespace: Namespace, request: IoRequest, reason: str, now: float, *, quarantined: bool
) -> messages.WaitingRequest:
    opener = request.opener
    return messages.WaitingRequest(
        node=namespace.name,
        operation=request.kind.value,
        offset_bytes=request.slba * namespace.lba_bytes,
        length_bytes=request.nlb * namespace.lba_bytes,
        pid=None if opener is None else opener.pid,
        uid=None if opener is None else opener.uid,
        age_s=now - request.since,
        held_bytes=0 if request.data is None else len(request.data),
        reason=reason,
        ambiguous=request.ambiguous,
        quarantined=quarantined,
    )


def _quarantined(namespace: Namespace, one: Quarantined, now: float) -> messages.QuarantinedRange:
    times = [fence.lifts_at for fence in one.fences if fence.stands]
    known = [at for at in times if at is not None]
    lifts_in_s = max(0.0, max(known) - now) if known and len(known) == len(times) else None
    return messages.QuarantinedRange(
        node=namespace.name, slba=one.slba, length_lbas=one.nlb, lifts_in_s=lifts_in_s
    )


def _data(data: bytearray) -> messages.DataResult:
    return messages.DataResult(data=base64.b64encode(data).decode("ascii"))


def _check_range(field: str, value: int, highest: int) -> None:
    if not 0 <= value <= highest:
        raise ConfigError(f"give a number from 0 to {highest}", field=field, value=value)


def _check_multiple_of_4(field: str, value: int, lowest: int, highest: int) -> None:
    if value % 4 or not lowest <= value <= highest:
        raise ConfigError(
            f"give a multiple of 4 from {lowest} to {highest}", field=field, value=value
        )
