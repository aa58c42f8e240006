"""Changes that are launched among others that are not: they take effect in their order."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from . import launching
from .medium import LBA_BYTES, Medium, begin, open_link, open_namespace, pattern, serve

L = LBA_BYTES
SIZE = 64 * L
CALLS = st.tuples(st.booleans(), st.booleans(), st.integers(0, 7), st.integers(1, 4))


@settings(max_examples=50, deadline=None)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=24),
    lost_before=st.sets(st.integers(0, 23), max_size=2),
    seed=st.integers(0, 1 << 16),
)
def test_launched_or_not_changes_take_effect_in_the_order_of_their_arrival(
    calls, lost_before, seed
):
    trio.run(_call_all, calls, lost_before, random.Random(seed))


async def _call_all(calls, lost_before, randomness) -> None:
    namespace = open_namespace()
    medium, expected = Medium(64), bytearray(SIZE)
    outcomes = []
    async with (
        open_link(queues=2) as first,
        open_link(queues=2) as second,
        open_link(queues=2) as last,
        trio.open_nursery() as nursery,
    ):
        links = [first, second, last]

        def answer_some() -> None:
            for capsule in randomness.sample(links[0].sent, len(links[0].sent) // 2):
                medium.execute(capsule)
                links[0].answer(capsule)

        namespace.engine.resume(links[0].path(noiob_lbas=3))
        for value, (launched, writes, slba, nlb) in enumerate(calls):
            if value in lost_before:
                for ghost in links.pop(0).lose(namespace):
                    if randomness.random() < 0.5:
                        medium.execute(ghost)
                await wait_all_tasks_blocked()
                namespace.engine.resume(links[0].path(noiob_lbas=2))
            data, offset = pattern(value + 1, nlb * L), slba * L
            if writes:
                expected[offset : offset + nlb * L] = data
                launch = namespace.launch_write(offset, data, None, fua=False) if launched else None
                call: Callable[[], Awaitable[object]] = partial(namespace.write, offset, data)
            else:
                launch = namespace.launch_read(offset, nlb * L, None) if launched else None
                call = partial(namespace.read, offset, nlb * L)
            outcomes.append(
                begin(nursery, call)
                if launch is None
                else launching.Flight(launch, nursery, prompt=True)
            )
            await wait_all_tasks_blocked()
            answer_some()
        nursery.start_soon(serve, links[0], medium, randomness)
        with trio.fail_after(10):
            while not all(outcome.done for outcome in outcomes):
                await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [outcome.error for outcome in outcomes] == [None] * len(calls)
    assert medium.data == expected
    assert namespace.waits() == []
    assert namespace.quarantine.is_over
