"""Chance: random draws that one seed repeats exactly, on every version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")


class Chance:
    """Random draws from one seed.

    All draws use `random()` alone: for no other method does Python promise the same numbers from
    the same seed in every version."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def happens(self, rate: float) -> bool:
        """Return true in a fraction `rate` of the calls. A rate of 0 draws no number."""
        return rate > 0 and self.random() < rate

    def below(self, limit: int) -> int:
        """Return an integer from 0 up to, but not including, `limit`."""
        return int(self.random() * limit)

    def between(self, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        return low + self.random() * (high - low)

    def choice(self, items: Sequence[_T]) -> _T:
        """Return one of `items`."""
        return items[self.below(len(items))]

    def shuffle(self, items: list[Any]) -> None:
        """Put a list into a random order."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
