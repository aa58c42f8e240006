"""Ranges are held in the order of arrival, by one at a time wherever they overlap."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from nvmf_host.range_lock import Held, RangeLock

from .medium import begin

#: A range that touches more LBAs than this is kept apart from the others by the lock.
WIDE = 64 * 256


def test_neighbours_do_not_wait_for_each_other():
    lock = RangeLock()
    assert lock.enter(0, 8).blockers == 0
    assert lock.enter(8, 16).blockers == 0
    assert lock.enter(7, 9).blockers == 2


@pytest.mark.parametrize("start", [0, 255, 256, 16383, 1 << 60])
def test_the_last_lba_counts(start):
    lock = RangeLock()
    lock.enter(start, start + 1)
    assert lock.enter(start, start + 1).blockers == 1
    assert lock.enter(start + 1, start + 2).blockers == 0
    assert lock.enter(start, start + WIDE + 1).blockers == 3


def test_wide_and_narrow_ranges_see_each_other():
    lock = RangeLock()
    wide = lock.enter(0, 10 * WIDE)
    narrow = lock.enter(5 * WIDE, 5 * WIDE + 1)
    assert narrow.blockers == 1
    later = lock.enter(1, 9 * WIDE)
    assert later.blockers == 2
    lock.release(wide)
    assert (narrow.blockers, later.blockers) == (0, 1)
    lock.release(narrow)
    assert later.blockers == 0
    lock.release(later)
    assert len(lock) == 0


async def test_a_newcomer_does_not_overtake_one_that_waits():
    lock = RangeLock()
    first = lock.enter(0, 4)
    second = lock.enter(2, 8)
    third = lock.enter(6, 10)
    assert third.blockers == 1, "nobody holds 6 to 10, but somebody is in line for it"
    async with trio.open_nursery() as nursery:
        calls = [begin(nursery, lock.wait, held) for held in (third, second)]
        await wait_all_tasks_blocked()
        assert not any(call.done for call in calls)
        lock.release(first)
        await wait_all_tasks_blocked()
        assert [call.done for call in calls] == [False, True]
        lock.release(second)
        await wait_all_tasks_blocked()
        assert calls[0].done


async def test_a_cancelled_wait_gives_its_place_to_those_behind():
    lock = RangeLock()
    first = lock.enter(0, 4)
    second = lock.enter(0, 8)
    third = lock.enter(4, 8)
    async with trio.open_nursery() as nursery:
        waits = [begin(nursery, lock.wait, held) for held in (second, third)]
        await wait_all_tasks_blocked()
        waits[0].scope.cancel()
        await wait_all_tasks_blocked()
        assert waits[0].cancelled
        assert waits[1].done
        assert not waits[1].cancelled
    lock.release(first)
    lock.release(third)
    assert len(lock) == 0


def test_releasing_twice_is_releasing_once():
    lock = RangeLock()
    first, second = lock.enter(0, 4), lock.enter(0, 4)
    third = lock.enter(0, 4)
    lock.release(first)
    lock.release(first)
    assert (second.blockers, third.blockers) == (0, 1)


async def test_a_drain_waits_for_what_was_there_and_for_nothing_newer():
    lock = RangeLock()
    await lock.drain()
    first, second = lock.enter(0, 4), lock.enter(2, 4)
    async with trio.open_nursery() as nursery:
        drained = begin(nursery, lock.drain)
        given_up = begin(nursery, lock.drain)
        await wait_all_tasks_blocked()
        given_up.scope.cancel()
        newer = lock.enter(100, 200)
        lock.release(first)
        await wait_all_tasks_blocked()
        assert given_up.cancelled
        assert not drained.done
        lock.release(second)
        await wait_all_tasks_blocked()
        assert drained.done
    lock.release(newer)


STARTS = st.one_of(st.integers(0, 40), st.integers(240, 270), st.sampled_from([WIDE, 2 * WIDE]))
LENGTHS = st.one_of(st.integers(1, 20), st.sampled_from([256, 300, WIDE, WIDE + 1, 3 * WIDE]))


class RangeLockMachine(RuleBasedStateMachine):
    """Against the plain definition: who holds is who overlaps nobody older."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = RangeLock()
        self.line: list[tuple[Held, int, int]] = []
        self.granted: set[Held] = set()

    @rule(start=STARTS, length=LENGTHS)
    def enter(self, start: int, length: int) -> None:
        held = self.lock.enter(start, start + length)
        held.granted = lambda: self.granted.add(held)
        self.line.append((held, start, start + length))
        if not held.blockers:
            self.granted.add(held)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Of a holder, or of one who waits and is cancelled."""
        index = data.draw(st.integers(0, len(self.line) - 1))
        held, _, _ = self.line.pop(index)
        self.lock.release(held)
        self.granted.discard(held)

    @invariant()
    def holders_are_as_defined(self) -> None:
        expected = {
            held
            for index, (held, start, end) in enumerate(self.line)
            if not any(start < e and s < end for _, s, e in self.line[:index])
        }
        assert {held for held, _, _ in self.line if not held.blockers} == expected
        assert self.granted == expected
        assert len(self.lock) == len(self.line)

    def teardown(self) -> None:
        # Always the oldest holder: if that empties the line, nothing can deadlock.
        while self.line:
            held, _, _ = self.line.pop(0)
            assert held.blockers == 0
            self.lock.release(held)
        assert not self.lock._pieces
        assert not self.lock._wide


TestRangeLockMachine = RangeLockMachine.TestCase
TestRangeLockMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class QuarantineMachine(RuleBasedStateMachine):
    """Ranges that go on being held: who waits for them is stuck, and no barrier waits for either.

    Against the plain definition, made anew each time from a list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = RangeLock()
        self.line: list[tuple[Held, int, int]] = []
        #: Barriers that were not granted yet, and who held LBAs when each was made.
        self.barriers: list[tuple[Held, set[Held]]] = []
        self.granted: set[Held] = set()

    def stuck(self) -> list[bool]:
        """Of each in line: it waits for what is in quarantine, directly or through others."""
        found: list[bool] = []
        for index, (held, start, end) in enumerate(self.line):
            found.append(
                not held.quarantined
                and any(
                    start < e and s < end and (other.quarantined or found[older])
                    for older, (other, s, e) in enumerate(self.line[:index])
                )
            )
        return found

    def holders(self) -> list[Held]:
        return [held for held, _, _ in self.line if not held.blockers and not held.quarantined]

    @rule(start=STARTS, length=LENGTHS)
    def enter(self, start: int, length: int) -> None:
        held = self.lock.enter(start, start + length)
        self.line.append((held, start, start + length))

    @rule(start=STARTS, length=LENGTHS)
    def inherit(self, start: int, length: int) -> None:
        """In quarantine from its coming, whoever is there already."""
        self.enter(start, length)
        self.lock.quarantine(self.line[-1][0])

    @precondition(lambda self: self.holders())
    @rule(data=st.data())
    def quarantine(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.holders()))
        self.lock.quarantine(held)
        self.forget(held)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Of a holder, of one in quarantine, or of one who waits and is cancelled."""
        index = data.draw(st.integers(0, len(self.line) - 1))
        held, _, _ = self.line.pop(index)
        self.lock.release(held)
        self.forget(held)

    @rule()
    def barrier(self) -> None:
        barrier = self.lock.barrier()
        barrier.granted = lambda: self.granted.add(barrier)
        if not barrier.blockers:
            self.granted.add(barrier)
        self.barriers.append((barrier, set(self.holders())))

    def forget(self, held: Held) -> None:
        """It has an outcome: no barrier has to wait for it any more."""
        for _, held_then in self.barriers:
            held_then.discard(held)

    @invariant()
    def who_waits_for_what_is_in_quarantine_is_stuck(self) -> None:
        stuck = self.stuck()
        for index, (held, start, end) in enumerate(self.line):
            older = [other for other, s, e in self.line[:index] if start < e and s < end]
            assert held.blockers == len(older)
            if stuck[index]:
                assert held.stuck
            if not held.blockers:
                assert not held.stuck
        assert all(held in self.lock._barring for held in self.holders())
        assert not any(held.quarantined or held.stuck for held in self.lock._barring)

    @invariant()
    def a_barrier_waits_for_holders_and_for_nothing_in_quarantine(self) -> None:
        for barrier, held_then in self.barriers:
            assert not (barrier in self.granted and held_then)
            if not self.holders():
                assert barrier in self.granted

    def teardown(self) -> None:
        # Whoever holds without being in quarantine is done some day.
        while self.holders():
            held = self.holders()[0]
            self.line = [each for each in self.line if each[0] is not held]
            self.lock.release(held)
        assert all(barrier in self.granted for barrier, _ in self.barriers)
        assert not self.lock._barring
        while self.line:
            held, _, _ = self.line.pop(0)
            self.lock.release(held)
        assert not self.lock._pieces
        assert not self.lock._wide


TestQuarantineMachine = QuarantineMachine.TestCase
TestQuarantineMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(STARTS, LENGTHS, st.booleans()), max_size=12))
def test_every_waiter_gets_its_turn(ranges):
    async def main() -> None:
        lock = RangeLock()
        turns: list[int] = []

        async def hold(number: int, held: Held) -> None:
            await lock.wait(held)
            try:
                await trio.lowlevel.checkpoint()
                turns.append(number)
            finally:
                lock.release(held)

        async with trio.open_nursery() as nursery:
            calls = [
                (begin(nursery, hold, number, lock.enter(start, start + length)), cancelled)
                for number, (start, length, cancelled) in enumerate(ranges)
            ]
            for call, cancelled in calls:
                if cancelled:
                    call.scope.cancel()
            drained = begin(nursery, lock.drain)
            del drained
        for one, (start, length, _) in enumerate(ranges):
            for other, (start2, length2, _) in enumerate(ranges[one + 1 :], start=one + 1):
                overlap = start < start2 + length2 and start2 < start + length
                if overlap and {one, other} <= set(turns):
                    assert turns.index(one) < turns.index(other)

    trio.run(main)
