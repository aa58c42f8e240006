"""A controller's end: orderly, in time, and saying what it leaves behind."""

import pytest
import trio

from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport import status as st
from nvmf_transport.address import Address
from nvmf_transport.errors import NamespaceGoneError, ShutdownError

from .hosting import Outcome, hosting, in_state, lose, params, until, waiting
from .scripted import Answer, Disk, Fate, Scripted, scripted

LOST = ControllerState.LOST


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
