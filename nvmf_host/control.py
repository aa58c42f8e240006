"""The control node's requests, and their handling (see `messages` for what is said).

A session is one open of the node.  Each request is a task of the service: a long `connect` delays
no other request, and a session that is closed takes its requests with it.
"""

import base64
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import cattrs
import trio
from cattrs.gen import make_dict_structure_fn

from nvmf_transport.errors import (
    BusyError,
    CommandError,
    ConfigError,
    NoSuchDeviceError,
    NvmfError,
    TransportError,
)
from nvmf_transport.nvme import NSID_ALL

from . import admin, identity, messages
from .config import ConnectParams
from .controller import Controller
from .groups import single_error
from .host import Host
from .namespace import Namespace

log = logging.getLogger(__name__)

_MAX_LOG_BYTES: Final = 16 << 20
#: Answers that nobody reads: a session that leaves more lying is cut off.
_MAX_UNREAD_BYTES: Final = 64 << 20

#: What the fields of Get Log Page hold.
_LOG_PAGE_FIELDS: Final = {"lid": 0xFF, "lsp": 0x7F, "lsi": 0xFFFF, "nsid": NSID_ALL}

_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)


def _typed(kinds: type | tuple[type, ...], name: str) -> Callable[[Any, Any], Any]:
    """JSON has types; a string for a number is a mistake, not something to convert."""

    def structure(value: Any, _type: Any) -> Any:
        accepted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise TypeError(f"not {name}: {value!r}")
        return value

    return structure


_converter.register_structure_hook(int, _typed(int, "a whole number"))
_converter.register_structure_hook(float, _typed((int, float), "a number"))
_converter.register_structure_hook(str, _typed(str, "a string"))
_converter.register_structure_hook(bool, _typed(bool, "true or false"))
for _request in messages.REQUESTS.values():
    _converter.register_structure_hook(
        _request,
        make_dict_structure_fn(_request, _converter, _cattrs_forbid_extra_keys=True),
    )


def structure_request(fields: dict[str, Any]) -> messages.Request:
    """Makes a request of JSON's fields, without `id`; raises `ConfigError` naming the field."""
    fields = dict(fields)
    name = fields.pop("command", None)
    kind = messages.REQUESTS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(messages.REQUESTS)
        raise ConfigError(f"unknown command; there are: {known}", field="command", value=name)
    known_fields = {attribute.name: attribute for attribute in attrs.fields(kind)}
    for field in fields:
        if field not in known_fields:
            raise ConfigError(f"{name} has no such field", field=field, value=fields[field])
    for field, attribute in known_fields.items():
        if field not in fields and attribute.default is attrs.NOTHING:
            raise ConfigError(f"{name} needs this field", field=field, value="missing")
    for field, value in fields.items():
        try:
            _converter.structure(value, known_fields[field].type)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}", field=field, value=value) from None
    request: messages.Request = _converter.structure(fields, kind)
    return request


def error_info(error: NvmfError) -> messages.ErrorInfo:
    """What an answer says of an error."""
    status = (
        f"{error.status.sct:X}/{error.status.sc:02X}" if isinstance(error, CommandError) else None
    )
    step = error.step if isinstance(error, TransportError) else None
    return messages.ErrorInfo(
        kind=error.kind,
        message=str(error),
        field=error.field,
        value=error.value,
        status=status,
        step=step,
    )


class Session:
    """One open of the control node."""

    def __init__(self, service: "ControlService", nursery: trio.Nursery) -> None:
        self._service = service
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._pending = 0
        self._output: deque[bytes] = deque()
        self._unread_bytes = 0
        self._ready = trio.Event()
        self._closed = False

    def submit(self, line: bytes) -> None:
        """One request.  Raises nothing: what is wrong with it becomes its answer."""
        identifier: Any = None
        try:
            fields = self._parse(line)
            identifier = _identifier(fields.pop("id", None))
            request = structure_request(fields)
            if self._pending >= messages.MAX_PENDING:
                raise BusyError(f"{messages.MAX_PENDING} requests are pending; wait for answers")
        except NvmfError as error:
            self._answer(identifier, "error", error_info(error))
        else:
            self._pending += 1
            self._nursery.start_soon(self._run, identifier, request)

    async def read(self, max_bytes: int, *, wait_s: float = 0.1) -> bytes:
        """What is ready, at most `max_bytes`; b"" where nothing is within `wait_s`."""
        if not self._output:
            self._ready = trio.Event()
            with trio.move_on_after(wait_s):
                await self._ready.wait()
        pieces, room = [], max_bytes
        while self._output and room:
            piece = self._output.popleft()
            if len(piece) > room:
                self._output.appendleft(piece[room:])
                piece = piece[:room]
            pieces.append(piece)
            room -= len(piece)
        data = b"".join(pieces)
        self._unread_bytes -= len(data)
        return data

    def close(self) -> None:
        """Cancels what still runs for this session."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()

    def _parse(self, line: bytes) -> dict[str, Any]:
        if len(line) > messages.MAX_REQUEST_BYTES:
            raise ConfigError(
                f"a request has at most {messages.MAX_REQUEST_BYTES} bytes",
                field="request",
                value=f"{len(line)} bytes",
            )
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"not JSON: {error}; write one JSON object a line",
                field="request",
                value=_text(line),
            ) from None
        if not isinstance(fields, dict):
            raise ConfigError("write a JSON object", field="request", value=_text(line))
        return fields

    async def _run(self, identifier: Any, request: messages.Request) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self._closed:
                    return
                result = await self._service.handle(request)
            except NvmfError as error:
                self._answer(identifier, "error", error_info(error))
            except Exception as error:
                # One request's bug must not end the mount.
                log.exception("request %s failed", request.COMMAND)
                info = messages.ErrorInfo(kind="internal", message=f"internal error: {error!r}")
                self._answer(identifier, "error", info)
            else:
                self._answer(identifier, "result", result)
            finally:
                self._pending -= 1
                self._scopes.discard(scope)

    def _answer(self, identifier: Any, key: str, value: Any) -> None:
        body = attrs.asdict(value) if attrs.has(type(value)) else value
        answer = {"schema": messages.SCHEMA, "id": identifier, key: body}
        line = json.dumps(answer).encode() + b"\n"
        self._unread_bytes += len(line)
        if self._unread_bytes > _MAX_UNREAD_BYTES:
            self._unread_bytes -= len(line)
            log.warning("a control session leaves its answers unread; one was dropped")
            return
        self._output.append(line)
        self._ready.set()


class ControlService:
    """Handles requests.  Made by `open_control`."""

    def __init__(self, host: Host, nursery: trio.Nursery) -> None:
        self._host = host
        self._nursery = nursery
        self._handlers: dict[type, Callable[[Any], Awaitable[Any]]] = {
            messages.ConnectRequest: self._connect,
            messages.ReconnectRequest: self._reconnect,
            messages.DisconnectRequest: self._disconnect,
            messages.DevlistRequest: self._devlist,
            messages.IdentifyRequest: self._identify,
            messages.LogPageRequest: self._log_page,
            messages.NsidRequest: self._nsid,
            messages.FlushRequest: self._flush,
            messages.DeallocateRequest: self._deallocate,
            messages.WriteZeroesRequest: self._write_zeroes,
        }

    def open_session(self) -> Session:
        """A session; close it."""
        return Session(self, self._nursery)

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
        await self._host.reconnect(controller, controller.params.reconnecting(request, who))
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


def _data(data: bytearray) -> messages.DataResult:
    return messages.DataResult(data=base64.b64encode(data).decode("ascii"))


def _identifier(value: Any) -> Any:
    # What is given back as it came has to be something small.
    if value is not None and not isinstance(value, (int, str)):
        raise ConfigError("give a number or a string", field="id", value=str(value)[:80])
    return value


def _text(line: bytes) -> str:
    return line[:80].decode("utf-8", "replace")


def _check_range(field: str, value: int, highest: int) -> None:
    if not 0 <= value <= highest:
        raise ConfigError(f"give a number from 0 to {highest}", field=field, value=value)


def _check_multiple_of_4(field: str, value: int, lowest: int, highest: int) -> None:
    if value % 4 or not lowest <= value <= highest:
        raise ConfigError(
            f"give a multiple of 4 from {lowest} to {highest}", field=field, value=value
        )


@asynccontextmanager
async def open_control(host: Host) -> AsyncIterator[ControlService]:
    """The owner of all requests' tasks; leaving it cancels them."""
    with single_error():
        async with trio.open_nursery() as nursery:
            yield ControlService(host, nursery)
            nursery.cancel_scope.cancel()
