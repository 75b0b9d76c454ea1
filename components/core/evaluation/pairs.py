"""Pairs of pictures that one encoder finds alike and another does not (STUDY.md 3, the paper's Figure 2).

Fixed thresholds don't carry over between encoders, whose cosines spread differently; here a pair is alike above a
quantile of that encoder's own cosines, and unlike below the quantile as far from the other end. All directions come
from one pass over the tiles of `pair_tiles`, in memory that doesn't grow with the number of pairs.
"""

# N pictures, D features, P pairs, M mined pairs

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from components.core.evaluation.best_pairs import BestPairs
from components.core.evaluation.cosine_sums import cosine_moments
from components.core.evaluation.pair_tiles import (
    NO_PAIR,
    TILE,
    Tile,
    cosines_of_pairs,
    num_distinct_pairs,
    num_rows,
    random_pairs,
    tiles,
)

EXACT_PAIRS = 2**23  # up to 4,096 pictures the quantiles are over all pairs
SAMPLED_PAIRS = 2**22  # else over so many: at the 99 % quantile a standard error of 0.005 % of the pairs
FLAT = 1e-6  # cosines that spread less than float32 resolves tell nothing apart
Z = 1.96

Direction = tuple[str, str]  # finds them alike, does not


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where an encoder's cosines lie.

    Attributes:
        high: Two pictures are alike above it.
        low: Two pictures are unlike below it.
        mean: Of all pairs.
        spread: Standard deviation over all pairs.
        error: Half of the wider 95 % interval of `high` and `low`, for the pairs that weren't sampled; 0: none.
    """

    high: float
    low: float
    mean: float
    spread: float
    error: float


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The scale of each encoder, from `num_pairs` pairs: all of them, or a random sample."""

    scales: dict[str, Scale]
    num_pairs: int
    is_exact: bool


@dataclasses.dataclass(frozen=True)
class MinedPairs:
    """The pairs of one direction, the most telling first.

    Attributes:
        pairs_M2: Rows of the two pictures, the lower one first; no picture occurs twice.
        num_candidates: Pairs within both thresholds, before each picture was used once.
        num_fixed: Pairs within each of the fixed thresholds.
    """

    pairs_M2: np.ndarray
    num_candidates: int
    num_fixed: tuple[int, ...] = ()


def thresholds(
    encoders: Mapping[str, np.ndarray],
    quantile: float,
    seed: int,
    exact_pairs: int = EXACT_PAIRS,
    sampled_pairs: int = SAMPLED_PAIRS,
) -> Thresholds:
    """Returns each encoder's thresholds; mean and spread are exact in any case.

    Args:
        encoders: Features [N, D] of the same pictures, at least two.
        quantile: Alike is above this quantile of an encoder's cosines, unlike below 1 minus it.
        seed: Seed of the sample.
        exact_pairs: Up to so many pairs, the quantiles are over all of them.
        sampled_pairs: Size of the sample where there are more.
    """
    n = num_rows(encoders)
    is_exact = num_distinct_pairs(n) <= exact_pairs
    num_pairs = num_distinct_pairs(n) if is_exact else sampled_pairs
    slack = 0.0 if is_exact else Z * math.sqrt(quantile * (1 - quantile) / num_pairs)
    sample_P2 = None if is_exact else random_pairs(n, num_pairs, seed)
    scales = {}
    for name, rows_ND in encoders.items():
        values_P = (_all_cosines(rows_ND) if sample_P2 is None else cosines_of_pairs(rows_ND, sample_P2)).astype(float)
        ends = np.array([quantile - slack, quantile, quantile + slack])
        below, high, above = np.quantile(values_P, np.clip(ends, 0, 1))
        lower, low, upper = np.quantile(values_P, np.clip(1 - ends[::-1], 0, 1))
        moments = cosine_moments(rows_ND)
        error = max(above - below, upper - lower) / 2
        scales[name] = Scale(float(high), float(low), moments.mean, moments.spread, float(error))
    return Thresholds(scales, num_pairs, is_exact)


def mine(
    encoders: Mapping[str, np.ndarray],
    scales: Mapping[str, Scale],
    num_pairs: int,
    *,
    fixed: Mapping[Direction, Sequence[tuple[float, float]]] | None = None,
    tile: int = TILE,
    after_tile: Callable[[int], None] = lambda num_pairs: None,
) -> dict[Direction, MinedPairs]:
    """Returns the pairs of every direction between two encoders, from one pass over all pairs of pictures.

    Pairs are taken greedily in the order of the gap between both cosines, each in standard deviations of its encoder;
    a pair with a picture that is taken already is passed over. Ties go to the lower rows.

    Args:
        encoders: Features [N, D] of the same pictures; may be memory-mapped.
        scales: Thresholds and spread of each encoder. One that finds everything alike gives no pairs.
        num_pairs: Pairs of a direction at most.
        fixed: Per direction further thresholds (above, below) whose pairs are counted.
        tile: Rows and columns that are compared at once.
        after_tile: Called with the number of pairs that were compared since the last call; may raise to stop.
    """
    searches = {
        direction: _Search(direction, scales, num_pairs, (fixed or {}).get(direction, ()))
        for direction in itertools.permutations(encoders, 2)
    }
    for found in tiles(encoders, tile):
        above = {name: np.flatnonzero(cosines_RC > scales[name].high) for name, cosines_RC in found.cosines.items()}
        for (alike, _), search in searches.items():
            search.look(found, above[alike])
        after_tile(found.num_pairs)
    return {direction: search.mined() for direction, search in searches.items()}


class _Search:
    """One direction's search."""

    def __init__(
        self, direction: Direction, scales: Mapping[str, Scale], num_pairs: int, fixed: Sequence[tuple[float, float]]
    ) -> None:
        self._alike, self._unlike = direction
        self._scales = tuple(scales[name] for name in direction)
        self._is_flat = min(scale.spread for scale in self._scales) < FLAT
        self._best = BestPairs(num_pairs)
        self._num_candidates = 0
        self._fixed, self._num_fixed = fixed, [0] * len(fixed)

    def look(self, tile: Tile, above_P: np.ndarray) -> None:
        """Takes what a tile has; `above_P` are its entries above the high threshold."""
        alike_RC, unlike_RC = tile.cosines[self._alike], tile.cosines[self._unlike]
        for index, (above, below) in enumerate(self._fixed):
            if alike_RC.max() > above:
                self._num_fixed[index] += int(np.count_nonzero((alike_RC > above) & (unlike_RC < below)))
        if self._is_flat:
            return
        alike, unlike = self._scales
        values_P = unlike_RC.reshape(-1)[above_P]
        is_candidate_P = values_P < unlike.low
        chosen_P = above_P[is_candidate_P]
        self._num_candidates += len(chosen_P)
        gaps_P = _standardised(alike_RC.reshape(-1)[chosen_P], alike)
        gaps_P -= _standardised(values_P[is_candidate_P], unlike)
        self._best.add(gaps_P, *tile.pictures(chosen_P))

    def mined(self) -> MinedPairs:
        return MinedPairs(self._best.chosen(), self._num_candidates, tuple(self._num_fixed))


def agreement(pairs_M2: np.ndarray, labels_N: np.ndarray) -> tuple[int, int]:
    """Returns how many pairs have equal labels, and how many have labels (negative: none) at all."""
    labels_M2 = labels_N[pairs_M2]
    is_known_M = (labels_M2 >= 0).all(axis=1)
    return int(((labels_M2[:, 0] == labels_M2[:, 1]) & is_known_M).sum()), int(is_known_M.sum())


def base_rate(labels_N: np.ndarray) -> float:
    """Returns the share of all pairs of labelled pictures that have equal labels; 0 where there is no pair."""
    counts = np.bincount(labels_N[labels_N >= 0]).astype(np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else 0.0


def _all_cosines(rows_ND: np.ndarray) -> np.ndarray:
    return np.concatenate([t.cosines[""][t.cosines[""] > NO_PAIR] for t in tiles({"": rows_ND})])


def _standardised(cosines_P: np.ndarray, scale: Scale) -> np.ndarray:
    return (cosines_P.astype(np.float64) - scale.mean) / scale.spread
