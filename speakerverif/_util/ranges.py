"""Ranges of numbers in recipes: `channels: Annotated[int, Range(1, 16384)] = 512`.

`_util.toml.from_dict` checks them, and also refuses nan and infinity.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The allowed range of a number, or of each number in a tuple."""

    low: float
    high: float
    above: bool = False  # `low` itself is not allowed

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        low, high = _plain(self.low), _plain(self.high)
        return f"a number above {low}, at most {high}" if self.above else f"{low}..{high}"


class Rising:
    """Mark of a tuple of two numbers whose first must not exceed the second."""


FINITE = Range(-1e300, 1e300)
Width = Annotated[int, Range(1, 16_384)]  # channels of a layer, dimensions of an embedding
Share = Annotated[float, Range(0, 1)]  # a probability, or part of a whole
VarianceFloor = Annotated[float, Range(0, 1, above=True)]
Scale = Annotated[float, Range(0, 10_000, above=True)]  # of cosines in a softmax
Decibels = Annotated[tuple[float, float], Range(-100, 100), Rising()]


def _plain(number: float) -> str:
    return f"{number:,.0f}" if abs(number) < 1e15 and number == int(number) else f"{number:.4g}"
