"""A controller's life: losing its association, coming back by itself, what it shows."""

from itertools import pairwise

import pytest
import trio

from nvmf_host.attempts import Attempts
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport import status as st
from nvmf_transport.errors import (
    CommandError,
    ConnectionLostError,
    HandshakeError,
    NotConnectedError,
    UnreachableError,
)
from nvmf_transport.loop import ConnectFault

from .hosting import Outcome, hosting, in_state, lose, params, until
from .scripted import Answer, Fate, Scripted, scripted

LIVE, LOST = ControllerState.LIVE, ControllerState.LOST

# Losing it.


@pytest.mark.parametrize("qid", [1, 2])
async def test_the_controller_is_reset_through_a_surviving_admin_queue(
    qid, autojump_clock, announce
):
    announce("association lost")
    target = Scripted(reset_after_s=1.0)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.seen.clear()
        target.close_queue(qid)
        await trio.sleep(0.5)
        # Not before the controller was seen to have stopped.
        assert target.names() == ["closed", *target.names(0)]
        assert target.names(0)[:2] == ["Property Get CC", "CC.EN=0"]
        await in_state(controller, LOST)
        await trio.sleep(0.1)
        assert len(target.at("closed")) == 3
        assert target.at("closed")[1] >= 1.0


async def test_a_lost_admin_queue_ends_it_without_a_word(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.seen.clear()
        await lose(target, controller)
        await in_state(controller, LOST)
        await trio.sleep(0.1)
        assert set(target.names()) == {"closed"}
        assert "closed the connection" in controller.info().last_error
        with pytest.raises(NotConnectedError, match="reconnect"):
            controller.live_association()


async def test_io_in_flight_waits_and_goes_on_at_the_next_association(autojump_clock, announce):
    announce("association lost")
    target = Scripted(faults={"READ": Fate.SILENT, "WRITE": Fate.SILENT})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        target.disks[1].data[:512] = b"r" * 512
        read, write = Outcome(), Outcome()
        tasks.start_soon(read.of, namespace.read, 0, 512)
        tasks.start_soon(write.of, namespace.write, 512, b"w" * 512)
        await until(lambda: {"READ", "WRITE"} <= set(target.names()))
        await lose(target, controller, 1)
        assert namespace.state is NamespaceState.HELD
        await in_state(controller, LOST)
        await trio.sleep(1000)
        assert (read.at, write.at) == (None, None)
        assert namespace.info().ambiguous_writes == 1
        target.faults.clear()
        target.seen.clear()
        await controller.reconnect(controller.params)
        await until(lambda: read.at is not None and write.at is not None)
        assert read.value == b"r" * 512
        assert target.disks[1].data[512:1024] == b"w" * 512
        # First events are armed, then features set, then namespaces identified, then I/O.
        names = target.names()
        order = [
            max(index for index, name in enumerate(names) if name == what)
            for what in ("AER", "Set Features 0Bh", "IDENTIFY 02h", "IDENTIFY 03h")
        ]
        assert order == sorted(order)
        assert order[-1] < names.index("WRITE") < names.index("READ")


async def test_a_half_finished_reset_does_not_make_it_busy(autojump_clock, announce):
    """`reconnect` while the lost association is still being ended waits for its turn."""
    announce("association lost")
    target = Scripted(reset_after_s=1.0)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.close_queue(1)
        await trio.sleep(0.2)
        assert controller.state is LIVE
        await controller.reconnect(controller.params)
        assert controller.state is LIVE
        assert controller.associations == 2


# Coming back by itself.


async def test_attempts_are_made_at_once_then_ever_more_seldom(autojump_clock, announce):
    announce("association lost")
    announce("attempt [0-9]+:")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=3))
        await trio.sleep(10)
        target.network.lookups.clear()
        target.network.connect_fault = ConnectFault.REFUSE
        lost_at = trio.current_time()
        await lose(target, controller)
        await trio.sleep(30)
        times = target.network.lookups
        assert times[0] == pytest.approx(lost_at, abs=0.001)
        pauses = [later - earlier for earlier, later in pairwise(times)]
        for pause_s, longest_s in zip(pauses, [0.5, 1, 2, *[3] * 100], strict=False):
            assert 0.75 * longest_s <= pause_s <= longest_s
        assert len(set(pauses)) == len(pauses)
        info = controller.info()
        assert info.next_attempt_s is not None
        assert 0 <= info.next_attempt_s <= 3
        assert info.attempts == len(times)
        target.network.connect_fault = None
        await in_state(controller, LIVE, limit_s=3.1)
        assert controller.info().last_error == ""


async def test_the_first_delays_without_chance():
    class Never:
        def random(self) -> float:
            return 0.0

    attempts = Attempts(Never())  # type: ignore[arg-type]
    delays = []
    for _ in range(7):
        delays.append(attempts._delay_s(10, 0.0))
        attempts.begin()
    assert delays == [0, 0.5, 1, 2, 4, 8, 10]


async def test_by_hand_only(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=0))
        target.network.lookups.clear()
        await lose(target, controller)
        await trio.sleep(80_000)
        assert target.network.lookups == []
        assert controller.info().next_attempt_s is None
        await controller.reconnect(controller.params)
        assert controller.state is LIVE


async def test_a_controller_that_lets_go_at_once_is_not_called_without_a_pause(
    autojump_clock, announce
):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=10))
        target.network.lookups.clear()

        def let_go(*_args: object) -> None:
            if controller.state is LIVE:
                target.close_queue(0)

        host.subscribe(let_go)
        await lose(target, controller)
        await trio.sleep(60)
        assert 5 <= len(target.network.lookups) <= 12


async def test_a_silent_attempt_does_not_keep_the_next_from_its_time(autojump_clock, announce):
    announce("association lost")
    announce("attempt 1")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=10))
        await trio.sleep(5)
        target.network.lookups.clear()
        target.network.connect_fault = ConnectFault.SILENT
        await lose(target, controller)
        await trio.sleep(10.1)
        target.network.connect_fault = None
        await in_state(controller, LIVE)
        assert target.network.lookups == pytest.approx([5, 15.45], abs=0.1)


async def test_events_during_an_outage_change_nothing(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.event(1)
        await lose(target, controller)
        await in_state(controller, LOST)
        await controller.reconnect(controller.params)
        assert controller.namespaces[1].state is NamespaceState.LIVE


# The first scan, and what is shown.


async def test_a_queue_lost_during_the_first_scan_is_not_a_connection(autojump_clock):
    target = Scripted(delays={"IDENTIFY 02h": 1.0})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        connect = Outcome()
        tasks.start_soon(connect.of, host.connect, params())
        await until(lambda: "IDENTIFY 02h" in target.names())
        target.close_queue(2)
        await until(lambda: connect.at is not None)
        assert isinstance(connect.error, ConnectionLostError)
        assert "CC.EN=0" in target.names(0)


@pytest.mark.parametrize("command", ["IDENTIFY 02h", "IDENTIFY 00h", "IDENTIFY 03h"])
@pytest.mark.parametrize("fate", [Fate.SILENT, Fate.CLOSE])
async def test_a_first_scan_that_fails_is_an_error_with_its_step(command, fate, autojump_clock):
    target = Scripted(faults={command: fate})
    async with scripted(target), hosting(target.network) as (host, events):
        kind = HandshakeError if fate is Fate.SILENT else ConnectionLostError
        with pytest.raises(kind) as caught:
            await host.connect(params(kato_s=600))
        assert caught.value.step == "identifying the namespaces"
        assert trio.current_time() <= 13
        assert events == []
        assert host.controllers == {}


async def test_a_refused_scan_is_an_error(autojump_clock):
    target = Scripted(faults={"IDENTIFY 02h": Answer(st.INTERNAL_ERROR)})
    async with scripted(target), hosting(target.network) as (host, _):
        with pytest.raises(CommandError):
            await host.connect(params())
        assert host.controllers == {}


async def test_what_is_shown_in_each_state(autojump_clock, announce):
    announce("association lost")
    target = Scripted(kato_ms=20_000, delays={"CONNECT 0": 1})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        tasks.start_soon(host.connect, params())
        await until(lambda: host.controllers)
        controller = host.controllers["nvme0"]
        info = controller.info()
        assert (info.state, info.endpoint, info.cntlid, info.queues) == ("connecting", "", None, ())
        await in_state(controller, LIVE)
        info = controller.info()
        assert (info.state, info.endpoint, info.cntlid) == ("live", "target:4420", 7)
        assert [queue.qid for queue in info.queues] == [0, 1, 2]
        assert info.parameters["kato_s"].value == 20
        assert info.parameters["kato_s"].origin == "granted"
        assert info.parameters["queue_size"].value == 128
        assert (info.serial, info.version, info.associations) == ("S1", "1.4.0", 1)
        await lose(target, controller)
        await in_state(controller, LOST)
        await trio.sleep(5)
        info = controller.info()
        assert (info.state, info.endpoint, info.queues) == ("lost", "", ())
        assert info.serial == "S1"
        assert info.since_s == pytest.approx(5, abs=0.01)
        assert "closed" in info.last_error


async def test_the_time_of_a_loss_goes_on_while_attempts_are_made(autojump_clock, announce):
    announce("association lost")
    announce("refused")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        await lose(target, controller)
        await in_state(controller, LOST)
        await trio.sleep(3)
        target.network.connect_fault = ConnectFault.REFUSE
        with pytest.raises(UnreachableError):
            await host.reconnect(controller, controller.params)
        await in_state(controller, LOST)
        await trio.sleep(4)
        assert controller.info().since_s == pytest.approx(7, abs=0.01)
