"""The control node: any bytes written to it, by whoever may open it."""

import json
from typing import Any, Final

import attrs
import trio

from nvmf_host import messages
from nvmf_host.control import ControlService, Session, open_control, structure_request
from nvmf_transport.errors import ConfigError
from tests.host.hosting import hosting, params
from tests.host.scripted import SUBNQN, Scripted

from .clock import run
from .source import Source

_LIMIT_S: Final = 100_000
_ANSWER_S: Final = 1000.0
_TEXTS: Final = (
    "nvme0",
    "nvme0ns1",
    "target:4420",
    SUBNQN,
    "loop",
    "tcp",
    "dynamic",
    "",
    "nvme1",
    "target",
    "[::1]:4420",
    "nqn.2014-08.org.nvmexpress.discovery",
    "8f7a3a52-5f5b-4b63-9a43-0c3e2ad5a001",
    "\x00",
    "\ud800",
    "x" * 300,
    "ä:1",
    "65535",
    "static",
)
_NUMBERS: Final = (0, 1, 4, 8, -1, 2, 512, 4096, 63, 64, 65, 255, 256, 1 << 16, 1 << 32, 1 << 64)
_FLOATS: Final = (0.0, 1.0, 15.0, 0.5, -1.0, 1e9, 1e308, float("inf"), float("nan"))
_ODD: Final[tuple[Any, ...]] = (None, True, "1", 1.5, [], {}, [[0, 8]], 10**400, [[1, 2, 3]], -0.0)
_SESSIONS: Final = 3


def _value(source: Source, kind: str) -> Any:
    if source.one_in(8):
        return source.pick(_ODD)
    if "None" in kind and source.one_in(3):
        return None
    if "str" in kind:
        return source.pick(_TEXTS)
    if "bool" in kind:
        return source.flag()
    if "float" in kind:
        return source.pick(_FLOATS)
    if "tuple" in kind:
        return [[source.pick(_NUMBERS), source.pick(_NUMBERS)] for _ in range(source.below(4))]
    return source.pick(_NUMBERS)


def _fields(source: Source) -> dict[str, Any]:
    kind = source.pick(list(messages.REQUESTS.values()))
    fields: dict[str, Any] = {"id": source.pick((1, 0, "a", None)), "command": kind.COMMAND}
    for attribute in attrs.fields(kind):
        needed = attribute.default is attrs.NOTHING
        if source.one_in(8) if needed else not source.one_in(4):
            continue
        fields[attribute.name] = _value(source, str(attribute.type))
    if fields["command"] == "connect":
        # As a caller would have it: else nearly all of them end at the first check.
        good = {"address": "target:4420", "subnqn": SUBNQN, "transport": "loop"}
        fields |= {name: value for name, value in good.items() if source.below(4)}
    if source.one_in(16):
        fields[source.pick(("x", "", "command", "id"))] = source.pick(_ODD)
    return fields


def _line(source: Source) -> bytes:
    """One write to the node."""
    if source.one_in(12):
        return source.take(source.below(64))
    return source.mutated(json.dumps(_fields(source)).encode(), 8) + b"\n"


class _Session:
    """One open of the node, and how many answers it is owed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.owed = 0
        self.text = b""

    def submit(self, line: bytes) -> None:
        self.session.submit(line)
        self.owed += 1

    async def read(self, size: int, wait_s: float) -> None:
        """Takes what is there; every line answers one request."""
        data = await self.session.read(size, wait_s=wait_s)
        assert len(data) <= size
        self.text += data
        *lines, self.text = self.text.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            assert answer["schema"] == messages.SCHEMA
            assert ("result" in answer) != ("error" in answer)
            self.owed -= 1
            if "error" in answer:
                assert answer["error"]["kind"] != "internal", answer
        assert self.owed >= 0, "more answers than requests"


async def _play(source: Source, service: ControlService) -> None:
    sessions = [_Session(service.open_session()) for _ in range(_SESSIONS)]
    while source:
        each = source.pick(sessions)
        match source.below(8):
            case 0:
                await each.read(source.pick((65536, 1, 100)), 0.1)
            case 1:
                await trio.sleep(source.pick((0.0, 0.1, 30.0)))
            case 2 if source.one_in(8):
                each.session.close()
                sessions.remove(each)
                sessions.append(_Session(service.open_session()))
            case _:
                each.submit(_line(source))
    with trio.fail_after(_ANSWER_S):
        for each in sessions:
            while each.owed:
                await each.read(1 << 20, 10.0)
    for each in sessions:
        each.session.close()


async def _main(source: Source) -> None:
    peer = Scripted(vwc=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.serve)
        async with hosting(peer.network) as (host, _), open_control(host) as service:
            if source.flag():
                await host.connect(params())
            await _play(source, service)
        nursery.cancel_scope.cancel()


def check(data: bytes) -> None:
    """One input."""
    source = Source(data)
    if source.one_in(4):
        run(_main, source, limit_s=_LIMIT_S)
        return
    # Without a host, and so much faster: what is made of the fields alone.
    while source:
        fields = _fields(source)
        fields.pop("id", None)
        try:
            structure_request(fields)
        except ConfigError as error:
            json.dumps([str(error), error.field, error.value])
