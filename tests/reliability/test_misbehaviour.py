"""Our host against a target that misbehaves as docs/faults.md says: what becomes of I/O.

Over TCP, with both digests, in one process; the clock runs five times as fast.
"""

import os
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from nvmf_controller import (
    ControllerConfig,
    Namespace,
    NvmSubsystem,
    RamDisk,
    parse_fault_plan,
    serve,
)
from nvmf_host.host import open_host
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_tcp import TcpTransport
from nvmf_transport import interfaces
from nvmf_transport.address import Address
from nvmf_transport.errors import CommandError, NamespaceGoneError
from tests.host.hosting import IDENTITY, params, until

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(30)]

_PIECE_BYTES = 128 << 10
_PIECES = 3


@attrs.frozen
class Case:
    """A rule of a plan, and how many associations it takes to get over it."""

    rule: str
    associations: int = 2
    #: Parameters of the connection.
    fields: dict[str, float | None] = attrs.field(factory=dict)


#: What is said of every one: nobody sees an error, and all data is right.
SURVIVED = {
    "delayed answer": Case(
        'opcode = "read"\nnth = 2\naction = { do = "delay", seconds = 5, when = "after" }', 1
    ),
    "delayed execution": Case(
        'opcode = "write"\nnth = 2\naction = { do = "delay", seconds = 5, when = "before" }', 1
    ),
    "read never answered": Case(
        'opcode = "read"\nnth = 1\naction = { do = "drop" }', fields={"command_age_s": 3}
    ),
    "write executed and never answered": Case(
        'opcode = "write"\nnth = 1\naction = { do = "drop", when = "after" }',
        fields={"command_age_s": 3},
    ),
    "keep alive never answered": Case(
        'opcode = "keep_alive"\nnth = 1\naction = { do = "drop" }', fields={"kato_s": 4}
    ),
    "transient transport error": Case(
        'opcode = "write"\nnth = 1\ncount = 2\naction = { do = "status", sct = 0, sc = 0x22 }', 1
    ),
    "internal error without DNR": Case(
        'opcode = "read"\nnth = 1\ncount = 2\naction = { do = "status", sct = 0, sc = 6 }', 1
    ),
    "namespace not ready": Case(
        'opcode = "read"\nnth = 1\naction = { do = "status", sct = 0, sc = 0x82 }', 1
    ),
    "fewer queues": Case(
        'opcode = "set_features"\naction = { do = "grant_queues", queues = 1 }',
        1,
        {"nr_io_queues": None},
    ),
    "one queue closed before a write": Case(
        'opcode = "write"\nnth = 2\naction = { do = "close", when = "before" }'
    ),
    "one queue closed after a read was answered": Case(
        'opcode = "read"\nnth = 2\naction = { do = "close", when = "answered" }'
    ),
    "one queue reset after a write": Case(
        'opcode = "write"\nnth = 2\naction = { do = "reset", when = "after" }'
    ),
    "all reset after a write": Case(
        'opcode = "write"\nnth = 2\n'
        'action = { do = "reset", scope = "association", when = "after" }'
    ),
    "all reset before a read": Case(
        'opcode = "read"\nnth = 1\n'
        'action = { do = "reset", scope = "association", when = "before" }'
    ),
    "closed inside C2HData": Case(
        'opcode = "read"\nnth = 1\naction = { do = "truncate", pdu = "C2HData", bytes = 100 }'
    ),
    "closed inside a response": Case(
        'opcode = "write"\nnth = 1\naction = { do = "truncate", pdu = "CapsuleResp", bytes = 10 }'
    ),
    "closed inside R2T": Case(
        'opcode = "write"\nnth = 1\naction = { do = "truncate", pdu = "R2T", bytes = 10 }'
    ),
    "bad data digest": Case(
        'opcode = "read"\nnth = 1\naction = { do = "flip", part = "data_digest" }', 1
    ),
    "flipped bit of the data": Case(
        'opcode = "read"\nnth = 1\naction = { do = "flip", part = "payload" }', 1
    ),
    "bad header digest": Case(
        'opcode = "read"\nnth = 1\naction = { do = "flip", part = "header_digest" }'
    ),
    "wrong CID": Case('opcode = "write"\nnth = 1\naction = { do = "wrong_cid", add = 1000 }'),
    "short data": Case('opcode = "read"\nnth = 1\naction = { do = "short_data", bytes = 512 }'),
    "overlapping data": Case(
        'opcode = "read"\nnth = 1\naction = { do = "overlapping_data", bytes = 512 }'
    ),
    "R2T out of range": Case(
        'opcode = "write"\nnth = 1\naction = { do = "bad_offset", pdu = "R2T", add = 1048576 }'
    ),
    "bad PLEN": Case('opcode = "read"\nnth = 1\naction = { do = "bad_plen", add = 1048576 }'),
}


@asynccontextmanager
async def connected(plan, **fields):
    """A controller of ours and this plan's target; gives it, its namespace and the host."""
    transport = TcpTransport()
    # A piece goes in its capsule, or is asked for by R2T, as the rule needs it.
    config = ControllerConfig(in_capsule_bytes=0 if "R2T" in plan else 1 << 20)
    subsystem = NvmSubsystem("nqn.2024-01.org.example:misbehaving", config=config)
    subsystem.add_namespace(Namespace(1, RamDisk(1 << 20)))
    interfaces.register(transport)
    async with (
        serve(
            transport, subsystem, [Address("127.0.0.1", 0)], faults=parse_fault_plan(plan)
        ) as server,
        open_host(identity=IDENTITY) as host,
    ):
        fields.setdefault("kato_s", 15)
        asked = params(
            transport="tcp",
            address=Address.parse(str(server.endpoints[0])),
            subnqn=subsystem.nqn,
            reconnect_delay_s=1,
            header_digests=True,
            data_digests=True,
            **fields,
        )
        controller = await host.connect(asked)
        yield controller, controller.namespaces[1], host


@pytest.mark.parametrize("name", SURVIVED)
async def test_nobody_sees_an_error_and_all_data_is_right(name, mock_clock):
    mock_clock.rate = 5
    case = SURVIVED[name]
    data = [os.urandom(_PIECE_BYTES) for _ in range(_PIECES)]
    async with connected(f"[[rule]]\n{case.rule}", **case.fields) as (controller, namespace, _):
        for number, piece in enumerate(data):
            assert await namespace.write(number * _PIECE_BYTES, piece) == _PIECE_BYTES
        await namespace.flush()
        for number, piece in enumerate(data):
            assert await namespace.read(number * _PIECE_BYTES, _PIECE_BYTES) == piece
        await until(
            lambda: (
                controller.associations == case.associations
                and controller.state is ControllerState.LIVE
            )
        )


async def test_a_status_that_is_final_is_the_callers_and_nothing_else(mock_clock):
    mock_clock.rate = 5
    rule = 'opcode = "write"\nnth = 1\naction = { do = "status", sct = 2, sc = 0x80, dnr = true }'
    async with connected(f"[[rule]]\n{rule}") as (controller, namespace, _):
        with pytest.raises(CommandError):
            await namespace.write(0, bytes(4096))
        assert await namespace.write(0, b"x" * 4096) == 4096
        assert await namespace.read(0, 4096) == b"x" * 4096
        assert controller.associations == 1


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ('{ do = "new_identity", nsid = 1 }', "UUID"),
        ('{ do = "resize", nsid = 1, blocks = 16 }', "16"),
        ('{ do = "remap", nsid = 1, to = 2 }', "not active"),
    ],
)
async def test_what_is_not_the_same_any_more_is_paused_and_says_why(action, said, mock_clock):
    mock_clock.rate = 5
    # The fourth connection is the first of the second association.
    plan = (
        '[[rule]]\nopcode = "write"\nnth = 1\n'
        'action = { do = "reset", scope = "association", when = "after" }\n'
        f'[[rule]]\non = "accept"\nnth = 4\naction = {action}'
    )
    gone: list[NamespaceGoneError] = []
    async with connected(plan) as (controller, namespace, host):

        async def write() -> None:
            try:
                await namespace.write(0, bytes(4096))
            except NamespaceGoneError as error:
                gone.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: namespace.state is NamespaceState.PAUSED)
            assert said in namespace.last_error
            assert not gone
            # It waits until somebody decides: here, for the end of it.
            await host.disconnect(controller)
    assert len(gone) == 1
