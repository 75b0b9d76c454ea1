"""Partial representational similarity analysis: what an encoder's similarities follow, all else being equal.

Similarities of pictures to each other are ranked, and the encoder's ranks are correlated with those of each reference
(colour, style, text, category), once as they are and once with all other references held fixed: Spearman's partial
correlation, from the inverse of the correlation matrix. Pairs of pictures share pictures, so they are not independent,
and the intervals come from resampling pictures (Nili et al. 2014): a picture drawn a times and one drawn b times give
their pair the weight a b, and a picture with itself none. The ranks are those of all pictures.
"""

# N pictures, B resamples with the pictures themselves in front, K references, E encoders

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from components.core.evaluation.similarity import rank_matrix

COLLINEAR = 1e-6  # share of a reference's variance that the ones before it must leave


@dataclasses.dataclass(frozen=True)
class PartialRsa:
    """What one arm's similarities have in common with a reference.

    Attributes:
        rsa: Spearman's correlation, mean over the arm's encoders.
        partial: The same with all other references held fixed.
        partial_low: Lower end of the interval of `partial`, for other pictures of the same kind.
        partial_high: Upper end.
        per_replicate: `partial` of each encoder.
    """

    rsa: float
    partial: float
    partial_low: float
    partial_high: float
    per_replicate: list[float]


class References:
    """Reference similarities, weighed by each resample of the pictures.

    Args:
        similarities: [N, N] by name; none constant over pairs, none determined by the others (see `usable`).
        num_resamples: How many resamples of the pictures there are.
        seed: Seed of the resamples.
        confidence: Coverage of the intervals, in (0, 1).
    """

    def __init__(
        self, similarities: Mapping[str, np.ndarray], num_resamples: int, seed: int, confidence: float
    ) -> None:
        self.names = list(similarities)
        n = len(next(iter(similarities.values())))
        drawn_BN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=num_resamples)
        self._weights_BN = np.vstack([np.ones(n), drawn_BN])
        self._confidence = confidence
        self._num_pairs_B = self._sum(1 - np.eye(n))
        self._ranks = [rank_matrix(similarity_NN) for similarity_NN in similarities.values()]
        self._means_BK = np.stack([self._mean(ranks_NN) for ranks_NN in self._ranks], axis=1)
        size = len(self.names)
        self._covariances_BKK = np.empty((len(self._weights_BN), size, size))
        for i in range(size):
            self._covariances_BKK[:, i, : i + 1] = self._covariances(self._ranks[i], self._means_BK[:, i], i + 1)
            self._covariances_BKK[:, : i + 1, i] = self._covariances_BKK[:, i, : i + 1]

    def compare(self, encoders: Sequence[np.ndarray]) -> dict[str, PartialRsa]:
        """Returns, per reference, what the encoders of one arm have in common with it.

        Args:
            encoders: Similarities [N, N] of each replicate's features.
        """
        found = [self._correlations(similarity_NN) for similarity_NN in encoders]
        rsa_EK = np.stack([rsa_BK[0] for rsa_BK, _ in found])
        partial_EBK = np.stack([partial_BK for _, partial_BK in found])
        tail = (1 - self._confidence) / 2
        low_K, high_K = np.quantile(partial_EBK[:, 1:].mean(axis=0), [tail, 1 - tail], axis=0)
        return {
            name: PartialRsa(
                rsa=float(rsa_EK[:, k].mean()),
                partial=float(partial_EBK[:, 0, k].mean()),
                partial_low=float(low_K[k]),
                partial_high=float(high_K[k]),
                per_replicate=partial_EBK[:, 0, k].tolist(),
            )
            for k, name in enumerate(self.names)
        }

    def _correlations(self, similarity_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the correlations with each reference and the partial ones, [B, K] each."""
        ranks_NN, size = rank_matrix(similarity_NN), len(self.names)
        mean_B = self._mean(ranks_NN)
        covariances = np.empty((len(mean_B), size + 1, size + 1))
        covariances[:, 1:, 1:] = self._covariances_BKK
        covariances[:, 0, 1:] = covariances[:, 1:, 0] = self._covariances(ranks_NN, mean_B, size)
        covariances[:, 0, 0] = self._mean(ranks_NN**2) - mean_B**2
        return partial_correlations(covariances)

    def _covariances(self, ranks_NN: np.ndarray, mean_B: np.ndarray, num_references: int) -> np.ndarray:
        """Returns the covariances with the first references, [B, K]."""
        products = [self._mean(ranks_NN * other_NN) for other_NN in self._ranks[:num_references]]
        return np.stack(products, axis=1) - mean_B[:, None] * self._means_BK[:, :num_references]

    def _mean(self, values_NN: np.ndarray) -> np.ndarray:
        return self._sum(values_NN) / self._num_pairs_B

    def _sum(self, values_NN: np.ndarray) -> np.ndarray:
        """Returns the weighted sum over all pairs, both ways, [B]; the diagonal is zero."""
        return np.einsum("bn,bn->b", self._weights_BN @ values_NN, self._weights_BN)


def partial_correlations(covariances_BKK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the correlations of the first variable with each other one, as they are and partialled for the rest.

    Args:
        covariances_BKK: Covariance matrices, of which the first row and column belong to the first variable. A
            variable without variance correlates with nothing.

    Returns:
        Two arrays [B, K - 1].
    """
    variances_BK = np.diagonal(covariances_BKK, axis1=1, axis2=2)
    spread_BK = np.sqrt(np.where(variances_BK > 0, variances_BK, np.inf))
    correlations_BKK = covariances_BKK / spread_BK[:, :, None] / spread_BK[:, None, :]
    diagonal = np.arange(covariances_BKK.shape[1])
    correlations_BKK[:, diagonal, diagonal] = 1.0
    precision_BKK = np.linalg.pinv(correlations_BKK, rcond=COLLINEAR**2, hermitian=True)
    own_BK = np.sqrt(np.diagonal(precision_BKK, axis1=1, axis2=2))
    return correlations_BKK[:, 0, 1:], -precision_BKK[:, 0, 1:] / (own_BK[:, :1] * own_BK[:, 1:])


def usable(similarities: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Returns which references say something of their own, the earlier ones first.

    One that is the same for all pairs, or that is determined by the references before it, has no partial correlation.
    """
    kept: list[np.ndarray] = []
    found = {}
    for name, similarity_NN in similarities.items():
        ranks_P = rank_matrix(similarity_NN).ravel()
        left_P = ranks_P.copy()
        for other_P in kept:
            left_P -= (left_P @ other_P) * other_P
        share = float(left_P @ left_P)  # the ranks have norm 1, or 0 where they are constant
        found[name] = share > COLLINEAR
        if found[name]:
            kept.append(left_P / np.sqrt(share))
    return found
