"""Statuses, errors and the registry."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmf_transport import errors, interfaces, status
from nvmf_transport.loop import LoopTransport
from nvmf_transport.status import NAMES, Status


@given(st.integers(0, 0x7FFF))
def test_status_fields_come_back(field):
    assert Status.from_field(field).to_field() == field


def test_status_bits_stand_where_the_specification_has_them():
    assert Status(sct=7).to_field() == 0x0700
    assert Status(sc=0xFF).to_field() == 0x00FF
    assert Status(crd=3).to_field() == 0x1800
    assert Status(more=True).to_field() == 0x2000
    assert Status(dnr=True).to_field() == 0x4000


def test_a_status_says_what_it_is():
    assert str(status.INVALID_FIELD.with_dnr()) == "Invalid Field in Command (0/02h, DNR)"
    assert str(Status(sct=7, sc=0xC0)) == "status C0h (7/C0h)"
    assert status.SUCCESS.ok
    assert not status.WRITE_FAULT.ok


def test_every_status_that_has_a_constant_has_a_name():
    constants = [value for value in vars(status).values() if isinstance(value, Status)]

    assert len(constants) > 40
    assert [each for each in constants if each.code not in NAMES] == []


def test_status_codes_have_one_byte_and_three_bits():
    assert all(0 <= sct <= 7 and 0 <= sc <= 0xFF for sct, sc in NAMES)


#: What crosses the control node; changing one breaks callers.
KINDS = {
    "NvmfError": "internal",
    "LocalProtocolError": "internal",
    "ConfigError": "usage",
    "UnavailableError": "unavailable",
    "NoSuchDeviceError": "no-such-device",
    "BusyError": "busy",
    "TooFewQueuesError": "too-few-queues",
    "TransportError": "transport",
    "UnreachableError": "unreachable",
    "ConnectionLostError": "transport",
    "HandshakeError": "transport",
    "RemoteProtocolError": "transport",
    "ConnectionTerminatedError": "transport",
    "MalformedStructureError": "transport",
    "DataDigestError": "transport",
    "CommandError": "command",
    "ConnectRejectedError": "connect-rejected",
    "NotConnectedError": "not-connected",
    "OutcomeUnknownError": "outcome-unknown",
    "NamespaceGoneError": "gone",
    "ShutdownError": "shutdown",
}


def test_kinds_of_errors_do_not_change():
    found = {
        name: error.kind
        for name, error in vars(errors).items()
        if inspect.isclass(error) and issubclass(error, errors.NvmfError)
    }

    assert found == KINDS


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("bad", field="port", value=7),
        errors.UnavailableError("bad", field="port", value=7),
        errors.NoSuchDeviceError("bad", field="port", value=7),
        errors.BusyError("bad", field="port", value=7),
    ],
)
def test_errors_of_the_caller_name_field_and_value(error):
    assert (str(error), error.field, error.value) == ("bad", "port", "7")


def test_errors_of_the_peer_carry_what_answers_them():
    error = errors.RemoteProtocolError("bad PLEN", fes=1, fei=4)

    assert (error.fes, error.fei, error.step) == (1, 4, None)
    assert errors.MalformedStructureError("SQE", 3, 64).fes is None


def test_command_errors_say_which_command():
    error = errors.CommandError(status.ABORT_REQUESTED, "Identify")
    rejected = errors.ConnectRejectedError(
        status.CONNECT_INVALID_PARAMETERS, iattr=1, ipo=256, detail="SUBNQN is unknown"
    )

    assert str(error) == "Identify: Command Abort Requested (0/07h)"
    assert "SUBNQN is unknown" in str(rejected)
    assert (rejected.iattr, rejected.ipo) == (1, 256)


def test_transports_are_found_by_name(monkeypatch):
    monkeypatch.setattr(interfaces, "_registry", {})
    with pytest.raises(errors.UnavailableError, match="available: none"):
        interfaces.lookup("loop")
    transport = LoopTransport()
    interfaces.register(transport)

    assert interfaces.lookup("LOOP") is transport
    with pytest.raises(errors.UnavailableError, match="available: loop") as caught:
        interfaces.lookup("rdma")
    assert (caught.value.field, caught.value.value) == ("transport", "rdma")
