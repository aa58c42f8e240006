"""A daemon that answers from a table, and the command line run against it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner

from nvmecontrol.cli import Session, cli
from nvmecontrol.discovery import Query
from nvmecontrol.node import given_fields, result_of
from nvmf_host.discovery import Discovery
from nvmf_host.messages import (
    SCHEMA,
    ConnectResult,
    ControllerInfo,
    ErrorInfo,
    NamespaceInfo,
    Request,
)
from nvmf_transport.errors import UnreachableError

Answer = object | Callable[[dict[str, Any]], object]


@attrs.define(eq=False)
class FakeDaemon:
    """Answers each command with an object of `messages`, or what a function of the request says."""

    answers: dict[str, Answer] = attrs.field(factory=dict)
    #: Of every request: its command and the fields that were sent.
    requests: list[dict[str, Any]] = attrs.field(factory=list)
    #: Where it was looked for.
    directories: list[str] = attrs.field(factory=list)
    closed: int = 0

    def open(self, directory: Path) -> "FakeDaemon":
        self.directories.append(str(directory))
        return self

    def request(self, request: Request) -> dict[str, Any]:
        sent = {"command": request.COMMAND, **json.loads(json.dumps(given_fields(request)))}
        self.requests.append(sent)
        answer = self.answers[request.COMMAND]
        found = answer(sent) if callable(answer) else answer
        if isinstance(found, BaseException):
            raise found
        line: dict[str, Any] = {"schema": SCHEMA, "id": 1}
        if isinstance(found, ErrorInfo):
            line["error"] = attrs.asdict(found)
        else:
            assert attrs.has(type(found)) or found == {}
            line["result"] = attrs.asdict(found) if found else {}  # type: ignore[arg-type]
        return result_of(json.loads(json.dumps(line)))

    def close(self) -> None:
        self.closed += 1


@attrs.define(eq=False)
class FakeDiscovery:
    """Answers every question with one discovery, or with an error."""

    answer: Discovery | Exception = attrs.field(factory=lambda: UnreachableError("nobody there"))
    queries: list[Query] = attrs.field(factory=list)

    def __call__(self, query: Query) -> Discovery:
        self.queries.append(query)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@attrs.frozen
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str
    raw: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    *arguments: str, daemon: FakeDaemon | None = None, discovery: FakeDiscovery | None = None
) -> Outcome:
    """Runs nvmecontrol with these arguments."""
    session = Session(
        open_node=(daemon or FakeDaemon()).open, discover=discovery or FakeDiscovery()
    )
    result = CliRunner().invoke(cli, list(arguments), obj=session)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)


def namespace(**changes: Any) -> NamespaceInfo:
    """A live namespace of 64 MiB, with changes."""
    return attrs.evolve(_NAMESPACE, **changes)


def controller(**changes: Any) -> ControllerInfo:
    """A live controller with one namespace, with changes."""
    return attrs.evolve(_CONTROLLER, **changes)


def connected(**changes: Any) -> ConnectResult:
    """The answer to a connect that went well, with changes."""
    result = ConnectResult(device="nvme0", namespaces=(_NAMESPACE,), refused=())
    return attrs.evolve(result, **changes)


_NAMESPACE = NamespaceInfo(
    name="nvme0ns1",
    nsid=1,
    state="live",
    reason="",
    lba_bytes=512,
    size_bytes=64 << 20,
    size_lbas=131072,
    read_only=False,
    uuid="6d7a0f0e-30c5-4a5c-9d0c-1f7f5f0b2a11",
    nguid=None,
    eui64=None,
    same_as=None,
    last_error="",
    waiting_requests=0,
    ambiguous_writes=0,
)
_CONTROLLER = ControllerInfo(
    name="nvme0",
    state="live",
    subnqn="nqn.2014-08.org.example:disk",
    transport="tcp",
    address="192.0.2.1:4420",
    endpoint="192.0.2.1:4420",
    hostnqn="nqn.2014-08.org.example:host",
    hostid="0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f",
    cntlid=1,
    serial="SN1",
    model="Linux",
    firmware="6.12",
    version="1.4.0",
    since_s=42.7,
    last_error="",
    attempts=0,
    next_attempt_s=None,
    associations=1,
    parameters={},
    queues=(),
    namespaces=(_NAMESPACE,),
    refused=(),
)
