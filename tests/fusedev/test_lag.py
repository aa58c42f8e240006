"""The event loop's lag: when it is told, and how often."""

import logging

import pytest
import trio
import trio.testing

from fusedev.lag import LoopLag
from nvmf_host.messages import Parameter
from tests.fusedev.fakes import FakeHost


@pytest.fixture
def host():
    host = FakeHost()
    for name, kato_s in (("nvme0", 15.0), ("nvme1", 2.0), ("nvme2", 0.0)):
        host.add_controller(name).parameters = {"kato_s": Parameter(value=kato_s, origin="given")}
    return host


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.logs_warnings
async def test_a_lag_of_a_quarter_of_the_timeout_is_told(host, caplog, autojump_clock):
    lag = LoopLag(host)

    lag.take(0.49)
    assert warnings(caplog) == []
    lag.take(0.6)

    assert warnings(caplog) == [
        "this process stood still for 0.6 s, which endangers the keep-alive of nvme1; give it "
        "more of a processor, or connect with a longer --keep-alive-tmo"
    ]
    assert lag.longest_s == 0.6


@pytest.mark.logs_warnings
async def test_it_is_not_told_again_and_again(host, caplog, autojump_clock):
    lag = LoopLag(host)
    for _ in range(3):
        lag.take(5.0)
        await trio.sleep(40)

    assert len(warnings(caplog)) == 2
    assert "nvme0, nvme1;" in warnings(caplog)[0]


async def test_controllers_that_are_away_have_nothing_to_lose(host, caplog, autojump_clock):
    for controller in host.controllers.values():
        controller.state = "lost"
    LoopLag(host).take(5.0)

    assert warnings(caplog) == []


@pytest.mark.logs_warnings
async def test_a_loop_that_stands_still_is_late(host, mock_clock):
    lag = LoopLag(host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert lag.longest_s == pytest.approx(2.8)
