"""Asynchronous events: always armed again, and acted on before anything is sent."""

import pytest
import trio

from nvmf_host.controller import Controller
from nvmf_host.host import NodeEventKind
from nvmf_host.state import NamespaceState
from nvmf_transport import status as st
from nvmf_transport.nvme import AsyncEvent, AsyncEventType

from .hosting import hosting, params, until
from .scripted import Answer, Disk, Scripted, scripted

OTHER = bytes(range(16, 32))


def settled(controller: Controller) -> bool:
    """All requests are armed and nothing is held."""
    return all(
        namespace.state in (NamespaceState.LIVE, NamespaceState.PAUSED)
        for namespace in controller.namespaces.values()
    )


@pytest.mark.parametrize(("aerl", "armed"), [(0, 1), (1, 2), (3, 4), (255, 4)])
async def test_as_many_requests_as_the_controller_takes(aerl, armed, autojump_clock):
    async with scripted(Scripted(aerl=aerl)) as target, hosting(target.network) as (host, _):
        await host.connect(params())
        assert len(target.aers) == armed
        for _ in range(10):
            target.event(1)
            await until(lambda: len(target.aers) == armed)


async def test_a_controller_that_takes_fewer_than_it_says(autojump_clock):
    async with scripted(Scripted(aerl=3)) as target, hosting(target.network) as (host, _):
        taken = iter([None])
        refusal = Answer(st.AER_LIMIT_EXCEEDED.with_dnr())
        target.faults["AER"] = lambda: next(taken, refusal)
        await host.connect(params())
        await trio.sleep(100)
        assert len(target.aers) == 1
        assert len(target.at("AER")) == 4


@pytest.mark.parametrize(
    "status", [st.ABORT_REQUESTED, st.INTERNAL_ERROR, st.INTERNAL_ERROR.with_dnr()]
)
async def test_a_request_that_ends_in_error_is_armed_again(status, autojump_clock):
    async with scripted(Scripted()) as target, hosting(target.network) as (host, _):
        await host.connect(params())
        started = trio.current_time()
        for _ in range(4):
            target.complete_aer(status)
        await until(lambda: len(target.aers) == 4)
        assert trio.current_time() - started == pytest.approx(1, abs=0.01)


async def test_a_controller_that_refuses_every_request_is_not_asked_all_the_time(autojump_clock):
    async with (
        scripted(Scripted(aerl=0, faults={"AER": Answer(st.INTERNAL_ERROR)})) as target,
        hosting(target.network) as (host, _),
    ):
        await host.connect(params())
        await trio.sleep(600)
        assert 10 < len(target.at("AER")) < 20
        del target.faults["AER"]
        await trio.sleep(60)
        assert len(target.aers) == 1


@pytest.mark.parametrize(("info", "page"), [(0, 4), (0xF0, 0x70)])
async def test_a_controller_with_an_event_for_every_request_is_slowed_down(
    info, page, autojump_clock
):
    flood = AsyncEvent.of(event_type=AsyncEventType.NOTICE, info=info, log_page=page)
    async with scripted(Scripted(aerl=0)) as target, hosting(target.network) as (host, _):
        await host.connect(params())
        target.faults["AER"] = lambda: Answer(result=flood.value)
        target.event(1)
        await trio.sleep(100)
        assert 900 < len(target.at("AER")) < 1100
        del target.faults["AER"]
        await until(lambda: len(target.aers) == 1)


async def test_a_controller_without_events_is_not_asked_again(autojump_clock):
    async with (
        scripted(Scripted(faults={"AER": Answer(st.INVALID_OPCODE.with_dnr())})) as target,
        hosting(target.network) as (host, _),
    ):
        await host.connect(params())
        await trio.sleep(600)
        assert len(target.at("AER")) == 4


async def test_only_what_changed_is_identified_again(autojump_clock):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=OTHER)})
    async with scripted(target), hosting(target.network) as (host, events):
        controller = await host.connect(params())
        events.clear()
        target.seen.clear()
        target.disks[2].size_lbas = 128
        target.event(2)
        await until(lambda: controller.namespaces[2].size_bytes == 128 * 512)
        assert target.names(0).count("IDENTIFY 00h") == 1
        assert "IDENTIFY 02h" not in target.names(0)
        assert {event.name for event in events} == {"nvme0ns2"}


async def test_a_namespace_that_comes_and_goes(autojump_clock):
    async with scripted(Scripted()) as target, hosting(target.network) as (host, events):
        controller = await host.connect(params())
        events.clear()
        target.disks[5] = Disk(uuid=OTHER)
        target.event(5)
        await until(lambda: 5 in controller.namespaces)
        await controller.namespaces[5].write(0, b"x" * 512)
        del target.disks[5]
        target.event(5)
        await until(lambda: 5 not in controller.namespaces)
        kinds = [event.kind for event in events if event.name == "nvme0ns5"]
        assert (kinds[0], kinds[-1]) == (NodeEventKind.ADDED, NodeEventKind.REMOVED)
        assert controller.namespaces[1].state is NamespaceState.LIVE


@pytest.mark.parametrize("nsids", [(), (0xFFFFFFFF,)])
async def test_an_event_that_names_nobody_means_all(nsids, autojump_clock):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=OTHER)})
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        del target.disks[2]
        target.event(*nsids)
        await until(lambda: 2 not in controller.namespaces)


@pytest.mark.parametrize("failures", [1, 2, 5])
async def test_a_list_that_cannot_be_read_means_all_and_is_asked_for_again(
    failures, autojump_clock
):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=OTHER)})
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        errors = iter([Answer(st.INTERNAL_ERROR)] * failures)
        target.faults["Get Log Page 04h"] = lambda: next(errors, None)
        del target.disks[2]
        target.event(2)
        await until(lambda: 2 not in controller.namespaces)
        await until(lambda: len(target.aers) == 4)
        # The controller reports nothing more of this kind before the page was read.
        assert len(target.at("Get Log Page 04h")) == min(failures + 1, 3)
        assert settled(controller)


async def test_a_list_with_a_bad_digest_costs_no_request(autojump_clock):
    async with scripted(Scripted()) as target, hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.network.connections[0].spoil_to_host = 1
        target.disks[1].size_lbas = 128
        target.event(1)
        await until(lambda: controller.namespaces[1].size_bytes == 128 * 512)
        await until(lambda: len(target.aers) == 4)
        assert len(target.at("Get Log Page 04h")) == 2


@pytest.mark.parametrize(
    ("kind", "info", "page", "read"),
    [
        (AsyncEventType.SMART, 1, 2, ["Get Log Page 02h"]),
        (AsyncEventType.ERROR, 0, 1, ["Get Log Page 01h"]),
        (AsyncEventType.NOTICE, 3, 0x0C, ["Get Log Page 0Ch"]),
        (AsyncEventType.VENDOR, 0x77, 0xC0, []),
        (AsyncEventType.IMMEDIATE, 0, 0, []),
    ],
)
async def test_events_of_other_kinds(kind, info, page, read, autojump_clock, announce):
    if kind is AsyncEventType.SMART:
        announce("critical warning")
    async with scripted(Scripted()) as target, hosting(target.network) as (host, _):
        controller = await host.connect(params())
        target.seen.clear()
        event = AsyncEvent.of(event_type=kind, info=info, log_page=page)
        target.complete_aer(st.SUCCESS, event.value)
        await until(lambda: len(target.aers) == 4)
        assert [what for what in target.names(0) if what.startswith("Get Log")] == read
        await until(lambda: settled(controller))


async def test_io_waits_from_the_report_to_the_verdict(autojump_clock, announce):
    """The NSID stands for another namespace now: nothing is written to it."""
    announce("not the same namespace: UUID was 00010203-.*, is 10111213-")
    target = Scripted(delays={"IDENTIFY 00h": 1.0})
    async with scripted(target), hosting(target.network) as (host, _), trio.open_nursery() as tasks:
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        target.disks[1] = Disk(uuid=OTHER)
        target.event(1)
        await until(lambda: namespace.state is NamespaceState.HELD)
        tasks.start_soon(namespace.write, 0, b"x" * 512)
        await until(lambda: namespace.state is NamespaceState.PAUSED)
        await trio.sleep(10)
        assert "WRITE" not in target.names()
        assert namespace.info().waiting_requests == 1
        tasks.cancel_scope.cancel()


async def test_what_changes_while_it_is_identified_is_identified_again(autojump_clock, announce):
    """The first look saw it before the change, and must not let anything through."""
    announce("not the same namespace")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        namespace = controller.namespaces[1]
        states: list[NamespaceState] = []
        host.subscribe(lambda _event: states.append(namespace.state))
        target.delays["IDENTIFY 03h"] = 0.5

        def change() -> None:
            # The size was read already; the identifiers are about to be.
            del target.faults["IDENTIFY 03h"]
            target.disks[1].size_lbas = 32
            target.event(1)

        target.faults["IDENTIFY 03h"] = change
        target.event(1)
        await until(lambda: namespace.state is NamespaceState.PAUSED)
        assert NamespaceState.LIVE not in states
        assert "size was 64 LBAs, is 32" in namespace.info().reason


async def test_a_change_during_the_connection_is_not_missed(autojump_clock):
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):

        def change() -> None:
            del target.faults["IDENTIFY 03h"]
            target.disks[1].size_lbas = 128
            target.disks[2] = Disk(uuid=OTHER)
            target.event(1, 2)

        target.faults["IDENTIFY 03h"] = change
        controller = await host.connect(params())
        await until(lambda: 2 in controller.namespaces)
        assert controller.namespaces[1].size_bytes == 128 * 512


async def test_a_storm_of_events_while_io_runs(autojump_clock):
    target = Scripted(disks={1: Disk(), 2: Disk(uuid=OTHER)})
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params())
        done = 0

        async def work(nsid: int) -> None:
            nonlocal done
            for number in range(200):
                await controller.namespaces[nsid].write(number % 64 * 512, bytes([nsid]) * 512)
                await trio.sleep(0.001)
                done += 1

        async def storm() -> None:
            for number in range(300):
                if target.aers:
                    target.event(1 + number % 2)
                await trio.sleep(0.0005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, 1)
            nursery.start_soon(work, 2)
            nursery.start_soon(storm)
        assert done == 400
        await until(lambda: len(target.aers) == 4 and settled(controller))
        for nsid in (1, 2):
            assert target.disks[nsid].data == bytes([nsid]) * (64 * 512)


async def test_a_failed_identification_ends_the_association(autojump_clock, announce):
    """What cannot be identified cannot be let go; the next association may do better."""
    announce("association lost")
    target = Scripted()
    async with scripted(target), hosting(target.network) as (host, _):
        controller = await host.connect(params(reconnect_delay_s=1))
        target.faults["IDENTIFY 02h"] = Answer(st.INTERNAL_ERROR)
        target.event(0xFFFFFFFF)
        await until(lambda: controller.state.value == "lost")
        del target.faults["IDENTIFY 02h"]
        await until(lambda: controller.associations == 2)
        assert await controller.namespaces[1].read(0, 512) == bytes(512)
