"""What tests over sockets share."""

import pytest

from nvmf_tcp.turn import SWITCH


@pytest.fixture(params=["at the end of turns", "by tasks"])
def sending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of sending do the same."""
    if request.param == "by tasks":
        monkeypatch.setenv(SWITCH, "1")
