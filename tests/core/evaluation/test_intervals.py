"""Intervals against scipy's own, a published example and their own promise: the coverage."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from components.core.evaluation.intervals import mcnemar, newcombe, wilson


def _table(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 30), (7, 30), (30, 30), (512, 2000)])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="have no proportion"):
        wilson(successes, n)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (9, 2), (5, 5), (300, 240), (9000, 9400)])
def test_mcnemar_is_scipys_exact_test_and_twice_the_binomial_tail(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    expected = min(1.0, 2 * binom.cdf(min(only_first, only_second), n, 0.5))
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)
    if n:
        assert mcnemar(only_first, only_second) == pytest.approx(binomtest(only_first, n).pvalue, rel=1e-9)


def test_the_paired_interval_agrees_with_newcombes_published_example() -> None:
    low, high = newcombe(*_table(36, 12, 2, 0), confidence=0.95)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)  # Newcombe 1998, table II, method 10


def test_swapping_the_arms_mirrors_the_paired_interval() -> None:
    first, second = _table(41, 19, 7, 33)
    (low, high), (back_low, back_high) = newcombe(first, second, 0.95), newcombe(second, first, 0.95)
    assert (low, high) == pytest.approx((-back_high, -back_low))


@pytest.mark.parametrize("answers", [np.arange(50) % 3 == 0, np.ones(50, bool), np.zeros(1, bool)])
def test_equal_answers_leave_an_interval_about_zero(answers: np.ndarray) -> None:
    low, high = newcombe(answers, answers, 0.95)
    assert low < 0 < high


def test_the_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    both, only_first, only_second = 0.5, 0.2, 0.1
    draws = generator.multinomial(150, [both, only_first, only_second, 0.2], size=1500)
    intervals = [newcombe(*_table(*counts), confidence=0.95) for counts in draws]
    coverage = np.mean([low <= only_first - only_second <= high for low, high in intervals])
    assert 0.93 < coverage < 0.98


def test_items_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be paired"):
        newcombe(np.ones(3, bool), np.ones(4, bool), 0.95)
