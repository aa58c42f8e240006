"""Waiting, replaying and flushing, seen from the commands that a controller gets."""

import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.state import NamespaceState
from nvmf_transport import status as s
from nvmf_transport.errors import NamespaceGoneError

from .medium import (
    LBA_BYTES,
    begin,
    controller_data,
    lbas_of,
    open_link,
    open_namespace,
    pattern,
    sent,
    state_of,
)

S = NamespaceState
L = LBA_BYTES

# Waiting for the path, and the order of resuming.


async def test_io_waits_for_the_first_association_and_goes_in_order_of_arrival():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        for lba in (5, 3, 9):
            begin(nursery, namespace.read, lba * L, L)
            await wait_all_tasks_blocked()
        assert link.sent == []
        assert namespace.engine.waiting == 3
        namespace.engine.resume(link.path())
        assert sent(link) == [("READ", 5), ("READ", 3), ("READ", 9)]
        assert namespace.engine.waiting == 0
        nursery.cancel_scope.cancel()


async def test_a_held_namespace_sends_nothing_and_what_runs_goes_on():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        namespace.engine.hold("being identified")
        waiting = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        assert sent(link) == [("READ", 0)]
        link.answer()
        await wait_all_tasks_blocked()
        assert running.done
        assert not waiting.done
        assert link.sent == []
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert sent(link) == [("WRITE", 0)]
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_cid_is_not_sent_to_a_namespace_that_is_held():
    """By the time there is a CID, its NSID may be another namespace's."""
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        waiting = begin(nursery, namespace.write, 3 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        assert sent(link) == [("READ", 0)]
        namespace.engine.hold("being identified")
        link.answer()
        await wait_all_tasks_blocked()
        assert running.done
        assert link.sent == []
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert sent(link) == [("WRITE", 3)]
        link.answer()
        await wait_all_tasks_blocked()
        assert waiting.done
        # No copy of it was ever on its way.
        assert namespace.quarantine.total == 0


async def test_what_waits_for_a_cid_fails_with_a_namespace_that_goes():
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        waiting = begin(nursery, namespace.write, 3 * L, pattern(1, L))
        await wait_all_tasks_blocked()
        namespace.end("removed")
        link.answer()
        await wait_all_tasks_blocked()
        assert isinstance(waiting.error, NamespaceGoneError)
        assert link.sent == []


async def test_ambiguous_writes_go_first_in_order_of_arrival_then_all_that_waited():
    namespace = open_namespace()
    async with open_link(queues=2) as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        reading = begin(nursery, namespace.read, 50 * L, L)
        await wait_all_tasks_blocked()
        writes = []
        for lba in (30, 10, 20):
            writes.append(begin(nursery, namespace.write, lba * L, pattern(lba, L)))
            await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert sorted(namespace.engine.ambiguous) == [(10, 1), (20, 1), (30, 1)]
        later = begin(nursery, namespace.write, 40 * L, pattern(40, L))
        await wait_all_tasks_blocked()
        assert new.sent == []
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.REPLAYING
        assert sent(new) == [("WRITE", 30), ("WRITE", 10), ("WRITE", 20)]
        for expected in (2, 1):
            new.answer()
            await wait_all_tasks_blocked()
            assert len(new.sent) == expected, "everything else waits for the last of them"
        new.answer()
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.LIVE
        assert sent(new) == [("READ", 50), ("WRITE", 40)]
        assert all(write.value == L for write in writes)
        for _ in range(2):
            new.answer()
        await wait_all_tasks_blocked()
        assert reading.done
        assert later.value == L
        assert namespace.engine.ambiguous == []


async def test_a_write_that_was_never_sent_is_not_ambiguous():
    namespace = open_namespace()
    async with open_link(entries=2) as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        for lba in (1, 2):
            begin(nursery, namespace.write, lba * L, pattern(lba, L))
            await wait_all_tasks_blocked()
        assert sent(old) == [("WRITE", 1)]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [(1, 1)]
        namespace.engine.resume(new.path())
        assert sent(new) == [("WRITE", 1)]
        nursery.cancel_scope.cancel()


async def test_an_answered_attempt_does_not_make_an_unsent_one_ambiguous(autojump_clock):
    namespace = open_namespace()
    async with open_link(entries=2) as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        link.answer(status=s.INTERNAL_ERROR)
        await wait_all_tasks_blocked()
        begin(nursery, namespace.read, 9 * L, L)
        await trio.sleep(0.2)
        assert sent(link) == [("READ", 9)], "the write waits for the only CID"
        link.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == []
        nursery.cancel_scope.cancel()


async def test_a_write_stays_ambiguous_through_a_second_loss():
    namespace = open_namespace()
    async with (
        open_link() as old,
        open_link() as bad,
        open_link() as new,
        trio.open_nursery() as nursery,
    ):
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, L, pattern(1, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(bad.path())
        bad.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [(1, 1)]
        reading = begin(nursery, namespace.read, 5 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        assert sent(new) == [("WRITE", 1)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == L
        assert sent(new) == [("READ", 5)]
        new.answer()
        await wait_all_tasks_blocked()
        assert reading.done


async def test_a_request_is_cut_by_the_limits_of_the_path_it_is_sent_over():
    namespace = open_namespace()
    data = bytes(range(256)) * 2 * 8
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 3 * L, data)
        await wait_all_tasks_blocked()
        assert [lbas_of(capsule) for capsule in old.sent] == [[(3, 8)]]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(
            new.path(controller_data(mdts=0, oncs=0), noiob_lbas=4),
        )
        await wait_all_tasks_blocked()
        assert [lbas_of(capsule)[0] for capsule in new.sent] == [(3, 1), (4, 4), (8, 3)]
        joined = b"".join(bytes(capsule.data_out or b"") for capsule in new.sent)
        assert joined == data
        for _ in range(3):
            assert not write.done
            new.answer()
            await wait_all_tasks_blocked()
        assert write.value == len(data)


async def test_one_lost_part_makes_the_whole_write_go_again():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path(noiob_lbas=1))
        write = begin(nursery, namespace.write, 0, pattern(1, 3 * L))
        await wait_all_tasks_blocked()
        old.answer()
        old.answer()
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert not write.done
        namespace.engine.resume(new.path())
        assert [lbas_of(capsule)[0] for capsule in new.sent] == [(0, 3)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == 3 * L


# Flush.


async def test_a_flush_goes_after_all_writes_before_it_also_over_a_loss():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 9 * L, pattern(2, L))
        await wait_all_tasks_blocked()
        assert sent(old) == [("WRITE", 0), ("WRITE", 9)]
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert sent(new) == [("WRITE", 0), ("WRITE", 9)]
        new.answer()
        await wait_all_tasks_blocked()
        assert not flush.done
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.done
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert flush.error is None


async def test_a_flush_that_was_lost_goes_again():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == [], "it changes no data"
        namespace.engine.resume(new.path())
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done


async def test_without_a_volatile_cache_a_flush_sends_nothing_but_waits_for_a_path():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        assert not flush.done
        namespace.engine.resume(link.path(controller_data(vwc=0)))
        await wait_all_tasks_blocked()
        assert flush.done
        assert link.pairs[0].log == []


async def test_dirty_is_what_no_completed_flush_or_fua_covers():
    namespace = open_namespace()
    engine = namespace.engine
    async with open_link() as link, trio.open_nursery() as nursery:
        engine.resume(link.path())

        async def finished(*calls: object) -> None:
            del calls
            await wait_all_tasks_blocked()
            while link.sent:
                link.answer()
                await wait_all_tasks_blocked()

        await finished(begin(nursery, lambda: namespace.write(0, pattern(1, L), fua=True)))
        assert not engine.dirty
        await finished(begin(nursery, namespace.write, 0, pattern(1, L)))
        assert engine.dirty
        await finished(begin(nursery, lambda: namespace.write(0, pattern(1, L), fua=True)))
        assert engine.dirty, "a FUA write says nothing of those before it"
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        # Acknowledged while the Flush is under way: not covered by it.
        begin(nursery, namespace.write, 5 * L, pattern(2, L))
        await wait_all_tasks_blocked()
        link.answer(link.sent[1])
        await wait_all_tasks_blocked()
        link.answer()
        await wait_all_tasks_blocked()
        assert flush.done
        assert engine.dirty
        await finished(begin(nursery, namespace.flush))
        assert not engine.dirty
