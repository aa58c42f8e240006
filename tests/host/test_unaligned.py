"""Unaligned writes that are retried, or whose reads and write meet different associations.

What was read may be old by then: another host may have written there.  A write that merges it
would undo what that host was told is done.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.io_path import IoPath
from nvmf_host.io_request import Opener
from nvmf_host.namespace import Namespace
from nvmf_host.policy import RETRY_LIMIT_S
from nvmf_host.state import NamespaceState
from nvmf_transport.errors import CommandError
from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.status import (
    INTERNAL_ERROR,
    INVALID_NAMESPACE,
    NAMESPACE_NOT_READY,
    TRANSIENT_TRANSPORT_ERROR,
    Status,
)

from .medium import (
    LBA_BYTES,
    Link,
    Medium,
    Outcome,
    begin,
    opcode,
    open_link,
    open_namespace,
    pattern,
)

L = LBA_BYTES
READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE


async def execute_next(link: Link, medium: Medium, expected: NvmOpcode) -> None:
    """Executes and answers the only command there is, and lets the host go on."""
    (capsule,) = link.sent
    assert opcode(capsule) == expected
    medium.execute(capsule)
    link.answer(capsule)
    await wait_all_tasks_blocked()


@attrs.frozen
class Writing:
    """A write that is not whole LBAs, begun over a live association."""

    namespace: Namespace
    medium: Medium
    link: Link
    write: Outcome

    async def next(self, *expected: NvmOpcode) -> None:
        """These commands come, one after the other, and succeed."""
        for each in expected:
            await execute_next(self.link, self.medium, each)


@asynccontextmanager
async def writing(nursery: trio.Nursery, offset: int, data: bytes) -> AsyncIterator[Writing]:
    """What most of the tests begin with: the first read has been sent."""
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, offset, data)
        await wait_all_tasks_blocked()
        yield Writing(namespace, Medium(64), link, write)


async def test_an_edge_that_was_read_on_a_lost_association_is_read_again(nursery):
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, L - 2, b"four")
        await wait_all_tasks_blocked()
        await execute_next(old, medium, NvmOpcode.READ)
        # The read of the other edge is lost: nothing was written, nothing is ambiguous.
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == []
        medium.data[: 2 * L] = pattern(8, 2 * L)
        namespace.engine.resume(new.path())
        await execute_next(new, medium, NvmOpcode.READ)
        # The first edge is of the old association, so both are read once more.
        for expected in (NvmOpcode.READ, NvmOpcode.READ, NvmOpcode.WRITE):
            await execute_next(new, medium, expected)
        assert write.value == 4
    assert medium.data[: 2 * L] == pattern(8, L - 2) + b"four" + pattern(8, L - 2)


async def test_what_was_read_before_the_namespace_was_held_is_read_again(nursery):
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        # As where the controller reports a change: what is outstanding goes on.
        namespace.engine.hold("being identified")
        await execute_next(old, medium, NvmOpcode.READ)
        assert old.sent == []
        old.lose(namespace)
        await wait_all_tasks_blocked()
        medium.data[:L] = pattern(8, L)
        namespace.engine.resume(new.path())
        assert namespace.state is NamespaceState.LIVE
        for expected in (NvmOpcode.READ, NvmOpcode.WRITE):
            await execute_next(new, medium, expected)
        assert write.value == 3
    assert medium.data[:L] == pattern(8, 5) + b"new" + pattern(8, L - 8)


@pytest.mark.parametrize("ambiguous", [False, True])
@pytest.mark.parametrize("status", [NAMESPACE_NOT_READY, INVALID_NAMESPACE])
async def test_a_refused_write_whose_retry_meets_another_association_is_merged_anew(
    nursery, autojump_clock, status: Status, ambiguous: bool
):
    """Nothing was outstanding when the association went, so nothing of it was lost then."""
    del autojump_clock
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as first, open_link() as old, open_link() as new:
        namespace.engine.resume(first.path())
        write = begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        if ambiguous:
            await execute_next(first, medium, NvmOpcode.READ)
        first.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(old.path())
        await execute_next(old, medium, NvmOpcode.READ)
        (capsule,) = old.sent
        assert opcode(capsule) == NvmOpcode.WRITE
        old.answer(capsule, status)
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        medium.data[:L] = pattern(8, L)
        namespace.engine.resume(new.path())
        # Until a retry is due that waits for its time.
        await trio.sleep(RETRY_LIMIT_S / 2)
        for expected in (NvmOpcode.READ, NvmOpcode.WRITE):
            await execute_next(new, medium, expected)
        assert write.value == 3
        assert namespace.engine.ambiguous == []
    assert medium.data[:L] == pattern(8, 5) + b"new" + pattern(8, L - 8)


async def refused_at(link: Link, medium: Medium, status: Status) -> list[float]:
    """Executes reads, answers writes so, until nothing comes; returns when the writes came."""
    times = []
    start = trio.current_time()
    with trio.move_on_after(10000):
        while True:
            await link.transmitted()
            (capsule,) = link.sent
            if opcode(capsule) is NvmOpcode.READ:
                medium.execute(capsule)
                link.answer(capsule)
            else:
                times.append(round(trio.current_time() - start, 6))
                link.answer(capsule, status)
            await wait_all_tasks_blocked()
    return times


@pytest.mark.parametrize(
    ("status", "times"),
    [
        (INTERNAL_ERROR, [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3, 26.3, 30.0]),
        (TRANSIENT_TRANSPORT_ERROR, [0, 0, 0, 0]),
        (INTERNAL_ERROR.with_dnr(), [0]),
    ],
    ids=str,
)
async def test_it_is_retried_for_as_long_as_any_other(nursery, autojump_clock, status, times):
    async with writing(nursery, 5, b"new") as it:
        assert await refused_at(it.link, it.medium, status) == pytest.approx(times)
        assert isinstance(it.write.error, CommandError)
        assert it.write.error.status == status


async def test_being_identified_again_and_again_is_no_reason_to_go_on(nursery, autojump_clock):
    """The association, and with it the limit of 30 s, is the same."""
    async with writing(nursery, 5, b"new") as it:

        async def identify() -> None:
            while True:
                await trio.sleep(4)
                it.namespace.engine.hold("being identified")
                await trio.sleep(0.5)
                it.namespace.engine.resume(it.link.path())

        nursery.start_soon(identify)
        times = await refused_at(it.link, it.medium, INTERNAL_ERROR)
        assert times[-1] <= RETRY_LIMIT_S + 1
        assert isinstance(it.write.error, CommandError)
        nursery.cancel_scope.cancel()


async def test_a_namespace_that_is_invalid_to_it_alone_is_given_up_on(nursery):
    asked: list[str] = []
    namespace = open_namespace(on_recheck=lambda _namespace, reason: asked.append(reason))
    medium = Medium(64)
    async with open_link() as link:
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        for rechecks in range(4):
            assert len(asked) == rechecks
            await execute_next(link, medium, NvmOpcode.READ)
            link.answer(status=INVALID_NAMESPACE.with_dnr())
            await wait_all_tasks_blocked()
            if rechecks < 3:
                assert namespace.state is NamespaceState.HELD
                namespace.engine.resume(link.path())
        assert isinstance(write.error, CommandError)
        assert len(asked) == 3
        assert namespace.state is NamespaceState.LIVE


async def test_it_is_merged_anew_before_each_retry(nursery, autojump_clock):
    del autojump_clock
    async with writing(nursery, L - 2, b"four") as it:
        for value in (7, 8, 9):
            await it.next(READ, READ)
            it.link.answer(status=NAMESPACE_NOT_READY)
            await wait_all_tasks_blocked()
            it.medium.data[: 2 * L] = pattern(value, 2 * L)
            await trio.sleep(5)
        await it.next(READ, READ, WRITE)
        assert it.write.value == 4
    assert it.medium.data[: 2 * L] == pattern(9, L - 2) + b"four" + pattern(9, L - 2)


async def test_whoever_is_killed_before_a_retry_waits_for_it_no_more(nursery, autojump_clock):
    """While its edges are read again, and in between; its LBAs are free then."""
    del autojump_clock
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link:
        namespace.engine.resume(link.path())
        for reading in (True, False):
            since = trio.current_time()
            write = begin(nursery, namespace.write, 5, b"new")
            await trio.sleep(0.5)
            await execute_next(link, medium, NvmOpcode.READ)
            link.answer(status=NAMESPACE_NOT_READY)
            await trio.sleep(0.2 if reading else 0.05)
            assert len(link.sent) == reading
            (wait,) = namespace.waits()
            assert wait.sent == reading
            assert wait.request.since == since
            assert reading or "Namespace Not Ready" in wait.reason
            namespace.kill(wait.request)
            await wait_all_tasks_blocked()
            assert isinstance(write.error, KilledError)
            link.settle(medium)
            await wait_all_tasks_blocked()
        again = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.settle(medium)
        await wait_all_tasks_blocked()
        assert again.value == L


async def test_one_that_was_lost_is_listed_once_and_can_be_killed(nursery):
    """While it waits for its first read of the next attempt."""
    namespace = open_namespace()
    medium = Medium(64)
    opener = Opener(pid=1, uid=2)
    async with open_link() as link:
        namespace.engine.resume(link.path())
        write = begin(nursery, partial(namespace.write, opener=opener), 5, b"new")
        await wait_all_tasks_blocked()
        since = trio.current_time()
        await trio.sleep(0.01)
        await execute_next(link, medium, NvmOpcode.READ)
        assert link.sent[0].data_out is not None
        assert memoryview(link.sent[0].data_out).readonly
        assert [wait.request.opener for wait in namespace.waits()] == [opener]
        link.lose(namespace)
        await wait_all_tasks_blocked()
        (wait,) = namespace.waits()
        assert wait.request.opener == opener
        assert wait.request.since <= since
        assert wait.reason == namespace.engine.reason
        assert namespace.engine.ambiguous == [(0, 1)]
        namespace.kill(wait.request)
        await wait_all_tasks_blocked()
        assert isinstance(write.error, KilledError)
        assert namespace.waits() == []
        assert namespace.engine.ambiguous == []


async def test_an_edge_is_read_again_where_the_other_took_its_time(nursery, autojump_clock):
    del autojump_clock
    async with writing(nursery, L - 2, b"four") as it:
        await it.next(READ)
        it.link.answer(status=NAMESPACE_NOT_READY)
        await wait_all_tasks_blocked()
        it.medium.data[: 2 * L] = pattern(8, 2 * L)
        await trio.sleep(1)
        # The second edge, then both.
        await it.next(READ, READ, READ, WRITE)
        assert it.write.value == 4
    assert it.medium.data[: 2 * L] == pattern(8, L - 2) + b"four" + pattern(8, L - 2)


@pytest.mark.parametrize("status", [INTERNAL_ERROR, INVALID_NAMESPACE], ids=str)
async def test_its_reads_and_its_write_have_one_limit(nursery, autojump_clock, status: Status):
    """Each of them succeeds in the end, and is then refused once more."""
    del autojump_clock
    link_path: list[Callable[[], IoPath]] = []
    namespace = open_namespace(
        on_recheck=lambda namespace, _reason: namespace.engine.resume(link_path[0]())
    )
    medium = Medium(64)
    async with open_link() as link:
        link_path.append(link.path)
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, L - 2, b"four")
        start = trio.current_time()
        turn = 0
        while not write.done:
            await link.transmitted()
            turn += 1
            assert turn < 100, "for ever"
            (capsule,) = link.sent
            if opcode(capsule) is NvmOpcode.WRITE or turn % 2:
                link.answer(status=status)
            else:
                medium.execute(capsule)
                link.answer()
            await trio.sleep(6)
        assert isinstance(write.error, CommandError)
        assert write.error.status == status
        assert trio.current_time() - start <= RETRY_LIMIT_S + 12
