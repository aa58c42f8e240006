"""The control node's requests, and their handling (see `messages` for what is said).

A session is one open of the node.  Each request is a task of the service: a long `connect` delays
no other request, and a session that is closed takes its requests with it.
"""

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
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
    NvmfError,
    TransportError,
)

from . import messages
from .groups import single_error
from .host import Host
from .service import Requests

log = logging.getLogger(__name__)

#: Answers that nobody reads: a session that leaves more lying is cut off.
_MAX_UNREAD_BYTES: Final = 64 << 20

#: What the fields of Get Log Page hold.
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
        """Cancels what still runs for this open of the control node."""
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
        self._requests = Requests(host)
        self._nursery = nursery

    def open_session(self) -> Session:
        """A session; close it."""
        return Session(self, self._nursery)

    async def handle(self, request: messages.Request) -> Any:
        """Returns the answer; raises `NvmfError`."""
        return await self._requests.handle(request)


def _identifier(value: Any) -> Any:
    # What is given back as it came has to be something small.
    if value is not None and not isinstance(value, (int, str)):
        raise ConfigError("give a number or a string", field="id", value=str(value)[:80])
    return value


def _text(line: bytes) -> str:
    return line[:80].decode("utf-8", "replace")


@asynccontextmanager
async def open_control(host: Host) -> AsyncIterator[ControlService]:
    """The owner of all requests' tasks; leaving it cancels them."""
    with single_error():
        async with trio.open_nursery() as nursery:
            yield ControlService(host, nursery)
            nursery.cancel_scope.cancel()
