"""Each step of the way to an association, failing in each way: the error, its step, its time."""

import pytest
import trio

from nvmf_host.association import open_association
from nvmf_host.handshake import Handshake
from nvmf_transport import status as st
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    CommandError,
    ConfigError,
    ConnectionLostError,
    ConnectRejectedError,
    HandshakeError,
    NvmfError,
    RemoteProtocolError,
    TooFewQueuesError,
    TransportError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.fabrics import ConnectCommand, ConnectData
from nvmf_transport.loop import ConnectFault
from nvmf_transport.nvme import Cap, FeatureId

from .hosting import params
from .scripted import ADDRESS, Answer, Fate, Scripted, scripted

ADMIN, ENABLE = "CONNECT of the admin queue", "enabling the controller"
IO = "connecting the I/O queues"
#: Every command up to armed events, and the step that it belongs to.
STEPS = {
    "CONNECT 0": ADMIN,
    "Property Get CAP": ENABLE,
    "CC.EN=1": ENABLE,
    "Property Get CSTS": ENABLE,
    "Property Get VS": "Property Get VS",
    "IDENTIFY 01h": "Identify Controller",
    "Get Features 0Fh": "Keep Alive Timer",
    "Set Features 07h": "Number of Queues",
    "CONNECT 1": IO,
    "CONNECT 2": IO,
    "Set Features 0Bh": "Asynchronous Event Configuration",
}
#: Steps that a controller may refuse: it is lived with.
OPTIONAL = {"Get Features 0Fh", "Set Features 0Bh"}


async def attempt(target: Scripted, **fields) -> tuple[NvmfError | None, float]:
    """One attempt against a target; its error and how long it took.

    Nothing may be left of it on this side.
    """
    started = trio.current_time()
    error = None
    namespaces: list[object] = []
    try:
        async with open_association(
            target.network,
            params(**fields),
            on_failed=lambda _error: None,
            on_namespaces=namespaces.append,
        ) as association:
            await association.stop(orderly=True)
    except NvmfError as failure:
        error = failure
    assert not [each for each in target.network.connections if each.host.error is None]
    return error, trio.current_time() - started


async def test_a_good_controller_is_connected_in_the_order_of_the_specification(autojump_clock):
    async with scripted(Scripted()) as target:
        error, took_s = await attempt(target)
    assert error is None
    assert took_s == 0
    admin = [what for what in target.names(0) if what != "closed"]
    assert admin == [
        "CONNECT 0",
        "Property Get CAP",
        "CC.EN=1",
        "Property Get CSTS",
        "Property Get VS",
        "IDENTIFY 01h",
        "Get Features 0Fh",
        "Set Features 07h",
        "AER",
        "AER",
        "AER",
        "AER",
        "Set Features 0Bh",
        "Property Get CC",
        "CC.SHN",
        "Property Get CSTS",
    ]
    fields, data = target.connects[0]
    assert (fields.sqsize, fields.kato, fields.disable_sqflow) == (31, 15000, 1)
    assert (data.cntlid, data.hostid) == (0xFFFF, params().identity.hostid.bytes)
    for fields, data in target.connects[1:]:
        assert (fields.sqsize, fields.kato, data.cntlid) == (127, 0, target.cntlid)


@pytest.mark.parametrize("command", STEPS)
async def test_a_silent_step_ends_at_the_deadline(command, autojump_clock):
    async with scripted(Scripted(faults={command: Fate.SILENT})) as target:
        # Keep Alive would find a peer that says nothing at all; here it is the deadline's work.
        error, took_s = await attempt(target, kato_s=60)
    assert type(error) is HandshakeError
    assert error.step == STEPS[command]
    assert STEPS[command] in str(error)
    # Only while the controller is being enabled it has CAP.TO (2 s) on top.
    extra_s = 2 if command in ("CC.EN=1", "Property Get CSTS") else 0
    assert took_s == pytest.approx(10 + extra_s)


@pytest.mark.parametrize("command", STEPS)
async def test_a_peer_that_closes_in_a_step_ends_the_attempt_at_once(command, autojump_clock):
    async with scripted(Scripted(faults={command: Fate.CLOSE})) as target:
        error, took_s = await attempt(target)
    assert type(error) is ConnectionLostError
    assert error.step == STEPS[command]
    assert took_s == 0


@pytest.mark.parametrize("command", STEPS)
async def test_a_refused_step_is_an_error_with_the_status(command, autojump_clock):
    refusal = Answer(st.INTERNAL_ERROR.with_dnr())
    async with scripted(Scripted(faults={command: refusal})) as target:
        error, took_s = await attempt(target)
    assert took_s == 0
    if command in OPTIONAL:
        assert error is None
        return
    assert isinstance(error, CommandError)
    assert error.status == st.INTERNAL_ERROR.with_dnr()
    assert isinstance(error, ConnectRejectedError) == command.startswith("CONNECT")


@pytest.mark.parametrize("orderly", ["Set Features 07h", "CONNECT 1"])
async def test_a_half_made_association_is_shut_down(orderly, autojump_clock):
    async with scripted(Scripted(faults={orderly: Answer(st.INTERNAL_ERROR)})) as target:
        await attempt(target)
    assert target.names(0)[-3:] == ["CC.SHN", "Property Get CSTS", "closed"]


async def test_an_admin_queue_that_was_refused_is_told_nothing_more(autojump_clock):
    async with scripted(Scripted(faults={"CONNECT 0": Answer(st.CONTROLLER_BUSY)})) as target:
        await attempt(target)
    assert target.names(0) == ["CONNECT 0", "closed"]


async def test_a_look_up_that_hangs_ends_at_the_deadline(autojump_clock):
    target = Scripted()
    target.network.lookup_hangs = True
    error, took_s = await attempt(target)
    assert isinstance(error, TransportError)
    assert error.step == "looking the address up"
    assert took_s == 10


async def test_a_look_up_that_fails_is_unreachable(autojump_clock):
    target = Scripted()
    target.network.lookup_error = "target: no such host"
    error, _ = await attempt(target)
    assert isinstance(error, UnreachableError)
    assert error.step == "looking the address up"


async def test_a_name_without_an_address_is_unreachable(autojump_clock):
    target = Scripted()
    target.network.endpoints = ()
    error, _ = await attempt(target)
    assert type(error) is UnreachableError


@pytest.mark.parametrize(
    ("fault", "kind", "took_s"),
    [
        (ConnectFault.REFUSE, UnreachableError, 0),
        (ConnectFault.HANG, UnreachableError, 10),
        (ConnectFault.SILENT, HandshakeError, 10),
    ],
)
async def test_a_connection_that_is_not_made(fault, kind, took_s, autojump_clock):
    async with scripted(Scripted()) as target:
        target.network.connect_fault = fault
        error, took = await attempt(target)
    assert isinstance(error, TransportError)
    assert type(error) is kind
    assert error.step in ("connecting", "initialisation")
    assert took == took_s


@pytest.mark.parametrize(
    ("fault", "took_s"),
    [(ConnectFault.REFUSE, 0), (ConnectFault.HANG, 10), (ConnectFault.SILENT, 10)],
)
async def test_an_io_queue_that_is_not_connected(fault, took_s, autojump_clock):
    async with scripted(Scripted()) as target:

        def strike() -> None:
            target.network.connect_fault = fault

        target.faults["Set Features 07h"] = strike
        error, took = await attempt(target)
    assert isinstance(error, TransportError)
    assert error.step in (IO, "initialisation")
    assert took == took_s


async def test_every_address_of_a_name_has_its_share_of_the_time(autojump_clock):
    async with scripted(Scripted(), Address("second", 4420)) as target:
        target.network.endpoints = (ADDRESS, Address("second", 4420))
        error, took_s = await attempt(target)
        assert error is None
        assert took_s == 0
        # All queues go to the one that answered.
        assert {fields.qid for fields, _ in target.connects} == {0, 1, 2}
        assert len(target.network.lookups) == 1


async def test_queues_that_fail_in_different_ways_at_once_are_one_error(autojump_clock):
    """The target dies while several queues are in different steps."""
    async with scripted(Scripted()) as target:

        def die() -> Fate:
            target.network.connect_fault = ConnectFault.REFUSE
            for connection in target.network.connections:
                connection.cut()
            return Fate.CLOSE

        target.faults["CONNECT 1"] = die
        error, took_s = await attempt(target, nr_io_queues=4)
    assert isinstance(error, TransportError)
    assert took_s == 0


async def test_a_queue_lost_while_another_is_silent_ends_the_attempt_at_once(autojump_clock):
    async with scripted(Scripted(faults={"CONNECT 2": Fate.SILENT})) as target:

        async def lose() -> None:
            await trio.sleep(1)
            target.close_queue(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            error, took_s = await attempt(target)
    assert type(error) is ConnectionLostError
    assert took_s == 1


async def test_a_controller_that_is_slow_to_be_ready_has_cap_to(autojump_clock):
    async with scripted(Scripted(cap_to=60, ready_after_s=29)) as target:
        error, took_s = await attempt(target)
    assert error is None
    assert 29 <= took_s < 29.3


async def test_time_spent_getting_ready_is_not_the_peers_later(autojump_clock):
    faults = {"IDENTIFY 01h": Fate.SILENT}
    async with scripted(Scripted(cap_to=60, ready_after_s=5, faults=faults)) as target:
        error, took_s = await attempt(target)
    assert error is not None
    assert 15 <= took_s < 15.3


async def test_a_controller_that_is_never_ready(autojump_clock):
    async with scripted(Scripted(cap_to=60, ready_after_s=None)) as target:
        error, took_s = await attempt(target)
    assert type(error) is HandshakeError
    assert error.step == ENABLE
    assert "CSTS.RDY=1" in str(error)
    assert 30 <= took_s < 30.3


async def test_a_fatal_status_is_not_waited_for(autojump_clock):
    async with scripted(Scripted(ready_after_s=None, cfs=True)) as target:
        error, took_s = await attempt(target)
    assert "CFS" in str(error)
    assert took_s == 0


async def test_a_controller_without_the_nvm_command_set(autojump_clock):
    cap = Answer(result=Cap.of(to=4, mqes=127).value)
    async with scripted(Scripted(faults={"Property Get CAP": cap})) as target:
        error, _ = await attempt(target)
    assert type(error) is UnavailableError
    assert "command set" in str(error)


async def test_authentication_is_said_to_be_demanded(autojump_clock):
    async with scripted(Scripted(faults={"CONNECT 0": Answer(result=7 | 1 << 17)})) as target:
        error, _ = await attempt(target)
    assert type(error) is ConnectRejectedError
    assert "authentication" in str(error)


@pytest.mark.parametrize("cntlid", [0xFFF0, 0xFFFF])
async def test_a_cntlid_that_is_none(cntlid, autojump_clock):
    async with scripted(Scripted(faults={"CONNECT 0": Answer(result=cntlid)})) as target:
        error, _ = await attempt(target)
    assert type(error) is RemoteProtocolError
    assert f"{cntlid:#x}" in str(error)


async def test_an_io_queue_of_another_controller(autojump_clock):
    async with scripted(Scripted(faults={"CONNECT 1": Answer(result=9)})) as target:
        error, _ = await attempt(target)
    assert type(error) is RemoteProtocolError
    assert "CNTLID 9, not 7" in str(error)


async def test_a_wrong_subnqn_is_named(autojump_clock):
    where = 1 << 16 | ConnectData.offset_of("subnqn")
    refusal = Answer(st.CONNECT_INVALID_PARAMETERS.with_dnr(), where)
    async with scripted(Scripted(faults={"CONNECT 0": refusal})) as target:
        error, _ = await attempt(target)
    assert type(error) is ConnectRejectedError
    assert (error.iattr, error.ipo) == (1, 256)
    assert (error.field, error.value) == ("subnqn", params().subnqn)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (1 << 16 | ConnectData.offset_of("hostnqn"), "hostnqn"),
        (1 << 16 | ConnectData.offset_of("hostid"), "hostid"),
        (1 << 16 | ConnectData.offset_of("cntlid"), "cntlid"),
        (ConnectCommand.offset_of("sqsize"), "queue_size"),
        (0xFFFF, None),
    ],
)
async def test_an_invalid_parameter_is_named(where, named, autojump_clock):
    refusal = Answer(st.CONNECT_INVALID_PARAMETERS.with_dnr(), where)
    async with scripted(Scripted(faults={"CONNECT 0": refusal})) as target:
        error, _ = await attempt(target)
    assert type(error) is ConnectRejectedError
    assert error.field == named


async def test_a_queue_size_beyond_mqes_is_refused(autojump_clock):
    async with scripted(Scripted(mqes=63)) as target:
        error, _ = await attempt(target, queue_size=65)
        assert type(error) is ConfigError
        assert (error.field, error.value) == ("queue_size", "65")
        assert "64" in str(error)
        target.connects.clear()
        error, _ = await attempt(target, queue_size=64)
    assert error is None
    assert {fields.sqsize for fields, _ in target.connects[1:]} == {63}


async def test_fewer_queues_than_asked_for(autojump_clock):
    async with scripted(Scripted(max_queues=1)) as target:
        error, _ = await attempt(target, nr_io_queues=2)
        assert type(error) is TooFewQueuesError
        error, _ = await attempt(target, nr_io_queues=None)
    assert error is None


async def test_flow_control_that_is_demanded_and_disabled(autojump_clock):
    disabled = Answer(result=7, sqhd=0xFFFF)
    async with scripted(Scripted(faults={"CONNECT 0": disabled})) as target:
        error, _ = await attempt(target, flow_control=True)
        assert type(error) is HandshakeError
        assert "-F" in str(error)
        assert error.step == ADMIN
        target.faults.clear()
        error, _ = await attempt(target, flow_control=True)
    assert error is None


async def test_kato_is_never_shorter_than_asked_for(autojump_clock):
    for granted_ms, kato_s in ((20_000, 20), (1_000, 15), (0, 15)):
        target = Scripted(kato_ms=granted_ms)
        async with (
            scripted(target),
            open_association(
                target.network,
                params(),
                on_failed=lambda _error: None,
                on_namespaces=lambda _nsids: None,
            ) as association,
        ):
            assert association.kato_s == kato_s


async def test_an_attempt_that_is_cancelled_leaves_nothing(autojump_clock):
    for command in STEPS:
        async with scripted(Scripted(faults={command: Fate.SILENT})) as target:
            with trio.move_on_after(1) as scope:
                await attempt(target)
            assert scope.cancelled_caught
            assert not [each for each in target.network.connections if each.host.error is None]


async def test_a_step_ends_at_the_deadline_of_the_whole(autojump_clock):
    handshake = Handshake(3)
    with handshake.step("first"):
        await trio.sleep(2)
    with pytest.raises(HandshakeError, match="second") as caught, handshake.step("second"):
        await trio.sleep(2)
    assert caught.value.step == "second"
    assert trio.current_time() == pytest.approx(3)


def test_features_are_named_as_the_script_names_them():
    assert f"Set Features {FeatureId.NUMBER_OF_QUEUES:02X}h" in STEPS
