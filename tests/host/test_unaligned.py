"""Unaligned writes whose reads and write meet different associations.

What was read on one association may be old on the next: another host may have written there while
this one was away.  A write that merges it would undo what that host was told is done.
"""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.policy import RETRY_LIMIT_S
from nvmf_host.state import NamespaceState
from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.status import INVALID_NAMESPACE, NAMESPACE_NOT_READY, Status

from .medium import LBA_BYTES, Link, Medium, begin, opcode, open_link, open_namespace, pattern

L = LBA_BYTES


async def execute_next(link: Link, medium: Medium, expected: NvmOpcode) -> None:
    """Executes and answers the only command there is, and lets the host go on."""
    (capsule,) = link.sent
    assert opcode(capsule) == expected
    medium.execute(capsule)
    link.answer(capsule)
    await wait_all_tasks_blocked()


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
