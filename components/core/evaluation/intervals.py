"""Intervals and tests for accuracies, alone and paired over the same pictures or questions.

A Wilson interval for one accuracy; Newcombe's square-and-add interval for the difference of two that were measured
on the same items (Statistics in Medicine 17:2635, 1998, method 10); McNemar's exact test for the same difference.
All are closed forms, so the same answers give the same intervals on every machine.
"""

import math
from statistics import NormalDist

import numpy as np
from scipy.special import bdtr


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
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def newcombe(is_right_first_N: np.ndarray, is_right_second_N: np.ndarray, confidence: float) -> tuple[float, float]:
    """Returns Newcombe's interval of the difference of two accuracies over the same items, within [-1, 1].

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
    down = _add_in_square(share_first - low_first, high_second - share_second, phi)
    up = _add_in_square(high_first - share_first, share_second - low_second, phi)
    difference = (only_first - only_second) / n
    return max(-1.0, difference - down), min(1.0, difference + up)


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
