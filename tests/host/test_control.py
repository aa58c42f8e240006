"""The control node's requests: answers, errors, and what a session leaves behind."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as some

from nvmf_host import messages
from nvmf_host.control import ControlService, Session, open_control, structure_request
from nvmf_host.host import Host
from nvmf_host.state import ControllerState
from nvmf_transport import status as st
from nvmf_transport.errors import ConfigError
from nvmf_transport.identify import IdentifyController

from .hosting import hosting, in_state, until
from .scripted import SUBNQN, Answer, Disk, Fate, Scripted, scripted

CONNECT = {
    "command": "connect",
    "address": "target:4420",
    "subnqn": SUBNQN,
    "transport": "loop",
    "reconnect_delay_s": 0,
    "nr_io_queues": 2,
}


@attrs.define(eq=False)
class Client:
    """Somebody who has the control node open."""

    service: ControlService
    host: Host
    session: Session
    unread: bytes = b""
    ids: int = 0

    def send(self, **fields: Any) -> int:
        self.ids += 1
        self.session.submit(json.dumps({"id": self.ids, **fields}).encode() + b"\n")
        return self.ids

    async def answer(self, *, limit_s: float = 60) -> dict[str, Any]:
        """The next answer, read in small pieces."""
        with trio.fail_after(limit_s):
            while b"\n" not in self.unread:
                self.unread += await self.session.read(100)
        line, _, self.unread = self.unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        assert answer["schema"] == 1
        assert ("result" in answer) != ("error" in answer)
        return answer

    async def call(self, **fields: Any) -> dict[str, Any]:
        """The result of a request that succeeds."""
        number = self.send(**fields)
        answer = await self.answer()
        assert answer["id"] == number
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def fail(self, **fields: Any) -> dict[str, Any]:
        """The error of a request that fails."""
        number = self.send(**fields)
        answer = await self.answer()
        assert answer["id"] == number
        error: dict[str, Any] = answer["error"]
        return error


@asynccontextmanager
async def control(target: Scripted) -> AsyncIterator[Client]:
    async with (
        scripted(target),
        hosting(target.network) as (host, _),
        open_control(host) as service,
    ):
        session = service.open_session()
        yield Client(service, host, session)
        session.close()


async def test_a_session_from_connect_to_disconnect(autojump_clock):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=None)})
    async with control(target) as client:
        connected = await client.call(**CONNECT)
        assert connected["device"] == "nvme0"
        assert [each["name"] for each in connected["namespaces"]] == ["nvme0ns1", "nvme0ns2"]
        (shown,) = (await client.call(command="devlist"))["controllers"]
        assert (shown["state"], shown["subnqn"]) == ("live", SUBNQN)
        assert shown["parameters"]["nr_io_queues"] == {"value": 2, "origin": "given"}
        nsid = await client.call(command="nsid", device="nvme0ns2")
        assert nsid == {"controller": "nvme0", "nsid": 2}
        assert (await client.call(command="nsid", device="nvme0"))["nsid"] == 0
        data = await client.call(command="identify", device="nvme0", cns=1)
        raw = base64.b64decode(data["data"])
        assert IdentifyController.unpack(raw).sn == "S1"
        data = await client.call(command="identify", device="nvme0ns2", cns=0)
        assert int.from_bytes(base64.b64decode(data["data"])[:8], "little") == 64
        data = await client.call(command="logpage", device="nvme0", lid=2, length_bytes=512)
        assert len(base64.b64decode(data["data"])) == 512
        await client.host.controllers["nvme0"].namespaces[1].write(0, b"x" * 4096)
        assert await client.call(command="flush", device="nvme0ns1") == {}
        assert await client.call(command="dsm", device="nvme0ns1", ranges=[[0, 8], [9, 1]]) == {}
        zeroes = {"command": "write-zeroes", "device": "nvme0ns1", "slba": 0, "length_lbas": 4}
        assert await client.call(**zeroes, fua=True, deallocate=True) == {}
        gone = await client.call(command="disconnect", device="nvme0ns1")
        assert gone == {"devices": ["nvme0"], "problems": {}}
        assert (await client.call(command="devlist"))["controllers"] == []


@pytest.mark.parametrize("device", ["nvme0", "nvme0ns1", SUBNQN, None])
async def test_disconnect_by_any_name(device, autojump_clock):
    async with control(Scripted()) as client:
        await client.call(**CONNECT)
        gone = await client.call(command="disconnect", device=device)
        assert gone["devices"] == ["nvme0"]
        assert client.host.controllers == {}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"", "request"),
        (b"\n", "request"),
        (b"hello", "request"),
        (b"\xff\xfe{}", "request"),
        (b"[1, 2]", "request"),
        (b"null", "request"),
        (b'{"command": "devlist"} trailing', "request"),
        (b'{"id": 1', "request"),
        (b"[" * 60_000, "request"),
        (b'{"a":' * 10_000, "request"),
        (b"1" * 5000, "request"),
        (b" " * 65_537, "request"),
        (b"{}", "command"),
        (b'{"command": 5}', "command"),
        (b'{"command": ["connect"]}', "command"),
        (b'{"command": "explode"}', "command"),
        (b'{"command": "devlist", "id": [1]}', "id"),
        (b'{"command": "devlist", "id": {"a": 1}}', "id"),
        (b'{"command": "devlist", "id": 1e999}', "id"),
    ],
)
async def test_what_is_no_request(line, field, autojump_clock):
    async with control(Scripted()) as client:
        client.session.submit(line)
        answer = await client.answer()
        assert answer["id"] is None
        assert (answer["error"]["kind"], answer["error"]["field"]) == ("usage", field)
        assert (await client.call(command="devlist"))["controllers"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"command": "connect", "subnqn": SUBNQN}, "address"),
        ({**CONNECT, "colour": "red"}, "colour"),
        ({**CONNECT, "address": 4420}, "address"),
        ({**CONNECT, "nr_io_queues": "4"}, "nr_io_queues"),
        ({**CONNECT, "nr_io_queues": 1.5}, "nr_io_queues"),
        ({**CONNECT, "nr_io_queues": True}, "nr_io_queues"),
        ({**CONNECT, "header_digests": 1}, "header_digests"),
        ({**CONNECT, "kato_s": "15"}, "kato_s"),
        ({**CONNECT, "kato_s": None}, "kato_s"),
        ({**CONNECT, "kato_s": float("nan")}, "kato_s"),
        ({**CONNECT, "reconnect_delay_s": float("inf")}, "reconnect_delay_s"),
        ({**CONNECT, "ctrl_loss_tmo_s": 5e6}, "ctrl_loss_tmo_s"),
        ({**CONNECT, "subnqn": "\ud800"}, "subnqn"),
        ({**CONNECT, "address": "\ud800:1"}, "address"),
        ({**CONNECT, "hostid": "nonsense"}, "hostid"),
        ({**CONNECT, "hostnqn": "n" * 300}, "hostnqn"),
        ({**CONNECT, "cntlid": 5}, "cntlid"),
        ({"command": "disconnect"}, "device"),
        ({"command": "devlist", "device": "nvme0"}, "device"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": 5}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": "ab"}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": [[1, 2, 3]]}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": [[1, "2"]]}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": [1, 2]}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": None}, "ranges"),
        ({"command": "dsm", "device": "nvme0ns1", "ranges": {"0": 1}}, "ranges"),
        ({"command": "identify", "device": "nvme0", "cns": 256}, "cns"),
        ({"command": "identify", "device": "nvme0", "cns": -1}, "cns"),
        ({"command": "identify", "device": "nvme0", "cns": 0, "nsid": 1 << 32}, "nsid"),
        ({"command": "identify", "device": "nvme0", "cns": 0, "nsid": -1}, "nsid"),
        ({"command": "logpage", "device": "nvme0", "lid": 256, "length_bytes": 512}, "lid"),
        ({"command": "logpage", "device": "nvme0", "lid": -1, "length_bytes": 512}, "lid"),
        ({"command": "logpage", "device": "nvme0", "lid": 2, "length_bytes": 0}, "length_bytes"),
        ({"command": "logpage", "device": "nvme0", "lid": 2, "length_bytes": 5}, "length_bytes"),
        (
            {"command": "logpage", "device": "nvme0", "lid": 2, "length_bytes": 1 << 40},
            "length_bytes",
        ),
        (
            {"command": "logpage", "device": "nvme0", "lid": 2, "length_bytes": 4, "lsp": 128},
            "lsp",
        ),
        (
            {"command": "logpage", "device": "nvme0", "lid": 2, "length_bytes": 4, "lsi": 1 << 16},
            "lsi",
        ),
        (
            {
                "command": "logpage",
                "device": "nvme0",
                "lid": 2,
                "length_bytes": 4,
                "offset_bytes": -4,
            },
            "offset_bytes",
        ),
    ],
)
async def test_a_bad_field_is_named(fields, field, autojump_clock):
    async with control(Scripted()) as client:
        if fields["command"] != "connect":
            await client.call(**CONNECT)
        error = await client.fail(**fields)
        assert (error["kind"], error["field"]) == ("usage", field), error


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "reconnect", "device": "nvme9"},
        {"command": "disconnect", "device": "nvme9"},
        {"command": "identify", "device": "nvme9", "cns": 1},
        {"command": "logpage", "device": "nvme9", "lid": 2, "length_bytes": 512},
        {"command": "nsid", "device": ""},
        {"command": "flush", "device": "nvme0"},
        {"command": "dsm", "device": "nvme0ns9", "ranges": [[0, 1]]},
        {"command": "write-zeroes", "device": "nvme0", "slba": 0, "length_lbas": 1},
    ],
)
async def test_a_device_that_is_not_there(fields, autojump_clock):
    async with control(Scripted()) as client:
        await client.call(**CONNECT)
        error = await client.fail(**fields)
        assert error["kind"] == "no-such-device"
        assert error["field"] == "device"


async def test_errors_have_their_kind_step_and_status(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with control(target) as client:
        target.faults["CONNECT 0"] = Fate.CLOSE
        error = await client.fail(**CONNECT)
        assert (error["kind"], error["step"]) == ("transport", "CONNECT of the admin queue")
        assert (error["field"], error["value"]) == ("address", "target:4420")
        target.faults["CONNECT 0"] = Answer(st.CONTROLLER_BUSY)
        error = await client.fail(**CONNECT)
        assert (error["kind"], error["status"]) == ("connect-rejected", "1/81")
        target.faults.clear()
        target.max_queues = 1
        error = await client.fail(**CONNECT)
        assert (error["kind"], error["field"]) == ("too-few-queues", "nr_io_queues")
        target.max_queues = 2
        error = await client.fail(**{**CONNECT, "transport": "smoke"})
        assert (error["kind"], error["field"]) == ("unavailable", "transport")
        await client.call(**CONNECT)
        assert (await client.fail(**CONNECT))["kind"] == "busy"
        assert (await client.fail(command="reconnect", device="nvme0"))["kind"] == "busy"
        zeroes = {"command": "write-zeroes", "device": "nvme0ns1", "slba": 63, "length_lbas": 2}
        assert (await client.fail(**zeroes))["kind"] == "usage"
        dsm = {"command": "dsm", "device": "nvme0ns1", "ranges": [[-1, 1]]}
        assert (await client.fail(**dsm))["kind"] == "usage"
        target.faults["IDENTIFY 06h"] = Answer(st.INVALID_FIELD.with_dnr())
        error = await client.fail(command="identify", device="nvme0", cns=6)
        assert (error["kind"], error["status"]) == ("command", "0/02")
        controller = client.host.controllers["nvme0"]
        target.faults["IDENTIFY 06h"] = Fate.CLOSE
        assert (await client.fail(command="identify", device="nvme0", cns=6))["kind"] == (
            "outcome-unknown"
        )
        await in_state(controller, ControllerState.LOST)
        assert (await client.fail(command="identify", device="nvme0", cns=1))["kind"] == (
            "not-connected"
        )
        target.faults.clear()
        assert (await client.call(command="reconnect", device="nvme0"))["device"] == "nvme0"


async def test_reconnect_with_parameters(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with control(target) as client:
        await client.call(**CONNECT)
        target.close_queue(0)
        await in_state(client.host.controllers["nvme0"], ControllerState.LOST)
        bad = await client.fail(command="reconnect", device="nvme0", kato_s=0.1)
        assert (bad["kind"], bad["field"]) == ("usage", "kato_s")
        await client.call(command="reconnect", device="nvme0", kato_s=30, nr_io_queues=1)
        (shown,) = (await client.call(command="devlist"))["controllers"]
        assert shown["parameters"]["kato_s"] == {"value": 30, "origin": "given"}
        assert len(shown["queues"]) == 2


async def test_a_long_request_delays_no_other(autojump_clock):
    target = Scripted(faults={"CONNECT 0": Fate.SILENT})
    async with control(target) as client:
        slow = client.send(**CONNECT)
        await client.call(command="devlist")
        answer = await client.answer()
        assert answer["id"] == slow
        assert answer["error"]["step"] == "CONNECT of the admin queue"
        assert trio.current_time() == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("command", ["CONNECT 0", "CONNECT 2", "IDENTIFY 02h"])
async def test_a_closed_session_takes_its_connect_with_it(command, autojump_clock):
    target = Scripted(delays={command: 5})
    async with control(target) as client:
        client.send(**CONNECT)
        await until(lambda: command in target.names())
        client.session.close()
        await until(lambda: not client.host.controllers, limit_s=10)
        await trio.sleep(100)
        assert client.host.controllers == {}
        assert target.names().count("CONNECT 0") == 1


async def test_a_session_closed_before_its_request_began(autojump_clock):
    target = Scripted()
    async with control(target) as client:
        client.send(**CONNECT)
        client.session.close()
        await trio.sleep(10)
        assert target.seen == []


async def test_too_many_pending_requests(autojump_clock):
    target = Scripted(faults={"IDENTIFY 06h": Fate.SILENT})
    async with control(target) as client:
        await client.call(**CONNECT)
        # All in one go, before any of them has begun.
        for _ in range(messages.MAX_PENDING + 10):
            client.send(command="identify", device="nvme0", cns=6)
        for _ in range(10):
            answer = await client.answer()
            assert answer["error"]["kind"] == "busy"
        other = client.service.open_session()
        other.submit(b'{"id": "x", "command": "devlist"}')
        assert b'"live"' in await other.read(1 << 20)
        client.session.close()


async def test_a_session_that_reads_nothing_is_bounded(autojump_clock, announce):
    announce("unread")
    async with control(Scripted()) as client:
        await client.call(**CONNECT)
        for _ in range(6):
            client.send(command="logpage", device="nvme0", lid=2, length_bytes=16 << 20)
            await trio.sleep(1)
        data = b""
        while piece := await client.session.read(1 << 30):
            data += piece
        assert len(data) < 64 << 20
        assert data.endswith(b"\n")
        await client.call(command="devlist")


async def test_a_read_waits_a_tenth_of_a_second_and_loses_nothing(autojump_clock):
    async with control(Scripted()) as client:
        started = trio.current_time()
        assert await client.session.read(100) == b""
        assert trio.current_time() - started == pytest.approx(0.1)
        client.send(command="devlist")
        pieces = []
        while piece := await client.session.read(1):
            assert len(piece) == 1
            pieces.append(piece)
        assert json.loads(b"".join(pieces))["id"] == 1
        assert await client.session.read(0) == b""


async def test_a_bug_in_a_request_is_its_answer(autojump_clock, announce):
    announce("request devlist failed")
    async with control(Scripted()) as client:

        async def bug(_request: messages.Request) -> None:
            raise ZeroDivisionError

        client.service.handle = bug  # type: ignore[assignment, method-assign]
        assert (await client.fail(command="devlist"))["kind"] == "internal"


async def test_the_problems_of_a_disconnect_are_told(autojump_clock):
    target = Scripted(shutdown_after_s=None, cap_to=4)
    async with control(target) as client:
        await client.call(**CONNECT)
        gone = await client.call(command="disconnect", device=None)
        assert list(gone["problems"]) == ["nvme0"]


json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=10),
    lambda inner: (
        some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
field_names = some.sampled_from(
    sorted({field.name for kind in messages.REQUESTS.values() for field in attrs.fields(kind)})
)


@given(
    some.sampled_from(sorted(messages.REQUESTS)),
    some.dictionaries(field_names | some.text(max_size=5), json_values, max_size=6),
)
def test_any_fields_make_a_request_or_an_error_that_names_one(command, fields):
    fields = {**fields, "command": command}
    try:
        request = structure_request(fields)
    except ConfigError as error:
        assert error.field is not None
    else:
        assert command == request.COMMAND
