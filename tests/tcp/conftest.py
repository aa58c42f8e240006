"""What tests over sockets share."""

import pytest

from nvmf_tcp.turn import SWITCH

from . import loopback


@pytest.fixture(params=["at the end of turns", "waiting in place", "by tasks"])
def sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways of sending and waiting do the same."""
    if request.param == "by tasks":
        monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr(loopback, "IN_PLACE", request.param == "waiting in place")
