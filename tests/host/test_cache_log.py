"""What a medium may read as, after writes that no completed Flush covers: against a plain model."""

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmf_host.cache_log import MAX_BYTES, MAX_ENTRIES, CacheLog, Effect, Written

LBAS, LBA = 12, 4
SURE, PERHAPS, ANYTHING = Effect.SURE, Effect.PERHAPS, Effect.ANYTHING
VALUES = range(4)


def written(slba: int, nlb: int, value: int, effect: Effect = SURE) -> Written:
    """A change to LBAs that all have `value` then; 0 is written as zeroes."""
    data = memoryview(bytes([value]) * (nlb * LBA)) if value else None
    return Written(slba, nlb, data, effect)


@attrs.define
class Model:
    """Per LBA what it may read as, None for anything; made again from the start each time."""

    changes: list[Written] = attrs.field(factory=list)

    def admits(self, unknown: list[Written], lba: int, value: int) -> bool:
        admitted: set[int] | None = None
        for change in [*self.changes, *unknown]:
            if not change.slba <= lba < change.slba + change.nlb:
                continue
            new = change.data[(lba - change.slba) * LBA] if change.data is not None else 0
            if change.effect is ANYTHING:
                admitted = None
            elif change.effect is SURE:
                admitted = {new}
            elif admitted is not None:
                admitted.add(new)
        return admitted is None or value in admitted


@st.composite
def _changes(draw: st.DrawFn, effects: list[Effect]) -> Written:
    slba = draw(st.integers(0, LBAS - 1))
    nlb = draw(st.integers(1, LBAS - slba))
    return written(slba, nlb, draw(st.sampled_from(VALUES)), draw(st.sampled_from(effects)))


STEPS = st.lists(
    st.one_of(_changes([SURE, SURE, PERHAPS, ANYTHING]), st.sampled_from(["mark", "flush"])),
    max_size=20,
)


def admits(log: CacheLog, unknown: list[Written], lba: int, value: int) -> bool:
    """As the comparison asks."""
    found = memoryview(bytes([value]) * LBA)
    for one in log.expected():
        if one.slba <= lba < one.slba + one.nlb:
            at = (lba - one.slba) * LBA
            wanted = bytes(LBA) if one.data is None else one.data[at : at + LBA]
            return found == wanted or log.admits(log.doubts(unknown, lba, 1), lba, found)
    return True


@given(STEPS, st.lists(_changes([PERHAPS, ANYTHING]), max_size=3))
def test_any_history_admits_what_the_model_admits(steps, unknown):
    log, model = CacheLog(LBA), Model()
    mark, marked = log.mark(), 0
    for step in steps:
        if step == "mark":
            mark, marked = log.mark(), len(model.changes)
        elif step == "flush":
            # The Flush that was sent at the mark; then it is as if another one was sent then.
            log.flushed(mark)
            del model.changes[:marked]
            marked = 0
        else:
            log.add(step)
            model.changes.append(step)

    for lba in range(LBAS):
        for value in VALUES:
            assert admits(log, unknown, lba, value) == model.admits(unknown, lba, value)
    expected = log.expected()
    assert all(one.slba + one.nlb <= two.slba for one, two in pairwise(expected))
    assert log.held_bytes == sum(len(one.data) for one in model.changes if one.data is not None)
    assert len(log) == len(model.changes)


@given(st.lists(_changes([SURE]), min_size=1, max_size=20))
def test_what_is_expected_is_the_newest_of_each_lba(changes):
    log, medium, touched = CacheLog(LBA), bytearray(LBAS * LBA), set()
    for change in changes:
        log.add(change)
        there = slice(change.slba * LBA, (change.slba + change.nlb) * LBA)
        medium[there] = change.data if change.data is not None else bytes(change.nlb * LBA)
        touched |= set(range(change.slba, change.slba + change.nlb))

    assert {lba for one in log.expected() for lba in range(one.slba, one.slba + one.nlb)} == touched
    for one in log.expected():
        data = one.data if one.data is not None else bytes(one.nlb * LBA)
        assert bytes(data) == medium[one.slba * LBA : (one.slba + one.nlb) * LBA]


def test_a_flush_covers_what_was_there_when_it_was_sent_and_nothing_twice():
    log = CacheLog(LBA)
    log.add(written(0, 1, 1))
    first = log.mark()
    log.add(written(1, 1, 2))
    second = log.mark()
    log.flushed(second)
    assert len(log) == 0
    log.add(written(2, 1, 3))
    # One that was sent earlier and took longer says nothing of what came later.
    log.flushed(first)
    log.flushed(second)
    assert [one.slba for one in log.expected()] == [2]
    log.clear()
    assert (len(log), log.held_bytes) == (0, 0)


def test_only_what_can_change_is_copied():
    log = CacheLog(LBA)
    constant, reused = b"a" * LBA, bytearray(b"b" * LBA)
    log.add(Written(0, 1, memoryview(constant)))
    log.add(Written(1, 1, memoryview(reused)))
    reused[:] = b"c" * LBA
    one, two = log.expected()
    assert one.data is not None
    assert one.data.obj is constant
    assert two.data is not None
    assert bytes(two.data) == b"b" * LBA


@pytest.mark.parametrize("data", [True, False])
def test_it_is_bounded_in_bytes_and_in_entries(data):
    log = CacheLog(512)
    piece = memoryview(bytes(1 << 20)) if data else None
    for _ in range(MAX_BYTES >> 20 if data else MAX_ENTRIES):
        assert not log.is_full
        log.add(Written(0, 2048, piece))
    assert not log.is_full
    log.add(Written(0, 2048, piece))
    assert log.is_full
    log.clear()
    assert not log.is_full


def test_a_full_log_of_scattered_writes_is_put_in_order_at_once():
    """As many small writes as it holds, none beside another."""
    log = CacheLog(512)
    for number in range(MAX_ENTRIES):
        log.add(Written(number * 7919 % 16411 * 16, 8))
    assert len(log.expected()) == MAX_ENTRIES
