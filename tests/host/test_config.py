"""What a connection is made with: checked once, and every error names its field."""

import attrs
import pytest

from nvmf_host.config import MAX_IO_QUEUES, ConnectParams, default_io_queues
from nvmf_host.messages import ConnectRequest, ReconnectRequest
from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError

from .hosting import IDENTITY

SUBNQN = "nqn.2020-01.com.example:disk"


def request(**fields) -> ConnectRequest:
    return ConnectRequest(**{"address": "host:4420", "subnqn": SUBNQN} | fields)


def made(**fields) -> ConnectParams:
    return ConnectParams.from_request(request(**fields), IDENTITY)


def test_defaults():
    params = made()
    assert params.address == Address("host", 4420)
    assert params.wanted_io_queues == default_io_queues()
    assert 1 <= default_io_queues() <= 4
    assert (params.kato_s, params.reconnect_delay_s, params.cntlid) == (15, 10, 0xFFFF)
    assert {shown.origin for shown in params.parameters().values()} == {"default"}


def test_what_was_given_is_shown_as_given():
    shown = made(kato_s=20.0, nr_io_queues=3, header_digests=True).parameters()
    given = {name for name, parameter in shown.items() if parameter.origin == "given"}
    assert given == {"kato_s", "nr_io_queues", "header_digests"}
    assert shown["nr_io_queues"].value == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "host"),
        ("address", "host:0"),
        ("address", ""),
        ("subnqn", ""),
        ("subnqn", "n" * 224),
        ("subnqn", "a\nb"),
        ("cntlid", "0xfff0"),
        ("cntlid", "-1"),
        ("cntlid", "any"),
        ("nr_io_queues", 0),
        ("nr_io_queues", MAX_IO_QUEUES + 1),
        ("queue_size", 1),
        ("queue_size", 65537),
        ("queue_size", -1),
        ("kato_s", 0.5),
        ("kato_s", -1.0),
        ("kato_s", float("nan")),
        ("kato_s", float("inf")),
        ("reconnect_delay_s", -1.0),
        ("reconnect_delay_s", 86_401.0),
        ("reconnect_delay_s", float("nan")),
        ("ctrl_loss_tmo_s", 5e6),
        ("fast_io_fail_s", -1.0),
        ("replay_limit_s", -1.0),
        ("ctrl_loss_tmo_s", float("nan")),
        ("ctrl_loss_tmo_s", float("inf")),
    ],
)
def test_a_bad_value_is_named(field, value):
    with pytest.raises(ConfigError) as caught:
        made(**{field: value})
    assert caught.value.field == field
    assert caught.value.value is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cntlid", "static"),
        ("cntlid", "17"),
        ("cntlid", "0xffef"),
        ("nr_io_queues", 1),
        ("queue_size", 2),
        ("queue_size", 65536),
        ("kato_s", 0.0),
        ("kato_s", 1.0),
        ("reconnect_delay_s", 0.0),
        ("ctrl_loss_tmo_s", 0.0),
        ("ctrl_loss_tmo_s", -1.0),
        ("address", "[fe80::1%eth0]:4420"),
    ],
)
def test_a_good_value_is_taken(field, value):
    made(**{field: value})


def test_the_transports_name_has_no_case():
    assert made(transport="TCP").key == made(transport="tcp").key


def test_the_same_connection_is_host_subsystem_and_address():
    key = made().key
    assert made(host_traddr="10.0.0.1", host_iface="eth0", kato_s=20.0, read_only=True).key == key
    other = attrs.evolve(IDENTITY, nqn="nqn.2020-01.com.example:another-host")
    for different in (
        made(address="host:4421"),
        made(subnqn=SUBNQN + "2"),
        ConnectParams.from_request(request(), other),
    ):
        assert different.key != key


def test_reconnecting_changes_what_is_given_and_keeps_the_rest():
    params = made(kato_s=20.0, nr_io_queues=3, read_only=True)
    again = params.changed(
        ReconnectRequest(device="nvme0", address="other:1", queue_size=16, reconnect_delay_s=0.0)
    )
    assert (again.address, again.queue_size) == (Address("other", 1), 16)
    assert (again.kato_s, again.nr_io_queues, again.read_only) == (20.0, 3, True)
    assert again.reconnect_delay_s == 0
    origins = {name: shown.origin for name, shown in again.parameters().items()}
    assert (origins["queue_size"], origins["kato_s"], origins["flow_control"]) == (
        "given",
        "given",
        "default",
    )
    assert params.changed(ReconnectRequest(device="nvme0")) == params


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "host"),
        ("kato_s", 0.1),
        ("nr_io_queues", 0),
        ("queue_size", 1),
        ("ctrl_loss_tmo_s", 5e6),
    ],
)
def test_a_bad_value_of_reconnect_is_named(field, value):
    with pytest.raises(ConfigError) as caught:
        made().changed(ReconnectRequest(device="nvme0", **{field: value}))
    assert caught.value.field == field
