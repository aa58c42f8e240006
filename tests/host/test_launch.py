"""Reads and writes without a task: which there are, how they end, what keeps them waiting."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.io_request import Opener
from nvmf_host.policy import MAX_IMMEDIATE_RETRIES
from nvmf_transport import status as s
from nvmf_transport.errors import CommandError, DataDigestError
from nvmf_transport.nvme import RW_FUA, SubmissionEntry
from nvmf_transport.status import Status

from . import launching
from .medium import (
    LBA_BYTES,
    Medium,
    begin,
    lbas_of,
    open_link,
    open_namespace,
    pattern,
    sent,
)

L = LBA_BYTES
SIZE = 64 * L


def first_bytes(link) -> list[bytes]:
    """Of what the writes without an answer write."""
    return [bytes(capsule.data_out or b"")[:1] for capsule in link.sent]


# Without a task.


async def test_a_read_is_done_in_the_step_that_took_its_response():
    namespace = open_namespace()
    medium = Medium(64)
    medium.data[3 * L : 5 * L] = pattern(7, 2 * L)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        reading = launching.read(namespace, nursery, 3 * L, 2 * L)
        assert [lbas_of(capsule) for capsule in link.sent] == [[(3, 2)]]
        assert [wait.sent for wait in namespace.waits()] == [True]
        link.settle(medium)
        await wait_all_tasks_blocked()
        assert reading.concluded == [True]
        assert reading.outcome is None
        assert reading.data == pattern(7, 2 * L)
        assert namespace.waits() == []


async def test_a_write_is_done_in_the_step_that_took_its_response_and_gives_its_lbas_back():
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        writing = launching.write(namespace, nursery, L, pattern(1, 2 * L))
        assert not namespace.engine.dirty
        link.settle(medium)
        await wait_all_tasks_blocked()
        assert writing.concluded == [True]
        assert writing.outcome is None
        assert medium.data[: 4 * L] == bytes(L) + pattern(1, 2 * L) + bytes(L)
        assert namespace.engine.dirty
        assert namespace.waits() == []
        assert namespace.quarantine.is_over


async def test_one_of_several_commands_ends_with_the_last():
    namespace = open_namespace()
    medium = Medium(64)
    medium.data[:] = random.Random(1).randbytes(SIZE)
    async with open_link(queues=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(noiob_lbas=2))
        reading = launching.read(namespace, nursery, L, 4 * L)
        parts = link.sent
        assert len(parts) == 3
        for capsule in reversed(parts):
            assert reading.concluded == []
            medium.execute(capsule)
            link.answer(capsule)
            await wait_all_tasks_blocked()
        assert reading.data == medium.data[L : 5 * L]


@pytest.mark.parametrize("fua", [False, True])
async def test_with_fua_it_is_on_the_medium(fua):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        launching.write(namespace, nursery, 0, pattern(1, L), fua=fua)
        assert bool(SubmissionEntry.unpack(link.sent[0].sqe).cdw12 & RW_FUA) is fua
        link.answer()
        await wait_all_tasks_blocked()
        assert namespace.engine.dirty is not fua


# What takes another way.


@pytest.mark.parametrize(
    ("offset", "length"),
    [(5, L), (0, L - 1), (L, 5), (63 * L, 2 * L), (SIZE, L), (-L, L), (1 << 63, L), (0, 0)],
)
async def test_what_is_not_whole_lbas_of_the_namespace_is_not_launched(offset, length):
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path())
        assert namespace.launch_read(offset, length, None) is None
        assert namespace.launch_write(offset, bytes(length), None, fua=False) is None
        assert link.pairs[0].log == []
        assert namespace.waits() == []
        assert namespace.quarantine.is_over


@pytest.mark.parametrize("how", ["connected read-only", "a second path"])
async def test_no_write_is_launched_where_none_is_allowed(how):
    namespace = open_namespace(read_only=how == "connected read-only")
    if how == "a second path":
        namespace.same_as = "nvme1ns1"
    async with open_link() as link:
        namespace.engine.resume(link.path())
        assert namespace.launch_write(0, bytes(L), None, fua=False) is None
        assert namespace.launch_read(0, L, None) is not None


@pytest.mark.parametrize("state", ["held", "replaying", "paused", "gone"])
async def test_nothing_is_launched_where_the_namespace_is_not_live(state):
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        launching.write(namespace, nursery, 0, bytes(L))
        old.lose(namespace)
        await wait_all_tasks_blocked()
        if state == "replaying":
            namespace.engine.resume(new.path())
        elif state == "paused":
            namespace.engine.pause("not the same", namespace.engine.cause)
        elif state == "gone":
            namespace.end("removed")
        assert namespace.state.value == state
        assert namespace.launch_read(0, L, None) is None
        assert namespace.launch_write(9 * L, bytes(L), None, fua=False) is None
        nursery.cancel_scope.cancel()


# In line.


@pytest.mark.parametrize("late", [False, True])
async def test_overlapping_writes_go_one_after_the_other_in_order_of_arrival(late):
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())

        async def launch(value: int) -> launching.Flight:
            data = pattern(value, 2 * L)
            flight = launching.write(namespace, nursery, 0, data, prompt=not late)
            await wait_all_tasks_blocked()
            return flight

        flights = [await launch(1), await launch(2)]
        by_task = begin(nursery, namespace.write, 0, pattern(3, 2 * L))
        await wait_all_tasks_blocked()
        flights.append(await launch(4))
        assert [flight.launch.request.outstanding for flight in flights] == [1, 0, 0]
        if late:
            # Whatever the order in which their tasks come.
            flights[2].see_through()
            await wait_all_tasks_blocked()
            flights[1].see_through()
            await wait_all_tasks_blocked()
        order = []
        while link.sent:
            order += first_bytes(link)
            link.settle(medium)
            await wait_all_tasks_blocked()
        assert order == [b"\1", b"\2", b"\3", b"\4"]
        assert all(flight.succeeded for flight in flights)
        assert by_task.value == 2 * L
        assert medium.data[: 2 * L] == pattern(4, 2 * L)
        assert namespace.quarantine.is_over


async def test_a_launched_write_waits_for_an_unaligned_one():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.write, 5, b"five")
        await wait_all_tasks_blocked()
        launching.write(namespace, nursery, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        assert sent(link) == [("READ", 0)]
        nursery.cancel_scope.cancel()


async def test_a_flush_goes_after_launched_writes_also_those_whose_task_has_not_come():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        launching.write(namespace, nursery, 0, pattern(1, L))
        second = launching.write(namespace, nursery, 0, pattern(2, L), prompt=False)
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert sent(link) == []
        second.see_through()
        await wait_all_tasks_blocked()
        assert sent(link) == [("WRITE", 0)]
        link.answer()
        await wait_all_tasks_blocked()
        assert sent(link) == [("FLUSH", 0)]
        link.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert not namespace.engine.dirty


# Ends other than success.


async def test_a_bad_status_is_an_error_and_gives_the_lbas_back():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, L))
        reading = launching.read(namespace, nursery, 9 * L, L)
        link.answer(status=s.WRITE_FAULT.with_dnr())
        link.answer(status=s.UNRECOVERED_READ_ERROR.with_dnr())
        await wait_all_tasks_blocked()
        for flight in (writing, reading):
            assert flight.concluded == [False]
            assert isinstance(flight.error, CommandError)
        assert "9+1" in namespace.last_error
        assert namespace.waits() == []
        assert namespace.quarantine.is_over
        # It may have left its LBAs as they were, or not.
        assert namespace.engine.dirty


@pytest.mark.parametrize("times", [1, MAX_IMMEDIATE_RETRIES, MAX_IMMEDIATE_RETRIES + 1])
async def test_a_bad_data_digest_is_tried_again_a_few_times(times):
    namespace = open_namespace()
    medium = Medium(64)
    medium.data[:L] = pattern(5, L)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        reading = launching.read(namespace, nursery, 0, L)
        for _ in range(times):
            link.answer(digest_error=True)
            await wait_all_tasks_blocked()
        if times > MAX_IMMEDIATE_RETRIES:
            assert isinstance(reading.error, DataDigestError)
            assert link.sent == []
        else:
            link.settle(medium)
            await wait_all_tasks_blocked()
            assert reading.data == pattern(5, L)


@pytest.mark.parametrize(
    ("status", "after_s"), [(s.TRANSIENT_TRANSPORT_ERROR, 0), (s.INTERNAL_ERROR, 0.1)]
)
async def test_some_statuses_call_for_another_try(autojump_clock, status: Status, after_s):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        writing = launching.write(namespace, nursery, 0, pattern(1, L))
        newer = launching.write(namespace, nursery, 0, pattern(2, L))
        began = trio.current_time()
        link.answer(status=status)
        await wait_all_tasks_blocked()
        await link.transmitted()
        assert trio.current_time() == pytest.approx(began + after_s)
        assert first_bytes(link) == [b"\1"], "what is newer goes on waiting"
        link.answer()
        await wait_all_tasks_blocked()
        assert writing.succeeded
        link.answer()
        await wait_all_tasks_blocked()
        assert newer.succeeded


@pytest.mark.parametrize("prompt", [True, False])
async def test_who_is_killed_goes_at_once_and_the_lbas_stay_held(prompt):
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        launch = namespace.launch_write(0, pattern(1, L), Opener(7, 0), fua=False)
        assert launch is not None
        killed = launching.Flight(launch, nursery, prompt)
        newer = launching.write(namespace, nursery, 0, pattern(2, L))
        await wait_all_tasks_blocked()
        (wait,) = [wait for wait in namespace.waits() if wait.request.opener == Opener(7, 0)]
        namespace.kill(wait.request)
        assert killed.concluded == [False]
        assert namespace.engine.ambiguous == [(0, 1)], "until its task has come"
        if not prompt:
            killed.see_through()
        await wait_all_tasks_blocked()
        assert isinstance(killed.error, KilledError)
        assert namespace.engine.ambiguous == []
        assert first_bytes(link) == [b"\1"]
        link.answer()
        await wait_all_tasks_blocked()
        assert first_bytes(link) == [b"\2"]
        link.answer()
        await wait_all_tasks_blocked()
        assert newer.succeeded
        assert killed.concluded == [False], "nobody is called back twice"


async def test_who_waits_in_line_can_be_killed():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        first, second, third = (
            launching.write(namespace, nursery, 0, pattern(value, L)) for value in (1, 2, 3)
        )
        await wait_all_tasks_blocked()
        namespace.kill(second.launch.request)
        await wait_all_tasks_blocked()
        assert isinstance(second.error, KilledError)
        link.answer()
        await wait_all_tasks_blocked()
        assert first_bytes(link) == [b"\3"]
        link.answer()
        await wait_all_tasks_blocked()
        assert first.succeeded
        assert third.succeeded


async def test_what_could_not_be_sent_leaves_nothing_behind(monkeypatch):
    namespace = open_namespace()

    def refuse(_capsule):
        raise MemoryError

    async with open_link() as link:
        namespace.engine.resume(link.path())
        monkeypatch.setattr(link.pairs[0], "transmit", refuse)
        with pytest.raises(MemoryError):
            namespace.launch_read(0, L, None)
        with pytest.raises(MemoryError):
            namespace.launch_write(0, pattern(1, L), None, fua=False)
        assert namespace.waits() == []
        # Nobody knows how much of it was sent.
        assert not namespace.quarantine.is_over
        link.lose(namespace)
        assert namespace.quarantine.is_over
