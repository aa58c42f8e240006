"""A cost measured at several numbers of things, and whether it grows worse than linearly."""

from typing import Final

import attrs
import numpy as np

#: By how many per cent a cost may rise where the number rises by one: 1 is linear, and noise does
#: the rest.
MAX_EXPONENT: Final = 1.3
#: It is judged from this part of the largest number on: what there is of everything hides below.
_JUDGED_FROM: Final = 1 / 4
_MIN_POINTS: Final = 3

Points = list[tuple[float, float]]


@attrs.frozen
class Bar:
    """What a cost must stay below, at one number of things."""

    number: float
    below: float


@attrs.frozen(kw_only=True)
class Curve:
    """A cost by the number of things, `points` in ascending order."""

    name: str
    #: What there is more and more of.
    of: str
    unit: str
    points: tuple[tuple[float, float], ...]
    bar: Bar | None = None
    #: False for what is shown and not judged: where more work is not more of the same.
    judged: bool = True

    @property
    def exponent(self) -> float:
        """How the cost grows at the end: as the number to this power, by least squares."""
        least = self.points[-1][0] * _JUDGED_FROM
        end = [(number, cost) for number, cost in self.points if number >= least and cost > 0]
        if len(end) < _MIN_POINTS:
            return 0.0
        numbers, costs = (np.log(column) for column in zip(*end, strict=True))
        return float(np.polyfit(numbers, costs, 1)[0])

    @property
    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        found = []
        if self.judged and self.exponent > MAX_EXPONENT:
            found.append(f"grows worse than linearly: as {self.of} to the {self.exponent:.2g}")
        if self.bar is not None:
            at = dict(self.points).get(self.bar.number)
            if at is not None and at >= self.bar.below:
                found.append(
                    f"{at:.4g} {self.unit} at {self.bar.number:g}, not below {self.bar.below:g}"
                )
        return found
