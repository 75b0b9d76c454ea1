# S runs (seeds) of the first, T of the second, N items (pictures or questions), M items of the second.
"""Accuracies and differences over several training runs, with intervals that cover both the seeds and the items.

Every run answers every item, so seeds and items are crossed random effects: with x[s,i] the outcome of run s on item i,

    x[s,i] = mean + seed[s] + item[i] + residual[s,i]
    V(grand mean) = var(seed)/S + var(item)/N + var(residual)/(S N).

In the two-way analysis of variance N var(seed) + var(residual) is expected of MS_seed, S var(item) + var(residual) of
MS_item and var(residual) of MS_residual, so V is estimated by

    V_seed + max(V_item - V_residual, 0)    where V_x = MS_x / (S N).

V_seed is the squared standard error of the run means and V_item that of the items' means; each holds the residual,
which is taken out once. This is the variance of multi-reader multi-case studies, seeds as readers and items as cases
(Dorfman, Berbaum and Metz 1992; Hillis, Statistics in Medicine 26:596, 2007); it adds the seeds to Miller's "Adding
error bars to evals" (arXiv 2411.00640), which has items alone.

The interval squares and adds the Student intervals of the two parts, on S - 1 and N - 1 degrees of freedom, as
Newcombe's does for two proportions (Howe 1974; Zou and Donner, Statistics in Medicine 27:1693, 2008): mean +- sqrt(sum
of t^2 V). So few seeds never borrow the many degrees of freedom of the items, as they do by Satterthwaite's formula,
which in simulations covers 88 % instead of 95 % for S = 2 where seeds matter. And it is never narrower than that of the
items alone, t sqrt(V_item): two or three runs may agree by luck. Where seeds move nothing it covers 96 to 99 % instead
of 95.

So that no interval has width zero, it is computed as if a few items more had been seen, half of them right in every run
and half of them wrong: four for one accuracy (Agresti and Coull 1998), two for a difference, one of which only the
first has right and the other only the second (Agresti and Caffo 2000; for paired items Bonett and Price 2012).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from components.core.evaluation.intervals import mcnemar, newcombe, wilson

MIN_P = 1e-100  # smaller ones are given as this
P_HALVINGS = 60  # enough for every digit of a float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Accuracy of one kind of encoder.

    Attributes:
        mean: Over runs and items, in [0, 1].
        sd: Of the runs' accuracies; 0 for one run.
        low: Lower end of the mean's interval.
        high: Upper end.
        n: Number of items.
        per_run: Each run's accuracy.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int
    per_run: list[float]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Accuracy of the first minus accuracy of the second.

    Attributes:
        difference: In [-1, 1].
        low: Lower end of its interval.
        high: Upper end.
        n: Number of items; of the smaller set where the two saw different ones.
        num_runs: Runs of each; of the side that has fewer.
        p: Two-sided p-value of no difference.
        per_run: The difference in each run where runs are paired, else empty.
    """

    difference: float
    low: float
    high: float
    n: int
    num_runs: int
    p: float
    per_run: list[float]

    @property
    def sign(self) -> int:
        """Returns 1 or -1 where the interval excludes 0, else 0."""
        return (self.low > 0) - (self.high < 0)

    @property
    def covers_seeds(self) -> bool:
        """Returns whether the interval says how far other seeds would move the difference."""
        return self.num_runs > 1


@dataclasses.dataclass(frozen=True)
class _Part:
    """One part of a mean's variance.

    Attributes:
        alone: Were the items all that is random.
        crossed: With the seeds random as well.
        freedom: Degrees of freedom on which it is known.
    """

    alone: float
    crossed: float
    freedom: float


def accuracy(is_right_SN: np.ndarray, confidence: float) -> Estimate:
    """Returns the mean accuracy of the runs: Wilson's interval for one run, that of crossed effects for several.

    Args:
        is_right_SN: Which items each run has right.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: There are no runs or no items.
    """
    values_SN = _outcomes(is_right_SN)
    num_runs, n = values_SN.shape
    per_run_S = values_SN.mean(axis=1)
    mean = float(values_SN.mean())
    if num_runs == 1:
        low, high = wilson(int(values_SN.sum()), n, confidence)
    else:
        padded_SN = _padded(values_SN, 1, 1, 0, 0)
        half = _reach(_parts(padded_SN), 1 - confidence)
        centre = float(padded_SN.mean())
        low, high = max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))
    sd = float(per_run_S.std(ddof=1)) if num_runs > 1 else 0.0
    return Estimate(mean, sd, low, high, n, per_run_S.tolist())


def paired_difference(first_SN: np.ndarray, second_SN: np.ndarray, confidence: float) -> Difference:
    """Returns the difference of two kinds of encoders whose runs share seeds, over the same items.

    One run of each: Newcombe's interval and McNemar's p, which cover the items alone. Several: crossed effects of the
    differences.

    Args:
        first_SN: Which items each run of the first has right.
        second_SN: The same for the second; runs and items in the same order.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: There are no runs or items, or not equally many.
    """
    first_SN, second_SN = _outcomes(first_SN), _outcomes(second_SN)
    if first_SN.shape != second_SN.shape:
        raise ValueError(
            f"outcomes of shapes {first_SN.shape} and {second_SN.shape} can't be paired: expected equal ones."
        )
    num_runs, n = first_SN.shape
    per_run = (first_SN - second_SN).mean(axis=1).tolist()
    if num_runs == 1:
        return _of_one_run(first_SN[0], second_SN[0], confidence)
    padded_SN = _padded(first_SN, 1, 0) - _padded(second_SN, 0, 1)
    low, high, p = _interval(float(padded_SN.mean()), _parts(padded_SN), confidence)
    found = float(np.mean(per_run))
    return Difference(found, min(low, found), max(high, found), n, num_runs, p, per_run)


def unpaired_difference(first_SN: np.ndarray, second_TM: np.ndarray, same_items: bool, confidence: float) -> Difference:
    """Returns the difference of two kinds of encoders whose runs have nothing to do with each other.

    A side with one run adds nothing for its seeds; `covers_seeds` is then False.

    Args:
        first_SN: Which items each run of the first has right.
        second_TM: The same for the second.
        same_items: Whether both were asked the same items in the same order; M is N then.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: There are no runs or items, or the same items are not equally many.
    """
    first_SN, second_TM = _outcomes(first_SN), _outcomes(second_TM)
    if same_items and first_SN.shape[1] != second_TM.shape[1]:
        raise ValueError(f"{first_SN.shape[1]} and {second_TM.shape[1]} items can't be the same.")
    num_runs, n = min(len(first_SN), len(second_TM)), min(first_SN.shape[1], second_TM.shape[1])
    if same_items and len(first_SN) == len(second_TM) == 1:
        return _of_one_run(first_SN[0], second_TM[0], confidence)
    padded_SN, padded_TM = _padded(first_SN, 1, 0), _padded(second_TM, 0, 1)
    if same_items:
        means_N = padded_SN.mean(axis=0) - padded_TM.mean(axis=0)
        items = [_of_items(means_N, _residual(padded_SN) + _residual(padded_TM))]
    else:
        items = [_of_items(side.mean(axis=0), _residual(side)) for side in (padded_SN, padded_TM)]
    parts = [*items, *_of_seeds(padded_SN, padded_TM)]
    low, high, p = _interval(float(padded_SN.mean() - padded_TM.mean()), parts, confidence)
    found = float(first_SN.mean() - second_TM.mean())
    return Difference(found, min(low, found), max(high, found), n, num_runs, p, [])


def _of_one_run(first_N: np.ndarray, second_N: np.ndarray, confidence: float) -> Difference:
    low, high = newcombe(first_N, second_N, confidence)
    only_first, only_second = int((first_N > second_N).sum()), int((first_N < second_N).sum())
    found = float(np.mean(first_N - second_N))
    return Difference(found, low, high, len(first_N), 1, mcnemar(only_first, only_second), [found])


def _parts(values_SN: np.ndarray) -> list[_Part]:
    """Returns the variance of the grand mean, part by part."""
    return [_of_items(values_SN.mean(axis=0), _residual(values_SN)), *_of_seeds(values_SN)]


def _of_items(means_N: np.ndarray, residual: float) -> _Part:
    variance = float(means_N.var(ddof=1)) / len(means_N)
    return _Part(variance, max(variance - residual, 0.0), len(means_N) - 1)


def _of_seeds(*sides: np.ndarray) -> list[_Part]:
    """Returns the variance of the run means' mean, of two sides together on Welch's degrees of freedom.

    Of a side with one run nothing is known.
    """
    known = [side for side in sides if len(side) > 1]
    variances = [float(side.mean(axis=1).var(ddof=1)) / len(side) for side in known]
    total = sum(variances)
    if not total:
        return []
    uncertainty = sum(variance**2 / (len(side) - 1) for variance, side in zip(variances, known, strict=True))
    return [_Part(0.0, total, total**2 / uncertainty)]


def _residual(values_SN: np.ndarray) -> float:
    """Returns V_residual; 0 for one run, whose residuals can't be told from its items."""
    num_runs, n = values_SN.shape
    if num_runs == 1:
        return 0.0
    residual_SN = values_SN - values_SN.mean(axis=1, keepdims=True) - values_SN.mean(axis=0) + values_SN.mean()
    return float((residual_SN**2).sum()) / ((num_runs - 1) * (n - 1)) / (num_runs * n)


def _reach(parts: Sequence[_Part], p: float) -> float:
    """Returns how far a mean with these parts lies from the truth with probability `p`, at least."""
    squares = [float(stdtrit(part.freedom, p / 2)) ** 2 for part in parts]
    alone = sum(part.alone * square for part, square in zip(parts, squares, strict=True))
    crossed = sum(part.crossed * square for part, square in zip(parts, squares, strict=True))
    return math.sqrt(max(alone, crossed))


def _interval(centre: float, parts: Sequence[_Part], confidence: float) -> tuple[float, float, float]:
    """Returns the ends of the interval within [-1, 1], and the p at which an interval would end at zero."""
    half = _reach(parts, 1 - confidence)
    low, high = math.log(MIN_P), 0.0
    for _ in range(P_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _reach(parts, math.exp(middle)) < abs(centre) else (middle, high)
    return max(-1.0, centre - half), min(1.0, centre + half), math.exp(high)


def _padded(values_SN: np.ndarray, *items: int) -> np.ndarray:
    """Returns the outcomes with more items, each the same in every run."""
    return np.hstack([values_SN, np.broadcast_to(np.array(items, float), (len(values_SN), len(items)))])


def _outcomes(is_right_SN: np.ndarray) -> np.ndarray:
    values_SN = np.asarray(is_right_SN, bool).astype(float)
    if values_SN.ndim != 2 or 0 in values_SN.shape:
        raise ValueError(
            f"outcomes of shape {values_SN.shape} have no accuracy: expected [runs, items], each at least 1."
        )
    return values_SN
