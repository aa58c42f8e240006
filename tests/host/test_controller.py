"""A controller's life: losing its association, coming back by itself or by hand, ending."""

from itertools import pairwise

import pytest
import trio

from nvmf_host.attempts import Attempts
from nvmf_host.controller import Controller
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport import status as st
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    BusyError,
    CommandError,
    ConnectionLostError,
    HandshakeError,
    NamespaceGoneError,
    NotConnectedError,
    NvmfError,
    ShutdownError,
    UnreachableError,
)
from nvmf_transport.loop import ConnectFault

from .hosting import hosting, in_state, params, until
from .scripted import Answer, Disk, Fate, Scripted, scripted

LIVE, LOST = ControllerState.LIVE, ControllerState.LOST
CONNECTING, RECONNECTING = ControllerState.CONNECTING, ControllerState.RECONNECTING
OTHER = bytes(range(16, 32))


class Outcome:
    """What became of something that runs beside the test."""

    def __init__(self) -> None:
        self.value: object = None
        self.error: NvmfError | None = None
        self.at: float | None = None

    async def of(self, call, *args) -> None:
        try:
            self.value = await call(*args)
        except NvmfError as error:
            self.error = error
        self.at = trio.current_time()


def waiting(controller: Controller, nsid: int = 1) -> int:
    return controller.namespaces[nsid].info().waiting_requests


async def lose(target: Scripted, controller: Controller, qid: int = 0) -> None:
    target.close_queue(qid)
    await until(lambda: controller.state is not LIVE)


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


# By hand.


async def test_reconnect_while_live_is_busy(autojump_clock):
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        with pytest.raises(BusyError, match="connected"):
            await controller.reconnect(params(kato_s=20))
        assert controller.params.kato_s == 15


async def test_reconnect_elsewhere_with_other_parameters_which_stay(autojump_clock, announce):
    """All of them but the address, which holds once it has connected."""
    announce("association lost")
    announce("attempt 2: elsewhere:4420: connection refused")
    target, elsewhere = Scripted(), Address("elsewhere", 4420)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        await lose(target, controller)
        await in_state(controller, LOST)
        new = params(address=elsewhere, kato_s=20, nr_io_queues=1)
        with pytest.raises(UnreachableError) as caught:
            await controller.reconnect(new)
        assert caught.value.value == "elsewhere:4420"
        await in_state(controller, LOST)
        assert controller.params == params(kato_s=20, nr_io_queues=1)
        async with trio.open_nursery() as nursery:
            await nursery.start(target.serve, elsewhere)
            await controller.reconnect(new)
            assert controller.params == new
            assert str(controller.live_association().endpoint) == "elsewhere:4420"
            info = controller.info()
            assert (info.parameters["kato_s"].value, len(info.queues)) == (20, 2)
            await host.disconnect(controller)
            nursery.cancel_scope.cancel()


async def test_reconnect_during_an_attempt_waits_for_that_attempt(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        await lose(target, controller)
        await in_state(controller, LOST)
        target.delays["CONNECT 0"] = 3
        target.network.lookups.clear()
        first, second = Outcome(), Outcome()
        tasks.start_soon(first.of, controller.reconnect, controller.params)
        await in_state(controller, RECONNECTING)
        tasks.start_soon(second.of, controller.reconnect, controller.params)
        await in_state(controller, LIVE)
        await trio.sleep(0.1)
        assert (first.error, second.error) == (None, None)
        assert len(target.network.lookups) == 1


async def test_reconnect_elsewhere_during_an_attempt_gives_that_attempt_up(
    autojump_clock, announce
):
    announce("association lost")
    announce("attempt 2: the attempt was given up")
    target, elsewhere = Scripted(), Address("elsewhere", 4420)
    async with (
        scripted(target, Address("target", 4420), elsewhere),
        hosting(target.network) as (host, _),
        trio.open_nursery() as tasks,
    ):
        controller = await host.connect(params())
        await lose(target, controller)
        await in_state(controller, LOST)
        target.faults["CONNECT 0"] = Fate.SILENT
        first = Outcome()
        tasks.start_soon(first.of, controller.reconnect, controller.params)
        await in_state(controller, RECONNECTING)
        await trio.sleep(1)
        target.faults.clear()
        started = trio.current_time()
        await controller.reconnect(params(address=elsewhere))
        assert trio.current_time() - started < 0.1
        assert isinstance(first.error, ShutdownError)
        assert str(controller.live_association().endpoint) == "elsewhere:4420"


async def test_reconnect_during_the_wait_for_the_next_attempt(autojump_clock, announce):
    announce("association lost")
    announce("attempt")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=1000))
        target.network.connect_fault = ConnectFault.REFUSE
        await lose(target, controller)
        await trio.sleep(300)
        target.network.connect_fault = None
        started = trio.current_time()
        await controller.reconnect(controller.params)
        assert trio.current_time() - started < 0.1


async def test_reconnect_of_what_is_being_connected_or_closed_is_busy(autojump_clock):
    target = Scripted(shutdown_after_s=1)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        target.delays["CONNECT 0"] = 1
        tasks.start_soon(host.connect, params())
        await until(lambda: host.controllers)
        controller = host.controllers["nvme0"]
        with pytest.raises(BusyError, match="first time"):
            await controller.reconnect(params(address=Address("elsewhere", 1)))
        await in_state(controller, LIVE)
        tasks.start_soon(host.disconnect, controller)
        await in_state(controller, ControllerState.CLOSING)
        with pytest.raises(BusyError, match="disconnected"):
            await controller.reconnect(controller.params)


async def test_disconnect_during_a_reconnect_elsewhere_ends_both(autojump_clock, announce):
    announce("association lost")
    announce("attempt 2", optional=True)
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        await lose(target, controller)
        await in_state(controller, LOST)
        target.faults["CONNECT 0"] = Fate.SILENT
        outcomes = [Outcome() for _ in range(3)]
        tasks.start_soon(outcomes[0].of, controller.reconnect, controller.params)
        await in_state(controller, RECONNECTING)
        other = params(address=Address("elsewhere", 1))
        tasks.start_soon(outcomes[1].of, controller.reconnect, other)
        tasks.start_soon(outcomes[2].of, host.disconnect, controller)
        with trio.fail_after(9):
            await controller.closed.wait()
        await until(lambda: all(outcome.at is not None for outcome in outcomes))
        assert outcomes[0].error is not None
        assert outcomes[1].error is not None


async def test_a_first_attempt_that_fails_with_keep_trying_can_be_sent_elsewhere(
    autojump_clock, announce
):
    announce("attempt 1")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(address=Address("elsewhere", 1)), keep_trying=True)
        await in_state(controller, LOST)
        assert "refused" in controller.info().last_error
        await controller.reconnect(params())
        assert controller.namespaces[1].state is NamespaceState.LIVE


# Coming back to something else.


@pytest.mark.parametrize("what", ["serial", "model", "uuid", "size", "no uuid"])
async def test_io_does_not_resume_on_another_namespace(what, autojump_clock, announce):
    announce("association lost")
    announce("not the same namespace")
    target = Scripted(faults={"WRITE": Fate.SILENT})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        write = Outcome()
        tasks.start_soon(write.of, namespace.write, 0, b"w" * 512)
        await until(lambda: "WRITE" in target.names())
        await lose(target, controller)
        await in_state(controller, LOST)
        target.faults.clear()
        target.seen.clear()
        good = target.disks[1]
        match what:
            case "serial":
                target.serial = "S2"
            case "model":
                target.model = "another"
            case "uuid":
                target.disks[1] = Disk(uuid=OTHER)
            case "size":
                target.disks[1].size_lbas = 63
            case _:
                target.disks[1] = Disk(uuid=None)
        await controller.reconnect(controller.params)
        await trio.sleep(100)
        assert namespace.state is NamespaceState.PAUSED
        reason = namespace.info().reason
        assert " was " in reason
        assert ", is " in reason
        assert "WRITE" not in target.names()
        assert write.at is None
        # The old one comes back: the write goes on.
        target.serial, target.model, good.size_lbas = "S1", "scripted", 64
        target.disks[1] = good
        await lose(target, controller)
        await in_state(controller, LOST)
        await controller.reconnect(controller.params)
        await until(lambda: write.at is not None)
        assert write.error is None
        assert good.data[:512] == b"w" * 512


async def test_a_namespace_that_is_missing_after_a_reconnection_is_paused(autojump_clock, announce):
    announce("association lost")
    announce("not active there")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        disk = target.disks.pop(1)
        await lose(target, controller)
        await in_state(controller, LOST)
        await controller.reconnect(controller.params)
        assert controller.namespaces[1].state is NamespaceState.PAUSED
        target.disks[1] = disk
        target.event(1)
        await until(lambda: controller.namespaces[1].state is NamespaceState.LIVE)


# Ending.


async def test_an_orderly_end_is_a_shutdown(autojump_clock):
    target = Scripted(shutdown_after_s=1, vwc=1)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        await namespace.write(0, b"w" * 512)
        target.seen.clear()
        assert await host.disconnect(controller) == []
        names = target.names()
        assert names.index("FLUSH") < names.index("CC.SHN") < names.index("closed")
        assert 1 <= trio.current_time() < 1.3
        with pytest.raises(NamespaceGoneError):
            await namespace.read(0, 512)


async def test_nothing_is_flushed_that_is_flushed(autojump_clock):
    target = Scripted(vwc=1)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        await controller.namespaces[1].write(0, b"w" * 512)
        await controller.namespaces[1].flush()
        target.seen.clear()
        assert await host.disconnect(controller) == []
        assert "FLUSH" not in target.names()


async def test_io_under_way_ends_before_the_shutdown(autojump_clock):
    target = Scripted(delays={"WRITE": 1.0})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        write = Outcome()
        tasks.start_soon(write.of, controller.namespaces[1].write, 0, b"w" * 512)
        await until(lambda: "WRITE" in target.names())
        assert await host.disconnect(controller) == []
        assert write.error is None
        assert target.disks[1].data[:512] == b"w" * 512


async def test_waiting_io_fails_at_a_disconnect_and_is_reported(autojump_clock, announce):
    announce("association lost")
    target = Scripted(faults={"WRITE": Fate.SILENT}, vwc=1)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        del target.faults["WRITE"]
        await namespace.write(8 * 512, b"d" * 512)
        target.faults["WRITE"] = Fate.SILENT
        sent, later = Outcome(), Outcome()
        tasks.start_soon(sent.of, namespace.write, 3 * 512, b"w" * 1024)
        await until(lambda: target.names().count("WRITE") == 2)
        await lose(target, controller)
        tasks.start_soon(later.of, namespace.read, 0, 512)
        await until(lambda: waiting(controller) == 2)
        problems = await host.disconnect(controller)
        await until(lambda: sent.at is not None and later.at is not None)
        assert isinstance(sent.error, NamespaceGoneError)
        assert isinstance(later.error, NamespaceGoneError)
        assert [p for p in problems if "unknown outcome" in p and "(3, 2)" in p]
        assert [p for p in problems if "not flushed" in p]


async def test_what_was_not_settled_when_a_reconnection_is_closed_is_reported(
    autojump_clock, announce
):
    """Closed while namespaces are identified: nothing of the first association is settled."""
    announce("association lost")
    target = Scripted(faults={"WRITE": Fate.SILENT}, vwc=1)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        del target.faults["WRITE"]
        await namespace.write(8 * 512, b"d" * 512)
        target.faults["WRITE"] = Fate.SILENT
        sent, again = Outcome(), Outcome()
        tasks.start_soon(sent.of, namespace.write, 3 * 512, b"w" * 1024)
        await until(lambda: target.names().count("WRITE") == 2)
        await lose(target, controller)
        await in_state(controller, LOST)
        target.delays["IDENTIFY 02h"] = 5
        tasks.start_soon(again.of, controller.reconnect, controller.params)
        await until(lambda: target.names(0)[-1] == "IDENTIFY 02h")
        problems = await host.disconnect(controller)
        assert [p for p in problems if "unknown outcome" in p and "(3, 2)" in p]
        assert [p for p in problems if "may not be durable" in p or "not flushed" in p]
        await until(lambda: again.error is not None)


async def test_a_flush_that_fails_is_reported(autojump_clock):
    target = Scripted(faults={"FLUSH": Answer(st.WRITE_FAULT)}, vwc=1)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        await controller.namespaces[1].write(0, b"w" * 512)
        (problem,) = await host.disconnect(controller)
        assert "may not be durable" in problem


async def test_a_shutdown_that_is_not_seen_is_reported(autojump_clock):
    target = Scripted(shutdown_after_s=None, cap_to=6)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        (problem,) = await host.disconnect(controller)
        assert "shutdown" in problem or "SHST" in problem
        assert trio.current_time() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("busy", [False, True])
async def test_closing_with_silent_peers_takes_no_more_than_ten_seconds(
    busy, autojump_clock, announce
):
    """Three controllers, with I/O under way and a dirty cache or without, all silent."""
    if busy:
        announce("is unanswered for 10 s", optional=True)
    targets = [
        Scripted(vwc=1, cap_to=255, disks={1: Disk(uuid=bytes([number]) * 16)})
        for number in (1, 2, 3)
    ]
    for target in targets:
        target.network = targets[0].network
    addresses = [Address(f"target{number}", 4420) for number in range(3)]
    async with trio.open_nursery() as tasks:
        for target, address in zip(targets, addresses, strict=True):
            await tasks.start(target.serve, address)
        async with hosting(targets[0].network) as (host, _):
            for address in addresses:
                controller = await host.connect(params(address=address, kato_s=600))
                if busy:
                    await controller.namespaces[1].write(0, b"w" * 512)
            for connection in targets[0].network.connections:
                connection.freeze()
            if busy:
                for controller in host.controllers.values():
                    outcome = Outcome()
                    tasks.start_soon(outcome.of, controller.namespaces[1].write, 0, b"v" * 512)
            await trio.sleep(1)
            started = trio.current_time()
            problems = await host.close()
            assert trio.current_time() - started <= 10
            assert len(problems) >= 3
            assert host.controllers == {}
        tasks.cancel_scope.cancel()


async def test_closing_while_a_lost_controller_is_reset_takes_no_more_than_ten_seconds(
    autojump_clock, announce
):
    announce("association lost", optional=True)
    target = Scripted(reset_after_s=None, cap_to=255)
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.close_queue(1)
        await trio.sleep(1)
        started = trio.current_time()
        await host.disconnect(controller)
        assert trio.current_time() - started <= 10
        assert controller.closed.is_set()


@pytest.mark.parametrize("command", ["CONNECT 0", "CC.EN=1", "CONNECT 1", "IDENTIFY 02h"])
async def test_disconnecting_what_is_being_connected(command, autojump_clock):
    target = Scripted(faults={command: Fate.SILENT})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        connect = Outcome()
        tasks.start_soon(connect.of, host.connect, params())
        await until(lambda: command in target.names())
        started = trio.current_time()
        await host.disconnect(host.controllers["nvme0"])
        assert trio.current_time() - started <= 10
        await trio.sleep(0.1)
        assert isinstance(connect.error, ShutdownError)
        assert host.controllers == {}


async def test_disconnecting_while_a_scan_is_silent(autojump_clock):
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(kato_s=600))
        target.faults["IDENTIFY 00h"] = Fate.SILENT
        target.event(1)
        await until(lambda: controller.namespaces[1].state is NamespaceState.HELD)
        await trio.sleep(1)
        started = trio.current_time()
        assert await host.disconnect(controller) == []
        assert trio.current_time() - started < 1


async def test_a_queue_lost_while_a_scan_is_silent_ends_the_association_at_once(
    autojump_clock, announce
):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(kato_s=600))
        target.faults["IDENTIFY 00h"] = Fate.SILENT
        target.event(1)
        await until(lambda: controller.namespaces[1].state is NamespaceState.HELD)
        started = trio.current_time()
        target.close_queue(1)
        await in_state(controller, LOST)
        assert trio.current_time() - started < 1


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
