"""How `benchmarks.growth` judges what it has measured."""

import pytest

from benchmarks.growth.curves import Bar, Curve
from benchmarks.growth.namespaces import NUMBERS
from benchmarks.growth.sizes import SIZES


def curve(cost, numbers=NUMBERS, **fields) -> Curve:
    points = tuple((number, cost(number)) for number in numbers)
    return Curve(name="a cost", of="things", unit="s", points=points, **fields)


@pytest.mark.parametrize("numbers", [NUMBERS, SIZES], ids=["even", "doubling"])
def test_what_is_linear_beside_something_fixed_is_well(numbers):
    assert curve(lambda number: 3 + 0.01 * number, numbers).problems == []
    assert curve(lambda _number: 3, numbers).problems == []


@pytest.mark.parametrize("numbers", [NUMBERS, SIZES], ids=["even", "doubling"])
def test_a_square_is_not_also_beside_what_is_linear(numbers):
    most = numbers[-1]
    square = curve(lambda number: number**2, numbers)
    assert square.exponent == pytest.approx(2)
    assert square.problems == ["grows worse than linearly: as things to the 2"]
    # Half of the cost at the end.
    assert curve(lambda number: number / most + (number / most) ** 2, numbers).problems
    assert curve(lambda number: number**2, numbers, judged=False).problems == []


def test_noise_of_a_tenth_is_none_of_it():
    costs = dict(zip(NUMBERS, (1, 1.1, 0.9, 1.1, 0.9, 1.1), strict=True))
    assert curve(lambda number: costs[number] * number).problems == []


def test_a_bar_is_missed_at_its_number_alone():
    assert curve(lambda number: number, bar=Bar(1000, 1001)).problems == []
    assert curve(lambda number: number, bar=Bar(500, 500)).problems == [
        "500 s at 500, not below 500"
    ]
