"""Who paces: nobody over the loopback, the system's choice everywhere else."""

import socket

import pytest

from nvmf_tcp.pacing import avoid_pacing, congestion_control, is_loopback, pace_as_usual

from .loopback import qpairs


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_stays_inside_the_machine(host, inside):
    assert is_loopback(host) is inside


def test_pacing_is_taken_away_and_given_back():
    with socket.socket() as sock:
        usual = congestion_control(sock)
        avoid_pacing(sock)
        assert congestion_control(sock) == b"reno"
        pace_as_usual(sock)
        assert congestion_control(sock) == usual


async def test_neither_end_of_a_loopback_connection_paces():
    async with qpairs() as ends:
        assert [congestion_control(end.driver._sock) for end in ends] == [b"reno", b"reno"]


async def test_a_host_on_another_machine_gets_the_systems_choice(monkeypatch):
    monkeypatch.setattr("nvmf_tcp.transport.is_loopback", lambda _: False)
    with socket.socket() as sock:
        usual = congestion_control(sock)
    async with qpairs() as (_, controller):
        assert congestion_control(controller.driver._sock) == usual
