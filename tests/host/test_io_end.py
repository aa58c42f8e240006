"""Requests that are cancelled, and the end of a namespace with what waits in it."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.io_engine import IoEngine
from nvmf_host.io_request import IoRequest, Kind
from nvmf_host.state import NamespaceState, PauseCause
from nvmf_transport.errors import LocalProtocolError, NamespaceGoneError

from .medium import (
    LBA_BYTES,
    begin,
    controller_data,
    open_link,
    open_namespace,
    pattern,
    sent,
    state_of,
)

S = NamespaceState
L = LBA_BYTES

# Cancelling.


async def test_a_cancelled_ambiguous_write_is_not_replayed_and_frees_the_rest():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 0, pattern(2, L))
        old.lose(namespace)
        await wait_all_tasks_blocked()
        write.scope.cancel()
        await wait_all_tasks_blocked()
        assert write.cancelled
        namespace.engine.resume(new.path())
        await wait_all_tasks_blocked()
        assert [bytes(capsule.data_out or b"")[:1] for capsule in new.sent] == [b"\2"]
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.value == L


async def test_a_replay_that_is_cancelled_under_way_lets_the_rest_go():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        newer = begin(nursery, namespace.write, 0, pattern(2, L))
        reading = begin(nursery, namespace.read, 9 * L, L)
        await wait_all_tasks_blocked()
        flush = begin(nursery, namespace.flush)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        write.scope.cancel()
        await wait_all_tasks_blocked()
        assert state_of(namespace) is S.LIVE
        assert sent(new) == [("WRITE", 0), ("READ", 9)], "newer and flush wait for its command"
        new.answer(new.sent[1])
        new.answer()
        await wait_all_tasks_blocked()
        assert reading.done
        assert [bytes(capsule.data_out or b"")[:1] for capsule in new.sent] == [b"\2"]
        new.answer()
        await wait_all_tasks_blocked()
        assert newer.done
        assert sent(new) == [("FLUSH", 0)]
        new.answer()
        await wait_all_tasks_blocked()
        assert flush.done


async def test_a_request_cancelled_while_it_waits_is_never_sent():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        for call in (
            begin(nursery, namespace.read, 0, L),
            begin(nursery, namespace.write, 0, pattern(1, L)),
            begin(nursery, namespace.write, 10, b"unaligned"),
            begin(nursery, namespace.flush),
        ):
            await wait_all_tasks_blocked()
            call.scope.cancel()
            await wait_all_tasks_blocked()
            assert call.cancelled
        assert namespace.engine.waiting == 0
        namespace.engine.resume(link.path())
        await wait_all_tasks_blocked()
        assert link.sent == []


# The end.


async def test_the_end_fails_what_waits_and_lets_what_runs_end():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        running = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        in_line = begin(nursery, namespace.write, 0, pattern(2, L))
        await wait_all_tasks_blocked()
        namespace.engine.hold("being identified")
        waiting = begin(nursery, namespace.read, 5 * L, L)
        await wait_all_tasks_blocked()
        namespace.engine.end("the namespace was removed")
        namespace.engine.end("again")
        await wait_all_tasks_blocked()
        assert isinstance(waiting.error, NamespaceGoneError)
        assert "was removed" in str(waiting.error)
        assert not running.done
        link.answer()
        await wait_all_tasks_blocked()
        assert running.value == L
        assert isinstance(in_line.error, NamespaceGoneError)
        late = begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        assert isinstance(late.error, NamespaceGoneError)
        namespace.engine.hold("connection lost")
        assert state_of(namespace) is S.GONE


async def test_failing_an_ambiguous_write_does_not_hide_that_it_is():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        write = begin(nursery, namespace.write, 7 * L, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        link.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.end("the controller was disconnected")
        await wait_all_tasks_blocked()
        assert isinstance(write.error, NamespaceGoneError)
        assert namespace.engine.ambiguous == [(7, 2)]


async def test_a_replay_that_ends_after_the_end_is_not_ambiguous_any_more():
    namespace = open_namespace()
    async with open_link() as old, open_link() as new, trio.open_nursery() as nursery:
        namespace.engine.resume(old.path())
        write = begin(nursery, namespace.write, 7 * L, pattern(1, 2 * L))
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path())
        namespace.engine.end("the controller was disconnected")
        assert namespace.engine.ambiguous == [(7, 2)]
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == 2 * L
        assert namespace.engine.ambiguous == []


async def test_a_paused_namespace_resumes_only_through_being_held():
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        begin(nursery, namespace.read, 0, L)
        await wait_all_tasks_blocked()
        namespace.engine.pause("another namespace", PauseCause.IDENTITY)
        assert namespace.last_error == "another namespace"
        with pytest.raises(LocalProtocolError):
            namespace.engine.resume(link.path())
        assert link.sent == []
        namespace.engine.hold("being identified")
        namespace.engine.resume(link.path())
        assert sent(link) == [("READ", 0)]
        nursery.cancel_scope.cancel()


async def test_a_queue_that_is_dead_unannounced_lets_others_run():
    """A bug elsewhere, which must not become a loop that never yields."""
    namespace = open_namespace()
    async with open_link() as link, trio.open_nursery() as nursery:
        namespace.engine.resume(link.path())
        for queue in link.queues:
            queue.kill()
        call = begin(nursery, namespace.read, 0, L)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        call.scope.cancel()
        await wait_all_tasks_blocked()
        assert call.cancelled


async def test_a_flush_without_a_cache_is_complete_as_it_starts():
    engine = IoEngine("nvme0ns1", lambda _reason: None)
    async with open_link() as link:
        engine.resume(link.path(controller_data(vwc=0)))
        assert await engine.perform(IoRequest(Kind.FLUSH, engine.next_order()), "done") == "done"
        assert not engine.dirty
