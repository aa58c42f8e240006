"""Changes of the same LBAs: in line, cancelled, and unaligned ones that are lost."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.state import NamespaceState
from nvmf_transport import status as s
from nvmf_transport.errors import CommandError
from nvmf_transport.nvme import NvmOpcode

from .medium import (
    LBA_BYTES,
    Medium,
    begin,
    lbas_of,
    opcode,
    open_link,
    open_namespace,
    pattern,
    serve,
)

L = LBA_BYTES

# The range lock.


async def test_overlapping_writes_go_one_after_the_other_in_order_of_arrival():
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        calls = []
        for value, (offset, length) in enumerate(
            [(0, 2 * L), (L, 2 * L), (L + 5, 9), (2 * L, 4 * L), (9 * L, L)], start=1
        ):
            calls.append(begin(nursery, namespace.write, offset, pattern(value, length)))
            await wait_all_tasks_blocked()
        assert [lbas_of(capsule)[0] for capsule in link.sent] == [(0, 2), (9, 1)]
        nursery.start_soon(serve, link, medium)
        while not all(call.done for call in calls):
            await wait_all_tasks_blocked()
        expected = bytearray(64 * L)
        expected[0 : 2 * L] = pattern(1, 2 * L)
        expected[L : 3 * L] = pattern(2, 2 * L)
        expected[L + 5 : L + 14] = pattern(3, 9)
        expected[2 * L : 6 * L] = pattern(4, 4 * L)
        expected[9 * L : 10 * L] = pattern(5, L)
        assert medium.data == expected
        nursery.cancel_scope.cancel()


async def test_an_aligned_write_waits_for_the_read_of_an_unaligned_one():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.write, 5, b"five")
        await wait_all_tasks_blocked()
        begin(nursery, namespace.write, 0, pattern(1, L))
        begin(nursery, namespace.deallocate, [(0, 2)])
        begin(nursery, namespace.write_zeroes, 0, 1)
        await wait_all_tasks_blocked()
        assert [opcode(capsule) for capsule in link.sent] == [NvmOpcode.READ]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("offset", [0, 5])
async def test_a_cancelled_write_holds_its_lbas_until_its_commands_have_ended(offset):
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path(noiob_lbas=1))
        older = begin(nursery, namespace.write, offset, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        if offset:
            for capsule in link.sent:
                link.answer(capsule)
                await wait_all_tasks_blocked()
            while opcode(link.sent[0]) == NvmOpcode.READ:
                link.answer()
                await wait_all_tasks_blocked()
        commands = link.sent
        assert {opcode(capsule) for capsule in commands} == {NvmOpcode.WRITE}
        older.scope.cancel()
        await wait_all_tasks_blocked()
        assert older.cancelled
        newer = begin(nursery, namespace.write, 0, pattern(2, 3 * L))
        await wait_all_tasks_blocked()
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        for capsule in commands:
            assert link.sent[: len(commands)] == commands[commands.index(capsule) :]
            medium.execute(capsule)
            link.answer(capsule)
            await wait_all_tasks_blocked()
        assert {bytes(capsule.data_out or b"")[:1] for capsule in link.sent} == {b"\2"}
        nursery.start_soon(serve, link, medium)
        while not flush.done:
            await wait_all_tasks_blocked()
        assert newer.value == 3 * L
        assert medium.data[: 3 * L] == pattern(2, 3 * L)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_write_that_dies_with_its_association_lets_go():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        older = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        older.scope.cancel()
        await wait_all_tasks_blocked()
        begin(nursery, namespace.write, 0, pattern(2, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert [bytes(capsule.data_out or b"")[:1] for capsule in new.sent] == [b"\2"]
        nursery.cancel_scope.cancel()


async def test_a_write_cancelled_in_line_leaves_the_line():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        calls = []
        for value in (1, 2, 3):
            calls.append(begin(nursery, namespace.write, 0, pattern(value, L)))
            await wait_all_tasks_blocked()
        calls[1].scope.cancel()
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert [bytes(capsule.data_out or b"")[:1] for capsule in link.sent] == [b"\3"]
        link.answer()
        await wait_all_tasks_blocked()
        assert [call.cancelled for call in calls] == [False, True, False]
        assert calls[2].value == L


# Unaligned writes that are lost.


async def test_a_lost_unaligned_write_starts_again_at_its_read_before_anything_else():
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        medium.execute(old.sent[0])
        old.answer()
        await wait_all_tasks_blocked()
        assert opcode(old.sent[0]) == NvmOpcode.WRITE
        old.lose(namespace)
        await wait_all_tasks_blocked()
        reading = begin(nursery, namespace.read, 10 * L, L)
        await wait_all_tasks_blocked()
        # Another host has written meanwhile.
        medium.data[:L] = pattern(8, L)
        namespace.engine.resume(new.path())
        assert namespace.state is NamespaceState.REPLAYING
        assert [opcode(capsule) for capsule in new.sent] == [NvmOpcode.READ]
        assert lbas_of(new.sent[0]) == [(0, 1)]
        nursery.start_soon(serve, new, medium)
        while not (write.done and reading.done):
            await wait_all_tasks_blocked()
        sent = [lbas_of(capsule)[0][0] for capsule in new.pairs[0].log]
        assert sent == [0, 0, 10], "the other read waits for the replay"
        assert medium.data[:L] == pattern(8, 5) + b"new" + pattern(8, L - 8)
        nursery.cancel_scope.cancel()


async def test_an_unaligned_write_lost_at_its_read_just_waits():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == []
        namespace.engine.resume(new.path())
        assert [opcode(capsule) for capsule in new.sent] == [NvmOpcode.READ]
        nursery.cancel_scope.cancel()


async def test_a_replayed_unaligned_write_that_fails_at_its_read_frees_the_rest():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 5, b"new")
        await wait_all_tasks_blocked()
        old.answer()
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer(status=s.UNRECOVERED_READ_ERROR.with_dnr())
        await wait_all_tasks_blocked()
        assert isinstance(write.error, CommandError)
        assert namespace.state is NamespaceState.LIVE
        assert [opcode(capsule) for capsule in new.sent] == [NvmOpcode.WRITE]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("length", [3, L])
async def test_a_replayed_unaligned_write_may_have_to_read_twice(autojump_clock, length):
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 5, pattern(1, length))
        await wait_all_tasks_blocked()
        while opcode(old.sent[0]) == NvmOpcode.READ:
            old.answer()
            await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        new.answer(status=s.INTERNAL_ERROR)
        await trio.sleep(1)
        nursery.start_soon(serve, new, Medium(64))
        with trio.fail_after(1):
            while not write.done:
                await wait_all_tasks_blocked()
        assert write.value == length
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("losses", [1, 2, 3])
async def test_an_unaligned_write_survives_any_number_of_losses(losses):
    namespace = open_namespace()
    medium = Medium(64)
    medium.data[:] = pattern(9, len(medium.data))
    async with trio.open_nursery() as nursery:
        write = begin(nursery, namespace.write, L - 2, b"four")
        for loss in range(losses):
            async with open_link() as link:
                namespace.engine.resume(link.path())
                # Its two reads, then its write, which is executed every other time.
                for _ in range(2):
                    await wait_all_tasks_blocked()
                    medium.execute(link.sent[0])
                    link.answer()
                await wait_all_tasks_blocked()
                (ghost,) = link.lose(namespace)
                if loss % 2:
                    medium.execute(ghost)
                await wait_all_tasks_blocked()
                assert namespace.engine.ambiguous == [(0, 2)]
        async with open_link() as link:
            namespace.engine.resume(link.path())
            nursery.start_soon(serve, link, medium)
            while not write.done:
                await wait_all_tasks_blocked()
            assert write.value == 4
            nursery.cancel_scope.cancel()
    assert medium.data == pattern(9, L - 2) + b"four" + pattern(9, 63 * L - 2)
