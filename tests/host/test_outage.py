"""The time without an association: when I/O fails, when the controller goes, what may change."""

from contextlib import suppress

import pytest
import trio

from nvmf_host.messages import ReconnectRequest, SetRequest
from nvmf_host.service import Requests
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport import status as s
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    ConnectRejectedError,
    NamespaceGoneError,
    NotConnectedError,
    NvmfError,
    UnreachableError,
)
from nvmf_transport.loop import ConnectFault

from .hosting import hosting, in_state, params, until
from .medium import begin
from .scripted import Answer, Fate, Scripted, scripted

LOST, LIVE = ControllerState.LOST, ControllerState.LIVE
RECONNECTING = ControllerState.RECONNECTING
L = 512
A, B = Address("a", 4420), Address("b", 4420)


async def test_io_fails_so_long_after_the_loss_until_it_is_back(autojump_clock, announce):
    """From the loss, not from the end of its reset, or of an attempt that hangs."""
    announce("association lost")
    announce("not connected for 5 s .fast I/O fail.: waiting I/O fails")
    announce(r"attempt \d")
    target = Scripted(faults={"READ": Fate.SILENT}, reset_after_s=3.0)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(fast_io_fail_s=5.0, reconnect_delay_s=100.0))
        namespace = controller.namespaces[1]
        sent = begin(tasks, namespace.read, 0, L)
        await until(lambda: "READ" in target.names())
        target.faults = {"CONNECT 0": Fate.SILENT}
        target.close_queue(1)
        lost_at = trio.current_time()
        await trio.sleep(0.1)
        waits = begin(tasks, namespace.write, 0, b"w" * L)
        await trio.sleep_until(lost_at + 4.9)
        assert controller.state is RECONNECTING
        assert (sent.done, waits.done) == (False, False)
        await trio.sleep_until(lost_at + 5.1)
        assert isinstance(sent.error, NotConnectedError)
        assert isinstance(waits.error, NotConnectedError)
        for call in (namespace.read, namespace.write_zeroes):
            with pytest.raises(NotConnectedError, match="fast I/O fail"):
                await call(0, 1)
        with pytest.raises(NotConnectedError):
            await namespace.flush()
        await trio.sleep_until(lost_at + 14)
        target.faults.clear()
        with suppress(NvmfError):
            # The attempt under way was not answered.
            await controller.reconnect(controller.params)
        await controller.reconnect(controller.params)
        await namespace.write(0, b"x" * L)
        await namespace.flush()
        # The next loss has its own time.
        target.close_queue(1)
        target.faults = {"CONNECT 0": Fate.SILENT}
        await until(lambda: controller.state is not LIVE)
        again = begin(tasks, namespace.read, 0, L)
        await trio.sleep(1)
        assert not again.done
        tasks.cancel_scope.cancel()


async def test_io_outstanding_while_a_controller_takes_long_to_reset_fails_in_time(
    autojump_clock, announce
):
    announce("waiting I/O fails")
    announce("unanswered", optional=True)
    target = Scripted(faults={"READ": Fate.SILENT}, reset_after_s=None, cap_to=20)
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(fast_io_fail_s=2.0))
        read = begin(tasks, controller.namespaces[1].read, 0, L)
        await until(lambda: "READ" in target.names())
        busy = next(seen.qid for seen in target.seen if seen.what == "READ")
        lost_at = trio.current_time()
        target.close_queue(3 - busy)
        await trio.sleep_until(lost_at + 2.1)
        assert controller.state is LIVE, "its end is not over"
        assert isinstance(read.error, NotConnectedError)
        tasks.cancel_scope.cancel()


async def test_after_the_loss_timeout_the_controller_is_gone(autojump_clock, announce):
    announce("association lost")
    announce(r"attempt \d")
    announce("not back within 60 s .controller loss timeout.: disconnected")
    announce("unknown outcome|may still land", optional=True)
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(ctrl_loss_tmo_s=60.0, reconnect_delay_s=2.0))
        namespace = controller.namespaces[1]
        target.network.connect_fault = ConnectFault.REFUSE
        target.close_queue(0)
        lost_at = trio.current_time()
        await until(lambda: controller.state is not LIVE)
        read = begin(tasks, namespace.read, 0, L)
        await trio.sleep_until(lost_at + 59.9)
        assert host.controllers
        assert not read.done
        await trio.sleep_until(lost_at + 60.1)
        assert isinstance(read.error, NamespaceGoneError)
        assert not host.controllers
        assert any("controller loss timeout" in problem for problem in controller.problems)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("step", ["CONNECT 0", "IDENTIFY 02h"])
async def test_the_loss_timeout_ends_an_attempt_that_is_under_way(step, autojump_clock, announce):
    announce("association lost")
    announce("controller loss timeout")
    announce("given up", optional=True)
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(ctrl_loss_tmo_s=5.0, reconnect_delay_s=2.0))
        target.faults[step] = Fate.SILENT
        target.close_queue(0)
        lost_at = trio.current_time()
        await controller.closed.wait()
        assert lost_at + 5 <= trio.current_time() <= lost_at + 12


@pytest.mark.parametrize("step", ["CONNECT 0", "IDENTIFY 02h"])
async def test_neither_is_for_a_first_connection(step, autojump_clock, announce):
    announce(r"attempt \d")
    target = Scripted(faults={step: Fate.CLOSE})
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(
            params(ctrl_loss_tmo_s=5.0, fast_io_fail_s=1.0, reconnect_delay_s=2.0), keep_trying=True
        )
        await trio.sleep(1000)
        assert host.controllers == {"nvme0": controller}
        assert controller.attempts.count > 100


async def test_a_return_in_time_ends_both(autojump_clock, announce):
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(ctrl_loss_tmo_s=60.0, fast_io_fail_s=50.0))
        for _ in range(2):
            target.close_queue(0)
            await in_state(controller, LOST)
            read = begin(tasks, controller.namespaces[1].read, 0, L)
            await trio.sleep(40)
            assert not read.done
            await controller.reconnect(controller.params)
            await trio.sleep(100)
            assert read.value == bytes(L)
            assert controller.state is LIVE


async def test_what_is_not_back_again_has_no_second_time(autojump_clock, announce):
    """Associations that fail while they are made do not begin the outage anew."""
    announce("association lost")
    announce("attempt")
    announce("controller loss timeout")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(ctrl_loss_tmo_s=30.0, reconnect_delay_s=2.0))
        target.faults["IDENTIFY 02h"] = Fate.CLOSE
        target.close_queue(0)
        lost_at = trio.current_time()
        await controller.closed.wait()
        assert trio.current_time() == pytest.approx(lost_at + 30, abs=0.2)


async def test_times_can_be_changed_while_they_run(autojump_clock, announce):
    announce("association lost")
    announce("waiting I/O fails")
    announce("not back within 200 s")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(ctrl_loss_tmo_s=50.0))
        handle = Requests(host).handle
        target.close_queue(0)
        await in_state(controller, LOST)
        lost_at = trio.current_time()
        read = begin(tasks, controller.namespaces[1].read, 0, L)
        await trio.sleep(40)
        await handle(SetRequest(device="nvme0", ctrl_loss_tmo_s=200.0, fast_io_fail_s=100.0))
        await trio.sleep(30)
        assert not read.done
        await handle(SetRequest(device="nvme0", fast_io_fail_s=-1))
        await trio.sleep(50)
        assert not read.done
        # So long ago already.
        await handle(SetRequest(device="nvme0", fast_io_fail_s=10.0))
        await until(lambda: read.done, limit_s=0.1)
        assert isinstance(read.error, NotConnectedError)
        await controller.closed.wait()
        assert trio.current_time() == pytest.approx(lost_at + 200, abs=0.2)
        tasks.cancel_scope.cancel()


async def test_the_reconnect_delay_can_be_changed_while_it_runs(autojump_clock, announce):
    announce("association lost")
    announce(r"attempt \d")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=0))
        handle = Requests(host).handle
        target.network.connect_fault = ConnectFault.REFUSE
        target.close_queue(0)
        await in_state(controller, LOST)
        await trio.sleep(1000)
        assert controller.attempts.next_at is None
        # By hand only, until now.
        await handle(SetRequest(device="nvme0", reconnect_delay_s=500.0))
        await trio.sleep(4000)
        due = controller.attempts.next_at
        assert due is not None
        # Just after an attempt: at any other moment the next one may be near anyway.
        await trio.sleep_until(due)
        await until(lambda: (controller.attempts.next_at or due) > due + 300)
        target.network.connect_fault = None
        await handle(SetRequest(device="nvme0", reconnect_delay_s=1.0))
        await in_state(controller, LIVE, limit_s=1.1)
        assert controller.attempts.next_at is None


async def test_reconnecting_by_hand_as_the_time_comes(autojump_clock, announce):
    """Both at once: it is back, or gone, and nobody waits for ever."""
    announce("association lost")
    announce("controller loss timeout|attempt|given up", optional=True)
    for delay_s in (9.999, 10.0, 10.001):
        target = Scripted(delays={"CONNECT 0": 0.0})
        async with scripted(target), hosting(target.network) as (host, _):
            controller = await host.connect(params(ctrl_loss_tmo_s=10.0))
            target.close_queue(0)
            lost_at = trio.current_time()
            target.delays["CONNECT 0"] = 0.01
            await trio.sleep_until(lost_at + delay_s)
            with trio.fail_after(30):
                if "nvme0" in host.controllers:
                    try:
                        await Requests(host).handle(ReconnectRequest(device="nvme0"))
                    except NvmfError:
                        await controller.closed.wait()
                    else:
                        assert controller.state is LIVE
                        await trio.sleep(100)
                        assert controller.state is LIVE


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (s.CONNECT_INVALID_HOST.with_dnr(), True),
        (s.AUTHENTICATION_REQUIRED, True),
        (s.CONTROLLER_BUSY, False),
    ],
)
async def test_a_refused_connect_keeps_the_nodes_and_is_repeated_less_often(
    status, final, autojump_clock, announce
):
    announce("association lost")
    announce(r"attempt \d")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params(reconnect_delay_s=4.0))
        target.faults["CONNECT 0"] = Answer(status)
        target.close_queue(0)
        await until(lambda: controller.state is not LIVE)
        read = begin(tasks, controller.namespaces[1].read, 0, L)
        await trio.sleep(600)
        assert controller.namespaces[1].state is NamespaceState.HELD
        assert not read.done
        times = target.at("CONNECT 0")
        pause_s = times[-1] - times[-2]
        assert (45 <= pause_s <= 61) if final else (3 <= pause_s <= 4.1)
        with pytest.raises(ConnectRejectedError):
            await controller.reconnect(controller.params)
        target.faults.clear()
        await trio.sleep(61)
        assert read.done
        tasks.cancel_scope.cancel()


async def test_one_attempt_that_hangs_delays_no_other_controller(autojump_clock, announce):
    announce("association lost")
    announce(r"attempt \d")
    announce("read-only here")
    hangs = Scripted()
    well = Scripted(network=hangs.network)
    async with (
        scripted(hangs, A),
        scripted(well, B),
        hosting(hangs.network) as (host, _),
    ):
        one = await host.connect(params(address=A, reconnect_delay_s=5.0, duplicate=True))
        two = await host.connect(params(address=B, reconnect_delay_s=5.0, duplicate=True))
        # Long enough for the first attempt to come at once.
        await trio.sleep(2)
        hangs.faults["CONNECT 0"] = Fate.SILENT
        for target in (hangs, well):
            target.close_queue(0)
        await until(lambda: two.associations == 2, limit_s=0.1)
        assert one.state in (LOST, RECONNECTING)
        with pytest.raises(NvmfError):
            await one.reconnect(one.params)
        assert two.state is LIVE


async def test_an_unreachable_controller_is_not_a_refusal(autojump_clock, announce):
    announce("association lost")
    announce(r"attempt \d")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=4.0))
        target.network.connect_fault = ConnectFault.REFUSE
        target.close_queue(0)
        await trio.sleep(600)
        assert target.network.lookups[-1] - target.network.lookups[-2] <= 4.1
        with pytest.raises(UnreachableError):
            await controller.reconnect(controller.params)
