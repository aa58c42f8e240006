"""The host: names, duplicates, second paths, node events, and its end; also over real targets."""

from contextlib import asynccontextmanager

import pytest
import trio

import nvmf_host
from nvmf_controller import Namespace as ControllerNamespace
from nvmf_controller import NvmSubsystem, RamDisk, serve
from nvmf_host.errors import ReadOnlyError
from nvmf_host.host import Host, NodeEvent, NodeEventKind
from nvmf_host.state import ControllerState, NamespaceState
from nvmf_transport.address import Address
from nvmf_transport.errors import (
    BusyError,
    ConnectionLostError,
    ConnectRejectedError,
    NamespaceGoneError,
    NoSuchDeviceError,
    ShutdownError,
    UnavailableError,
    UnreachableError,
)
from nvmf_transport.interfaces import register
from nvmf_transport.loop import ConnectFault

from .hosting import IDENTITY, hosting, in_state, params, until
from .scripted import SUBNQN, Disk, Fate, Network, Scripted, scripted

A, B = Address("a", 4420), Address("b", 4420)
ADDED, REMOVED, CHANGED = NodeEventKind.ADDED, NodeEventKind.REMOVED, NodeEventKind.CHANGED


def nodes(events: list[NodeEvent]) -> set[str]:
    """The nodes that a subscriber knows, who believes every event."""
    known: set[str] = set()
    for event in events:
        if event.kind is ADDED:
            assert event.name not in known
            known.add(event.name)
        else:
            assert event.name in known
        if event.kind is REMOVED:
            known.remove(event.name)
    return known


def shown(host: Host) -> set[str]:
    return set(host.controllers) | {
        namespace.name
        for controller in host.controllers.values()
        for namespace in controller.namespaces.values()
    }


async def test_nodes_come_and_go_with_what_they_stand_for(autojump_clock):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=None)})
    async with scripted(target), hosting(target.network) as (host, events):
        controller = await host.connect(params())
        assert nodes(events) == shown(host) == {"nvme0", "nvme0ns1", "nvme0ns2"}
        assert host.find_controller("nvme0") is controller
        assert host.find_namespace("nvme0ns2") == (controller, controller.namespaces[2])
        await host.disconnect(controller)
        assert nodes(events) == set()
        for find in (host.find_controller, host.find_namespace):
            with pytest.raises(NoSuchDeviceError):
                find("nvme0")


@pytest.mark.parametrize("command", ["CONNECT 0", "CONNECT 2", "IDENTIFY 02h"])
async def test_a_controller_that_never_was_has_no_events_and_frees_its_name(
    command, autojump_clock
):
    target = Scripted(faults={command: Fate.CLOSE})
    async with scripted(target), hosting(target.network) as (host, events):
        for _ in range(3):
            with pytest.raises(ConnectionLostError):
                await host.connect(params())
            assert host.controllers == {}
        assert events == []
        target.faults.clear()
        assert (await host.connect(params())).name == "nvme0"


async def test_the_lowest_free_number_is_the_next_name(autojump_clock):
    target = Scripted(disks={})
    addresses = [Address(f"t{number}", 4420) for number in range(4)]
    async with scripted(target, *addresses), hosting(target.network) as (host, _):
        for address in addresses[:3]:
            await host.connect(params(address=address))
        await host.disconnect(host.controllers["nvme1"])
        assert (await host.connect(params(address=addresses[3]))).name == "nvme1"
        assert list(host.controllers) == ["nvme0", "nvme1", "nvme2"]


async def test_the_same_connection_twice_is_refused_and_names_the_first(autojump_clock, announce):
    announce("same namespace")
    target = Scripted()
    async with scripted(target, A, B), hosting(target.network) as (host, _):
        await host.connect(params(address=A))
        with pytest.raises(BusyError, match="nvme0") as caught:
            await host.connect(params(address=A, kato_s=99, host_traddr="elsewhere"))
        assert caught.value.field == "subnqn"
        await host.connect(params(address=A, duplicate=True))
        await host.connect(params(address=B))
        assert len(host.controllers) == 3


async def test_what_is_being_connected_counts_as_connected(autojump_clock):
    target = Scripted(delays={"CONNECT 0": 1})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        tasks.start_soon(host.connect, params())
        await until(lambda: host.controllers)
        with pytest.raises(BusyError):
            await host.connect(params())


async def test_reconnecting_onto_anothers_connection_is_refused(autojump_clock, announce):
    announce("same namespace")
    announce("association lost")
    target = Scripted()
    async with scripted(target, A, B), hosting(target.network) as (host, _):
        await host.connect(params(address=A))
        second = await host.connect(params(address=B))
        target.close_queue(0)
        await in_state(second, ControllerState.LOST)
        with pytest.raises(BusyError, match="nvme0"):
            await host.reconnect(second, params(address=A))
        await host.reconnect(second, params(address=B))
        assert second.state is ControllerState.LIVE


async def test_the_first_of_two_that_were_allowed_is_reconnected_where_it_was(
    autojump_clock, announce
):
    announce("same namespace")
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        first = await host.connect(params())
        target.close_queue(0)
        await in_state(first, ControllerState.LOST)
        await host.connect(params(duplicate=True))
        await host.reconnect(first, first.params)
        assert first.state is ControllerState.LIVE


async def test_a_second_path_is_read_only_until_the_first_goes(autojump_clock, announce):
    announce("nvme1ns1 is the same namespace as nvme0ns1")
    announce("nvme2ns1 is the same namespace as nvme0ns1")
    target = Scripted()
    async with (
        scripted(target, A, B, Address("c", 4420)),
        hosting(target.network) as (host, events),
    ):
        first = await host.connect(params(address=A))
        second = await host.connect(params(address=B))
        third = await host.connect(params(address=Address("c", 4420)))
        namespace = second.namespaces[1]
        assert namespace.info().same_as == "nvme0ns1"
        assert not first.namespaces[1].read_only
        with pytest.raises(ReadOnlyError, match="nvme0ns1"):
            await namespace.write(0, b"x" * 512)
        assert await namespace.read(0, 512) == bytes(512)
        events.clear()
        await host.disconnect(first)
        assert NodeEvent(CHANGED, "nvme1ns1") in events
        await namespace.write(0, b"x" * 512)
        assert third.namespaces[1].info().same_as == "nvme1ns1"
        await host.disconnect(third)
        assert namespace.info().same_as is None


async def test_namespaces_that_only_look_alike_are_not_paths(autojump_clock):
    target = Scripted(disks={1: Disk(uuid=None), 2: Disk(uuid=None)})
    async with scripted(target, A, B), hosting(target.network) as (host, _):
        await host.connect(params(address=A))
        second = await host.connect(params(address=B))
        assert second.namespaces[1].info().same_as is None


@pytest.mark.parametrize("command", ["CONNECT 0", "CC.EN=1", "CONNECT 1", "IDENTIFY 02h"])
async def test_a_connect_that_is_cancelled_leaves_nothing(command, autojump_clock):
    target = Scripted(faults={command: Fate.SILENT})
    async with scripted(target), hosting(target.network) as (host, events):
        with trio.move_on_after(1):
            await host.connect(params())
        assert trio.current_time() < 11
        assert host.controllers == {}
        target.faults.clear()
        await trio.sleep(100)
        assert events == []
        assert (await host.connect(params())).name == "nvme0"


async def test_an_unknown_transport_and_a_host_that_closes(autojump_clock):
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        with pytest.raises(UnavailableError):
            await host.connect(params(transport="carrier-pigeon"))
        assert await host.close() == []
        with pytest.raises(ShutdownError):
            await host.connect(params())
        assert host.controllers == {}


async def test_keep_trying(autojump_clock, announce):
    announce("attempt 1: target:4420: connection refused$")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, events):
        target.network.connect_fault = ConnectFault.REFUSE
        controller = await host.connect(params(reconnect_delay_s=5), keep_trying=True)
        assert nodes(events) == {"nvme0"}
        await trio.sleep(60)
        target.network.connect_fault = None
        await in_state(controller, ControllerState.LIVE)
        assert nodes(events) == {"nvme0", "nvme0ns1"}


async def test_without_it_the_first_error_is_raised(autojump_clock):
    network = Network()
    async with hosting(network) as (host, _):
        with pytest.raises(UnreachableError) as caught:
            await host.connect(params(reconnect_delay_s=5))
        assert (caught.value.field, caught.value.value) == ("address", "target:4420")


async def test_leaving_the_host_ends_its_controllers_in_order(autojump_clock):
    target = Scripted()
    async with scripted(target):
        async with hosting(target.network) as (host, _):
            await host.connect(params())
        assert "CC.SHN" in target.names(0)


async def test_an_error_in_the_block_still_ends_them_in_order(autojump_clock):
    target = Scripted()
    async with scripted(target):
        with pytest.raises(KeyError):  # noqa: PT012 - it is the block that raises
            async with hosting(target.network) as (host, _):
                await host.connect(params())
                raise KeyError
        assert "CC.SHN" in target.names(0)


async def test_a_bug_met_by_one_controller_does_not_end_another(autojump_clock, announce):
    announce("fault of this program")
    target = Scripted(disks={1: Disk(uuid=None)})
    async with scripted(target, A, B), hosting(target.network) as (host, _):
        first = await host.connect(params(address=A))
        second = await host.connect(params(address=B))

        def bug(*_args: object) -> None:
            raise ZeroDivisionError

        first.roster.take = bug  # type: ignore[assignment, method-assign]
        first._namespaces_changed(None)
        await first.closed.wait()
        assert list(host.controllers) == ["nvme1"]
        assert await second.namespaces[1].read(0, 512) == bytes(512)


# Over the controller of this project.


@asynccontextmanager
async def real(network: Network, *addresses: Address):
    subsystem = NvmSubsystem(SUBNQN)
    subsystem.add_namespace(ControllerNamespace(1, RamDisk(1 << 20)))
    async with serve(network, subsystem, addresses or [A]) as server:
        yield server
    subsystem.close()


async def test_ten_lines_of_python_read_a_namespace(autojump_clock):
    network = Network()
    register(network)
    async with (
        real(network),
        nvmf_host.connect("a:4420", SUBNQN, identity=IDENTITY, transport="loop") as controller,
    ):
        namespace = controller.namespaces[1]
        await namespace.write(1000, b"hello")
        assert await namespace.read(998, 9) == b"\0\0hello\0\0"


async def test_a_real_target_that_names_the_wrong_subnqn(autojump_clock, announce):
    announce("CONNECT refused")
    network = Network()
    async with real(network), hosting(network) as (host, _):
        with pytest.raises(ConnectRejectedError) as caught:
            await host.connect(params(address=A, subnqn="nqn.2020-01.com.example:other"))
        assert caught.value.field == "subnqn"
        assert "nqn.2020-01.com.example:other" in str(caught.value.value)


async def test_a_real_target_that_is_cut_off_again_and_again(autojump_clock, announce):
    announce("association lost")
    network = Network()
    async with real(network) as server, hosting(network) as (host, _):
        controller = await host.connect(params(address=A, reconnect_delay_s=1))
        namespace = controller.namespaces[1]
        for round_number in range(20):
            network.connections[round_number % 3].cut()
            block = bytes([round_number]) * 512
            await namespace.write(round_number * 512, block)
            assert await namespace.read(round_number * 512, 512) == block
        assert controller.associations == 21
        assert len(server.subsystem.associations) <= 2


async def test_a_real_namespace_that_is_resized_added_and_removed_under_io(autojump_clock):
    network = Network()
    async with real(network) as server, hosting(network) as (host, events):
        controller = await host.connect(params(address=A))
        namespace = controller.namespaces[1]
        subsystem = server.subsystem
        errors: list[Exception] = []

        async def work() -> None:
            try:
                while True:
                    await namespace.write(0, b"x" * 4096)
                    await trio.sleep(0.01)
            except NamespaceGoneError as error:
                errors.append(error)

        async with trio.open_nursery() as tasks:
            for _ in range(4):
                tasks.start_soon(work)
            await trio.sleep(0.1)
            subsystem.add_namespace(ControllerNamespace(3, RamDisk(1 << 16)))
            await until(lambda: 3 in controller.namespaces)
            assert errors == []
            subsystem.remove_namespace(3)
            await until(lambda: 3 not in controller.namespaces)
            assert namespace.state is NamespaceState.LIVE
            subsystem.remove_namespace(1)
            await until(lambda: len(errors) == 4)
        assert nodes(events) == {"nvme0"}
