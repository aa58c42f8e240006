"""Changes that were answered with an error and are to be tried again: parts of them may be done.

Until such a change has an outcome, what it was to write is as good on the medium as what was there:
a comparison after a loss must take neither for a lost cache.
"""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nvmf_host.errors import KilledError
from nvmf_host.namespace import Namespace
from nvmf_host.verification import Difference, compare
from nvmf_transport.nvme import NvmOpcode
from nvmf_transport.status import INTERNAL_ERROR, NAMESPACE_NOT_READY

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
    delay = controller_data(crdt1=200)
    async with open_link() as old, open_link() as new:
        namespace.engine.resume(old.path(delay))
        write = begin(nursery, namespace.write, 0, pattern(1, L))
        await wait_all_tasks_blocked()
        old.answer(status=INTERNAL_ERROR)
        await trio.sleep(1)
        old.lose(namespace)
        await trio.sleep(600)
        namespace.engine.resume(new.path(delay))
        await wait_all_tasks_blocked()
        new.answer(status=NAMESPACE_NOT_READY)
        await trio.sleep(25)
        assert not write.done
        new.settle(medium)
        await wait_all_tasks_blocked()
        assert write.value == L
