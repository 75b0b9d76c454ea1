"""How alike two encoders see the same pictures, and how many directions each of them uses.

Linear CKA (Kornblith et al., arXiv 1905.00414, equation 5 in its feature form), mutual k-nearest neighbours (Huh et
al., arXiv 2405.07987, section 2), representational similarity analysis (Kriegeskorte et al. 2008: the rank
correlation of two similarity matrices) and effective rank (Roy and Vetterli 2007). All of them are above zero for
unrelated encoders, hence the calibration by permutations (arXiv 2602.14486).
"""

# N pictures, D and E features of the two encoders, K neighbours, P distinct pairs of pictures

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def cosine_similarities(features_ND: np.ndarray) -> np.ndarray:
    """Returns the [N, N] cosines between rows, float32; rows are not centred and must not be zero."""
    unit_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    return np.clip(unit_ND @ unit_ND.T, -1.0, 1.0).astype(np.float32)


def linear_cka(first_ND: np.ndarray, second_NE: np.ndarray) -> float:
    """Returns linear centred kernel alignment, in [0, 1]; rotations and one common scale of either don't change it."""
    first_ND, second_NE = _centred(first_ND), _centred(second_NE)
    shared = np.linalg.norm(second_NE.T @ first_ND) ** 2
    own = np.linalg.norm(first_ND.T @ first_ND) * np.linalg.norm(second_NE.T @ second_NE)
    return float(shared / own) if own > 0 else 0.0


def nearest(similarities_NN: np.ndarray, k: int) -> np.ndarray:
    """Returns the [N, K] indices of each row's `k` most similar others, in no particular order."""
    others_NN = similarities_NN.copy()
    np.fill_diagonal(others_NN, -np.inf)
    return np.argpartition(-others_NN, k - 1, axis=1)[:, :k]


def mutual_knn(neighbours_first_NK: np.ndarray, neighbours_second_NK: np.ndarray) -> float:
    """Returns the mean share of a picture's K neighbours that both encoders agree on, in [0, 1]."""
    is_shared_NKK = neighbours_first_NK[:, :, None] == neighbours_second_NK[:, None, :]
    return float(is_shared_NKK.sum() / neighbours_first_NK.size)


def rsa(similarities_first_NN: np.ndarray, similarities_second_NN: np.ndarray) -> float:
    """Returns Spearman's correlation of two similarity matrices over their distinct pairs, in [-1, 1]."""
    upper = np.triu_indices(len(similarities_first_NN), 1)
    return _correlation(rankdata(similarities_first_NN[upper]), rankdata(similarities_second_NN[upper]))


def effective_rank(features_ND: np.ndarray) -> float:
    """Returns exp of the entropy of the centred features' singular values: 1 for a line, D for a sphere."""
    values = np.linalg.svd(_centred(features_ND), compute_uv=False)
    shares = values[values > 0] / values.sum() if values.sum() > 0 else np.ones(1)
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


def calibrate(statistic: Callable[[np.ndarray], float], n: int, num_permutations: int, seed: int) -> Calibrated:
    """Returns `statistic` of the identity beside its values under shuffles of the second encoder's pictures.

    Args:
        statistic: The similarity when the second encoder's row i is its row `order_N[i]`.
        n: Number of pictures.
        num_permutations: Shuffles, at least 1.
        seed: Seed of the shuffles.
    """
    generator = np.random.default_rng(seed)
    value = statistic(np.arange(n))
    shuffled = np.array([statistic(generator.permutation(n)) for _ in range(num_permutations)])
    p = (1 + int((shuffled >= value).sum())) / (1 + num_permutations)
    return Calibrated(value, float(shuffled.mean()), float(shuffled.max()), p)


def calibrated_cka(first_ND: np.ndarray, second_NE: np.ndarray, num_permutations: int, seed: int) -> Calibrated:
    """Returns `linear_cka`, calibrated."""
    return calibrate(lambda order_N: linear_cka(first_ND, second_NE[order_N]), len(first_ND), num_permutations, seed)


def calibrated_knn(
    similarities_first_NN: np.ndarray, similarities_second_NN: np.ndarray, k: int, num_permutations: int, seed: int
) -> Calibrated:
    """Returns `mutual_knn` of two similarity matrices, calibrated; its chance is k / (N - 1)."""
    first_NK, second_NK = nearest(similarities_first_NN, k), nearest(similarities_second_NN, k)

    def statistic(order_N: np.ndarray) -> float:
        place_N = np.argsort(order_N)  # where a picture of the second encoder went
        return mutual_knn(first_NK, place_N[second_NK[order_N]])

    return calibrate(statistic, len(first_NK), num_permutations, seed)


def calibrated_rsa(
    similarities_first_NN: np.ndarray, similarities_second_NN: np.ndarray, num_permutations: int, seed: int
) -> Calibrated:
    """Returns `rsa`, calibrated; the ranks are computed once for all shuffles."""
    n = len(similarities_first_NN)
    upper = np.triu_indices(n, 1)
    first_P = rankdata(similarities_first_NN[upper])
    second_NN = np.zeros((n, n))
    second_NN[upper] = rankdata(similarities_second_NN[upper])
    second_NN += second_NN.T
    return calibrate(
        lambda order_N: _correlation(first_P, second_NN[order_N][:, order_N][upper]), n, num_permutations, seed
    )


def class_similarity(similarities_NN: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Returns how much more alike two pictures of one class are than two of different classes.

    Pictures with a negative label are left out.

    Returns:
        `intra` and `inter`, the mean similarities; `ratio`, intra / inter (0 where inter is 0); `separation`, their
        difference in standard deviations of all similarities. Empty where only one class has pairs, or none.
    """
    known_N = labels_N >= 0
    similarities_NN, labels_N = similarities_NN[np.ix_(known_N, known_N)].astype(np.float64), labels_N[known_N]
    counts_C = np.bincount(labels_N)
    num_intra = float((counts_C * (counts_C - 1)).sum())  # ordered pairs, as both sums below
    num_all = float(len(labels_N) * (len(labels_N) - 1))
    if num_intra == 0 or num_intra == num_all:
        return {}
    is_class_NC = np.eye(len(counts_C))[labels_N]
    own, own_square = np.trace(similarities_NN), (np.diagonal(similarities_NN) ** 2).sum()
    total = similarities_NN.sum() - own
    within = np.einsum("nc,nc->", is_class_NC, similarities_NN @ is_class_NC) - own
    intra, inter = float(within / num_intra), float((total - within) / (num_all - num_intra))
    variance = ((similarities_NN**2).sum() - own_square) / num_all - (total / num_all) ** 2
    spread = float(np.sqrt(max(variance, 0.0)))
    return {
        "intra": intra,
        "inter": inter,
        "ratio": intra / inter if inter != 0 else 0.0,
        "separation": (intra - inter) / spread if spread > 0 else 0.0,
    }


def _centred(features_ND: np.ndarray) -> np.ndarray:
    features_ND = features_ND.astype(np.float64)
    return features_ND - features_ND.mean(axis=0)


def _correlation(first_P: np.ndarray, second_P: np.ndarray) -> float:
    first_P, second_P = first_P - first_P.mean(), second_P - second_P.mean()
    scale = np.linalg.norm(first_P) * np.linalg.norm(second_P)
    return float(first_P @ second_P / scale) if scale > 0 else 0.0
