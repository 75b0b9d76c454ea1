"""Means and spreads of cosines over all pairs, from sums of unit vectors: no pair is looked at.

The sum of all cosines between two sets is the product of their sums of unit vectors, and the sum of all squared
cosines within a set is the squared Frobenius norm of its second moment: a cost of N D^2 instead of N^2 D.
"""

# N pictures, D features, C classes

import dataclasses
from collections.abc import Iterator

import numpy as np

from components.core.evaluation.pair_tiles import unit_rows

CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of an encoder's cosines, over all distinct pairs: mean and standard deviation."""

    mean: float
    spread: float


def cosine_moments(rows_ND: np.ndarray) -> Moments:
    """Returns mean and spread of the cosines of all distinct pairs of at least two rows."""
    n, width = rows_ND.shape
    sum_D, second_DD = np.zeros(width), np.zeros((width, width))
    own = own_square = 0.0  # a row with itself, which is no pair
    for unit_ND in _unit_chunks(rows_ND):
        sum_D += unit_ND.sum(axis=0)
        second_DD += unit_ND.T @ unit_ND
        squares_N = (unit_ND**2).sum(axis=1)
        own, own_square = own + squares_N.sum(), own_square + (squares_N**2).sum()
    num_ordered = n * (n - 1)
    mean = (sum_D @ sum_D - own) / num_ordered
    variance = ((second_DD**2).sum() - own_square) / num_ordered - mean**2
    return Moments(float(mean), float(np.sqrt(max(variance, 0.0))))


def class_similarity(rows_ND: np.ndarray, labels_N: np.ndarray, spread: float) -> dict[str, float]:
    """Returns how much more alike two pictures of one class are than two of different classes.

    Pictures with a negative label are left out.

    Args:
        rows_ND: Features.
        labels_N: Class indices.
        spread: Standard deviation of the cosines of all pictures, which `separation` is measured in.

    Returns:
        `intra` and `inter`, the mean cosines; `ratio`, intra / inter (0 where inter is 0); `separation`, their
        difference over `spread` (0 where that is 0). Empty where only one class has pairs, or none.
    """
    counts_C = np.bincount(labels_N[labels_N >= 0]).astype(np.float64)
    n = counts_C.sum()
    num_intra, num_all = (counts_C * (counts_C - 1)).sum(), n * (n - 1)  # ordered pairs, as the sums below
    if num_intra == 0 or num_intra == num_all:
        return {}
    sums_CD, own = np.zeros((len(counts_C), rows_ND.shape[1])), 0.0
    for start, unit_ND in enumerate(_unit_chunks(rows_ND)):
        of_chunk_N = labels_N[start * CHUNK : (start + 1) * CHUNK]
        known_ND = unit_ND[of_chunk_N >= 0]
        np.add.at(sums_CD, of_chunk_N[of_chunk_N >= 0], known_ND)
        own += (known_ND**2).sum()
    within = (sums_CD**2).sum() - own
    between = (sums_CD.sum(axis=0) ** 2).sum() - (sums_CD**2).sum()
    intra, inter = float(within / num_intra), float(between / (num_all - num_intra))
    return {
        "intra": intra,
        "inter": inter,
        "ratio": intra / inter if inter != 0 else 0.0,
        "separation": (intra - inter) / spread if spread > 0 else 0.0,
    }


def _unit_chunks(rows_ND: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows_ND), CHUNK):
        yield unit_rows(rows_ND[start : start + CHUNK]).astype(np.float64)
