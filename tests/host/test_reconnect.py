"""Reconnecting by hand, and coming back to something else."""

import pytest
import trio

from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport.address import Address
from nvmf_transport.errors import BusyError, ShutdownError, UnreachableError
from nvmf_transport.loop import ConnectFault

from .hosting import Outcome, hosting, in_state, lose, params, until
from .scripted import Disk, Fate, Scripted, scripted

LIVE, LOST = ControllerState.LIVE, ControllerState.LOST
RECONNECTING = ControllerState.RECONNECTING
OTHER = bytes(range(16, 32))

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
