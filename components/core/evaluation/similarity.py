"""How alike two encoders see the same pictures, and how many directions each of them uses.

Each measure is an inner product of two matrices over pairs of pictures, one per encoder, that are scaled so that an
encoder has 1 with itself. So the mean over several encoders is the inner product of mean matrices, and what unrelated
encoders reach is the same with the pictures of one side shuffled (calibration by permutations, arXiv 2602.14486):

- linear CKA: centred Gram matrices (Kornblith et al., arXiv 1905.00414);
- debiased CKA: U-centred Gram matrices, 0 on average for unrelated encoders at any number of pictures (Szekely and
  Rizzo 2014; Murphy et al., arXiv 2405.01012);
- RSA: Spearman's correlation of cosines over distinct pairs, so ranks (Kriegeskorte et al. 2008);
- mutual k-NN: who is among whose k nearest (Huh et al., arXiv 2405.07987).

Effective rank is Roy and Vetterli's (2007).
"""

# N pictures, D features, K neighbours

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from components.core.evaluation.pair_tiles import unit_rows

CHUNK = 8192
TIE = 1e-6  # shuffles are added up in float32


def cosine_similarities(rows_ND: np.ndarray) -> np.ndarray:
    """Returns the [N, N] cosines between rows, float32; rows are not centred and must not be zero."""
    unit_ND = unit_rows(rows_ND)
    return np.clip(unit_ND @ unit_ND.T, -1.0, 1.0)


def cka_matrix(rows_ND: np.ndarray) -> np.ndarray:
    """Returns the [N, N] matrix whose inner product with another encoder's is linear CKA."""
    centred_ND = _centred(rows_ND)
    return _unit_matrix(centred_ND @ centred_ND.T)


def debiased_cka_matrix(rows_ND: np.ndarray) -> np.ndarray:
    """Returns the [N, N] matrix whose inner product with another encoder's is debiased linear CKA; N is at least 4."""
    centred_ND = _centred(rows_ND)
    gram_NN = centred_ND @ centred_ND.T
    n = len(gram_NN)
    np.fill_diagonal(gram_NN, 0.0)
    means_N = gram_NN.sum(axis=0) / (n - 2)
    gram_NN += means_N.sum() / (n - 1) - means_N[:, None] - means_N[None, :]
    np.fill_diagonal(gram_NN, 0.0)
    return _unit_matrix(gram_NN)


def rank_matrix(similarities_NN: np.ndarray) -> np.ndarray:
    """Returns the symmetric [N, N] matrix whose inner product with another one is Spearman's correlation.

    It holds the ranks of the distinct pairs, centred, and 0 on the diagonal.
    """
    n = len(similarities_NN)
    upper = np.triu_indices(n, 1)
    ranks_P = rankdata(similarities_NN[upper])
    matrix_NN = np.zeros((n, n))
    matrix_NN[upper] = ranks_P - ranks_P.mean()
    return _unit_matrix(matrix_NN + matrix_NN.T)


def neighbour_matrix(similarities_NN: np.ndarray, k: int) -> np.ndarray:
    """Returns the [N, N] matrix whose inner product with another one is the share of `k` neighbours in common."""
    others_NN = similarities_NN.astype(np.float64)
    np.fill_diagonal(others_NN, -np.inf)
    nearest_NK = np.argpartition(-others_NN, k - 1, axis=1)[:, :k]
    matrix_NN = np.zeros(others_NN.shape)
    np.put_along_axis(matrix_NN, nearest_NK, 1.0, axis=1)
    return _unit_matrix(matrix_NN)


def effective_rank(rows_ND: np.ndarray) -> float:
    """Returns exp of the entropy of the centred features' singular values: 1 for a line, D for a sphere."""
    mean_D = rows_ND.mean(axis=0, dtype=np.float64)
    triangle_DD = np.zeros((0, rows_ND.shape[1]))  # has the singular values of all rows so far
    for start in range(0, len(rows_ND), CHUNK):
        chunk_ND = rows_ND[start : start + CHUNK] - mean_D
        triangle_DD = np.asarray(np.linalg.qr(np.vstack([triangle_DD, chunk_ND]), mode="r"))
    values_D = np.linalg.svd(triangle_DD, compute_uv=False)
    shares = values_D[values_D > 0] / values_D.sum() if values_D.sum() > 0 else np.ones(1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A similarity beside what unrelated encoders would reach.

    Attributes:
        value: The similarity itself.
        chance: Its mean when the second encoder's pictures are shuffled.
        chance_high: Its largest value among the shuffles.
        p: Share of shuffles (the identity counted) that reach the value.
    """

    value: float
    chance: float
    chance_high: float
    p: float


def between(first: Sequence[np.ndarray], second: Sequence[np.ndarray], num_permutations: int, seed: int) -> Calibrated:
    """Returns the mean similarity over all pairs of an encoder of one arm and an encoder of another.

    Args:
        first: A matrix [N, N] of each encoder of one arm.
        second: The same of another arm.
        num_permutations: Shuffles, at least 1.
        seed: Seed of the shuffles.
    """
    products = [(np.mean(first, axis=0), np.mean(second, axis=0))]
    return _calibrated(products, 1.0, num_permutations, seed)


def within(matrices: Sequence[np.ndarray], num_permutations: int, seed: int) -> Calibrated:
    """Returns the mean similarity over all pairs of encoders of one arm, as `between`; at least two encoders."""
    earlier = list(itertools.accumulate(matrices))
    num_pairs = len(matrices) * (len(matrices) - 1) / 2
    return _calibrated(list(zip(earlier, matrices[1:], strict=False)), 1 / num_pairs, num_permutations, seed)


def _calibrated(
    products: Sequence[tuple[np.ndarray, np.ndarray]], scale: float, num_permutations: int, seed: int
) -> Calibrated:
    """Returns `scale` times the sum of the inner products, calibrated."""
    n = len(products[0][0])
    value = scale * sum(float(np.vdot(first_NN, second_NN)) for first_NN, second_NN in products)
    pairs = [[matrix_NN.ravel().astype(np.float32) for matrix_NN in product] for product in products]
    generator = np.random.default_rng(seed)
    moved = np.empty(n * n, np.float32)
    shuffled = np.zeros(num_permutations)
    for index in range(num_permutations):
        order_N = generator.permutation(n)
        places = (order_N[:, None] * n + order_N[None, :]).ravel()
        for first, second in pairs:
            shuffled[index] += scale * float(first @ np.take(second, places, out=moved, mode="clip"))
    p = (1 + int((shuffled >= value - TIE).sum())) / (1 + num_permutations)
    return Calibrated(value, float(shuffled.mean()), float(shuffled.max()), p)


def _centred(rows_ND: np.ndarray) -> np.ndarray:
    rows_ND = rows_ND.astype(np.float64)
    return rows_ND - rows_ND.mean(axis=0)


def _unit_matrix(matrix_NN: np.ndarray) -> np.ndarray:
    """Returns a matrix of norm 1; zeros stay zeros."""
    norm = np.linalg.norm(matrix_NN)
    return matrix_NN / norm if norm > 0 else matrix_NN
