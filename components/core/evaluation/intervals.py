"""Intervals and tests for accuracies, alone and paired over the same pictures or questions.

A Wilson interval for one accuracy; Newcombe's square-and-add interval for the difference of two that were measured
on the same items (Statistics in Medicine 17:2635, 1998, method 10); McNemar's exact test for the same difference.
All are closed forms, so the same answers give the same intervals on every machine.
"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion, within [0, 1].

    Args:
        successes: How many of the `n` items are right.
        n: Number of items, at least 1.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: There are no items, or more successes than items.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(
            f"{successes} successes of {n} items have no proportion: expected 0 <= successes <= n, n >= 1."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exact ends: rounding leaves 1e-17 there
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value that two paired accuracies are equal.

    Args:
        only_first: Items that only the first has right.
        only_second: Items that only the second has right.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first minus accuracy of the second, over the same items.

    Attributes:
        difference: In [-1, 1].
        low: Lower end of its interval.
        high: Upper end of its interval.
        n: Number of items.
        p: McNemar's exact two-sided p-value.
    """

    difference: float
    low: float
    high: float
    n: int
    p: float

    @property
    def sign(self) -> int:
        """Returns 1 or -1 where the interval excludes 0, else 0."""
        return (self.low > 0) - (self.high < 0)


def paired_difference(
    is_right_first_N: np.ndarray, is_right_second_N: np.ndarray, confidence: float
) -> PairedDifference:
    """Returns the difference of two accuracies over the same items, with Newcombe's interval and McNemar's p.

    Args:
        is_right_first_N: Which items the first has right.
        is_right_second_N: Which items the second has right, in the same order.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: There are no items, or not equally many.
    """
    first_N, second_N = np.asarray(is_right_first_N, bool), np.asarray(is_right_second_N, bool)
    if first_N.shape != second_N.shape or first_N.size == 0:
        raise ValueError(
            f"{first_N.size} and {second_N.size} items can't be paired: expected equally many, at least 1."
        )
    n = int(first_N.size)
    both, neither = int((first_N & second_N).sum()), int((~first_N & ~second_N).sum())
    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    share_first, share_second = (both + only_first) / n, (both + only_second) / n
    low_first, high_first = wilson(both + only_first, n, confidence)
    low_second, high_second = wilson(both + only_second, n, confidence)
    phi = _correlation(both, only_first, only_second, neither)
    down, up = (
        (share_first - low_first, high_second - share_second),
        (high_first - share_first, share_second - low_second),
    )
    difference = (only_first - only_second) / n
    return PairedDifference(
        difference=difference,
        low=max(-1.0, difference - _add_in_square(*down, phi)),
        high=min(1.0, difference + _add_in_square(*up, phi)),
        n=n,
        p=mcnemar(only_first, only_second),
    )


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Returns phi of the 2 x 2 table, corrected for continuity as in Newcombe's method 10."""
    margins = math.prod((both + only_first, only_second + neither, both + only_second, only_first + neither))
    excess = both * neither - only_first * only_second
    if margins == 0:
        return 0.0
    n = both + only_first + only_second + neither
    corrected = max(excess - n / 2, 0.0) if excess > 0 else excess
    return corrected / math.sqrt(margins)


def _add_in_square(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))
