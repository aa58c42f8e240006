"""The oracle is right about histories that are known to be right or wrong."""

import itertools
import random

import pytest

from .history import NEVER, History, content, values_of
from .oracle import find_fault, register_fault
from .plan import Op, OpKind

READ, WRITE, FLUSH = OpKind.READ, OpKind.WRITE, OpKind.FLUSH
DEALLOCATE = OpKind.DEALLOCATE


def one_cell(*calls, losses=()):
    """A history of one cell: (kind, value read, began, ended) or with a FUA flag."""
    history = History()
    for kind, value, began, ended, *fua in calls:
        record = history.invoke(Op(kind, 0, 0, 1, fua=bool(fua and fua[0])))
        record.invoked, record.returned = began, ended
        if kind is READ:
            record.values = [value]
    history.losses = list(losses)
    return history


def test_a_value_that_comes_back_is_found():
    history = one_cell((WRITE, 0, 1, 2), (WRITE, 0, 3, 4), (READ, 2, 5, 6), (READ, 1, 7, 8))

    assert "came back" in (find_fault(history, losses_admitted=True) or "")


def test_an_acknowledged_write_that_is_gone_is_found():
    history = one_cell((WRITE, 0, 1, 2), (WRITE, 0, 3, 4), (READ, 1, 5, 6))

    assert find_fault(history, losses_admitted=True) is not None


def test_a_write_that_nobody_acknowledged_may_happen_late_or_never():
    late = one_cell((WRITE, 0, 1, NEVER), (WRITE, 0, 3, 4), (READ, 2, 5, 6), (READ, 1, 7, 8))
    never = one_cell((WRITE, 0, 1, NEVER), (WRITE, 0, 3, 4), (READ, 2, 5, 6))

    assert find_fault(late, losses_admitted=True) is None
    assert find_fault(never, losses_admitted=True) is None


def test_it_may_not_happen_after_a_newer_one_that_began_when_its_caller_had_gone():
    calls = (WRITE, 0, 1, NEVER), (WRITE, 0, 4, 5), (READ, 2, 6, 7), (READ, 1, 8, 9)
    went_before, went_after = one_cell(*calls), one_cell(*calls)
    went_before.records[0].left = 3
    went_after.records[0].left = 4.5
    in_time = one_cell((WRITE, 0, 1, NEVER), (READ, 1, 4, 5), (WRITE, 0, 6, 7), (READ, 3, 8, 9))
    in_time.records[0].left = 3

    assert "came back" in (find_fault(went_before, losses_admitted=True) or "")
    assert find_fault(went_after, losses_admitted=True) is None
    assert find_fault(in_time, losses_admitted=True) is None


def test_it_may_not_happen_twice():
    history = one_cell(
        (WRITE, 0, 1, NEVER), (READ, 1, 3, 4), (WRITE, 0, 5, 6), (READ, 3, 7, 8), (READ, 1, 9, 10)
    )

    assert find_fault(history, losses_admitted=True) is not None


def test_what_was_not_flushed_may_be_lost_with_the_cache_where_nobody_tells():
    lost = ((WRITE, 0, 1, 2), (READ, 0, 5, 6))

    assert find_fault(one_cell(*lost, losses=[3]), losses_admitted=False) is None
    assert find_fault(one_cell(*lost, losses=[3]), losses_admitted=True) is not None
    assert find_fault(one_cell(*lost), losses_admitted=False) is not None


@pytest.mark.parametrize(
    "calls",
    [
        ((WRITE, 0, 1, 2, True), (READ, 0, 9, 10)),
        ((WRITE, 0, 1, 2), (FLUSH, 0, 3, 4), (READ, 0, 9, 10)),
        ((WRITE, 0, 1, 2), (READ, 1, 9, 10), (READ, 0, 11, 12)),
    ],
    ids=["FUA", "flushed", "once back, always back"],
)
def test_what_is_durable_may_not_be_lost(calls):
    assert find_fault(one_cell(*calls, losses=[5]), losses_admitted=False) is not None


def test_nothing_is_promised_of_what_was_perhaps_deallocated_when_the_cache_is_lost():
    lost = ((WRITE, 0, 1, 2), (DEALLOCATE, 0, 3, NEVER), (READ, 0, 9, 10))

    assert find_fault(one_cell(*lost, losses=[5]), losses_admitted=True) is None
    assert find_fault(one_cell(*lost), losses_admitted=True) is not None


def test_cells_say_who_wrote_them():
    data = content(1, 7, 3, 2)

    assert values_of(1, data, 3) == [7, 7]
    assert values_of(1, data, 4)[0] < -1
    assert values_of(2, data, 3)[0] < -1
    assert values_of(1, data[:200] + bytes(56), 3)[1] < -1


def _possible(writes, reads):
    """By trying every order."""
    for count in range(len(writes) + 1):
        for chosen in itertools.combinations(writes, count):
            if any(write[2] != NEVER and write not in chosen for write in writes):
                continue
            events = [("w", *w) for w in chosen] + [("r", *r) for r in reads]
            if any(_explains(order) for order in itertools.permutations(events)):
                return True
    return False


def _explains(order):
    value = 0
    for index, (kind, of, _, ended) in enumerate(order):
        if any(ended2 < order[index][2] for _, _, _, ended2 in order[index + 1 :]):
            return False
        if kind == "w":
            value = of
        elif of != value:
            return False
        del ended
    return True


def test_it_judges_small_histories_as_trying_every_order_does():
    chance = random.Random(1)
    verdicts = set()
    for _ in range(1500):
        times = chance.sample(range(1, 100), 12)

        def interval(times=times):
            return tuple(sorted((times.pop(), times.pop())))

        writes = []
        for value in range(1, chance.randint(2, 4)):
            began, ended = interval()
            writes.append((value, began, NEVER if chance.random() < 0.3 else ended))
        reads = [(chance.randint(0, len(writes)), *interval()) for _ in range(chance.randint(1, 3))]
        possible = _possible(writes, reads)
        verdicts.add(possible)

        assert (register_fault(writes, reads) is None) == possible, (writes, reads)
    assert verdicts == {True, False}
