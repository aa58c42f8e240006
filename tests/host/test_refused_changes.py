"""Changes that were answered with an error and are to be tried again: parts of them may be done.

Until such a change has an outcome, what it was to write is as good on the medium as what was there:
a comparison after a loss must take neither for a lost cache.
"""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.namespace import Namespace
from nvmf_host.state import NamespaceState
from nvmf_host.verification import Difference, compare
from nvmf_transport.errors import NamespaceGoneError
from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.status import (
    INTERNAL_ERROR,
    INVALID_NAMESPACE,
    NAMESPACE_NOT_READY,
    TRANSIENT_TRANSPORT_ERROR,
    Status,
)

from . import launching
from .medium import (
    LBA_BYTES,
    Link,
    Medium,
    begin,
    controller_data,
    opcode,
    open_link,
    open_namespace,
    pattern,
    sent,
    serve,
)

L = LBA_BYTES
#: Asks for the first of the controller's delays, which is 20 s here.
LATER = attrs.evolve(INTERNAL_ERROR, crd=1)
DELAYS = controller_data(crdt1=200)


async def differences(namespace: Namespace, link: Link, medium: Medium) -> list[Difference]:
    """What a comparison with the medium finds."""
    engine = namespace.engine
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, link, medium)
        found = await compare(link.path(), engine.log, engine.unknown, L)
        nursery.cancel_scope.cancel()
    return found


async def write_well(
    namespace: Namespace, link: Link, medium: Medium, offset: int, data: bytes
) -> None:
    """A write that succeeds at once."""
    async with trio.open_nursery() as nursery:
        begin(nursery, namespace.write, offset, data)
        await wait_all_tasks_blocked()
        link.settle(medium)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("launched", [False, True])
async def test_one_that_was_done_all_the_same_is_no_lost_cache(
    nursery, autojump_clock, launched: bool, done: bool
):
    del autojump_clock
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path())
        await write_well(namespace, old, medium, 0, pattern(1, L))
        if launched:
            launching.write(namespace, nursery, 0, pattern(2, L))
        else:
            begin(nursery, namespace.write, 0, pattern(2, L))
            await wait_all_tasks_blocked()
        if done:
            medium.execute(old.sent[0])
        old.answer(status=INTERNAL_ERROR)
        await wait_all_tasks_blocked()
        assert namespace.has_waiting_changes
        old.lose(namespace)
        await wait_all_tasks_blocked()
        assert namespace.engine.ambiguous == []
        assert await differences(namespace, new, medium) == []
        # What neither of the two has left is a loss.
        medium.data[:L] = pattern(3, L)
        assert [each.slba for each in await differences(namespace, new, medium)] == [0]
        medium.data[:L] = pattern(1, L)
        # It has an outcome, and then nothing else will do.
        namespace.engine.resume(new.path())
        await trio.sleep(1)
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert namespace.engine.unknown == []
        assert not namespace.has_waiting_changes
        assert await differences(namespace, new, medium) == []
        medium.data[:L] = pattern(1, L)
        assert [each.slba for each in await differences(namespace, new, medium)] == [0]


async def test_one_that_fails_in_the_end_is_no_lost_cache(nursery, autojump_clock):
    del autojump_clock
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as link:
        namespace.engine.resume(link.path())
        await write_well(namespace, link, medium, 0, pattern(1, L))
        write = begin(nursery, namespace.write, 0, pattern(2, L))
        await wait_all_tasks_blocked()
        medium.execute(link.sent[0])
        link.answer(status=INTERNAL_ERROR)
        await trio.sleep(0.05)
        namespace.kill(namespace.waits()[0].request)
        await wait_all_tasks_blocked()
        assert isinstance(write.error, KilledError)
        assert namespace.engine.unknown == []
        assert not namespace.has_waiting_changes
        assert await differences(namespace, link, medium) == []


async def test_an_unaligned_one_that_is_given_up_while_it_reads_again_is_no_lost_cache(nursery):
    """One part of it was done, the other refused."""
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path(noiob_lbas=1))
        async with trio.open_nursery() as writing:
            begin(writing, namespace.write, 0, pattern(1, 2 * L))
            await wait_all_tasks_blocked()
            old.settle(medium)
        write = begin(nursery, namespace.write, 5, pattern(2, 2 * L - 5))
        await wait_all_tasks_blocked()
        assert sent(old) == [("READ", 0)]
        old.settle(medium)
        await wait_all_tasks_blocked()
        first, second = old.sent
        assert opcode(first) == opcode(second) == NvmOpcode.WRITE
        medium.execute(first)
        old.answer(first)
        old.answer(second, NAMESPACE_NOT_READY)
        await wait_all_tasks_blocked()
        old.lose(namespace)
        await wait_all_tasks_blocked()
        namespace.engine.resume(new.path(noiob_lbas=1))
        await trio.sleep(0.2)
        assert sent(new) == [("READ", 0)]
        namespace.kill(namespace.waits()[0].request)
        await wait_all_tasks_blocked()
        assert isinstance(write.error, KilledError)
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert await differences(namespace, new, medium) == []


async def test_the_time_for_retries_begins_anew_with_an_association(nursery, autojump_clock):
    """Also where it went while the retry waited for its time, with nothing outstanding."""
    del autojump_clock
    namespace = open_namespace()
    medium = Medium(64)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path(DELAYS))
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        old.answer(status=LATER)
        await trio.sleep(1)
        assert old.sent == []
        old.lose(namespace)
        await trio.sleep(600)
        namespace.engine.resume(new.path(DELAYS))
        await wait_all_tasks_blocked()
        new.answer(status=NAMESPACE_NOT_READY)
        await trio.sleep(25)
        assert not write.done
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert write.value == L


@pytest.mark.parametrize("offset", [0, 5], ids=["aligned", "unaligned"])
async def test_the_replay_limit_does_not_overlook_what_waits_for_its_time(
    nursery, autojump_clock, offset: int
):
    del autojump_clock
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path(DELAYS))
        begin(nursery, namespace.write, offset, pattern(1, L))
        await wait_all_tasks_blocked()
        # Of an unaligned one it is the first read.
        link.answer(status=LATER)
        await trio.sleep(1)
        link.lose(namespace)
        await trio.sleep(10)
        assert namespace.has_waiting_changes
        nursery.cancel_scope.cancel()


async def test_one_that_is_killed_as_its_time_comes_is_not_sent(nursery, autojump_clock):
    """Whichever of the two comes first in the turn of the loop."""
    del autojump_clock
    killed = 0
    for _ in range(20):
        namespace = open_namespace()
        async with open_link() as link:
            namespace.engine.resume(link.path(DELAYS))
            write = begin(nursery, namespace.write, 0, pattern(1, L))
            await wait_all_tasks_blocked()
            link.answer(status=LATER)
            due = trio.current_time() + 20
            await wait_all_tasks_blocked()
            (wait,) = namespace.waits()
            await trio.sleep_until(due)
            sent_before = len(link.pairs[0].log)
            if not link.sent:
                namespace.kill(wait.request)
                await wait_all_tasks_blocked()
                assert len(link.pairs[0].log) == sent_before
                assert isinstance(write.error, KilledError)
                killed += 1
            else:
                link.answer()
                await wait_all_tasks_blocked()
    assert killed, "it was always sent before"


async def test_one_that_is_refused_after_the_end_does_not_wait_for_its_time(
    nursery, autojump_clock
):
    del autojump_clock
    namespace = open_namespace()
    async with open_link() as link:
        namespace.engine.resume(link.path(DELAYS))
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        namespace.engine.end("removed")
        link.answer(status=LATER)
        await wait_all_tasks_blocked()
        assert isinstance(write.error, NamespaceGoneError)


@pytest.mark.parametrize("status", [TRANSIENT_TRANSPORT_ERROR, INVALID_NAMESPACE], ids=str)
async def test_tries_on_an_association_that_is_over_do_not_count(nursery, status: Status):
    namespace = open_namespace()
    async with open_link() as old, open_link() as new:
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        for link in (old, new):
            for _ in range(3):
                if namespace.state is NamespaceState.HELD:
                    namespace.engine.resume(link.path())
                link.answer(status=status)
                await wait_all_tasks_blocked()
            if link is old:
                link.lose(namespace)
                await wait_all_tasks_blocked()
        if namespace.state is NamespaceState.HELD:
            namespace.engine.resume(new.path())
        assert not write.done
        new.answer()
        await wait_all_tasks_blocked()
        assert write.value == L
