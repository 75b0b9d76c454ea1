"""Similarities of representations against their closed forms and invariances."""

import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr

from components.core.evaluation import similarity

N, D, K = 120, 6, 8


@pytest.fixture(name="features_ND")
def _features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)) + 0.5


def _cosines(features_ND: np.ndarray) -> np.ndarray:
    return similarity.cosine_similarities(features_ND)


def test_an_encoder_is_identical_to_itself(features_ND: np.ndarray) -> None:
    cosines_NN = _cosines(features_ND)
    neighbours_NK = similarity.nearest(cosines_NN, K)
    assert similarity.linear_cka(features_ND, features_ND) == pytest.approx(1)
    assert similarity.mutual_knn(neighbours_NK, neighbours_NK) == 1
    assert similarity.rsa(cosines_NN, cosines_NN) == pytest.approx(1)


def test_rotation_and_scale_change_nothing(features_ND: np.ndarray) -> None:
    turned_ND = 3 * features_ND @ ortho_group.rvs(D, random_state=1)
    assert similarity.linear_cka(features_ND, turned_ND) == pytest.approx(1)
    assert similarity.rsa(_cosines(features_ND), _cosines(turned_ND)) == pytest.approx(1, abs=1e-4)
    both = [similarity.nearest(_cosines(f), K) for f in (features_ND, turned_ND)]
    assert similarity.mutual_knn(*both) > 0.99  # a near tie may fall the other way in float32


def test_cka_is_the_kernel_form_of_its_definition(features_ND: np.ndarray) -> None:
    other_ND = features_ND[:, ::-1] ** 2
    centre_NN = np.eye(N) - 1 / N
    first_NN, second_NN = (centre_NN @ (f @ f.T) @ centre_NN for f in (features_ND, other_ND))
    expected = (first_NN * second_NN).sum() / (np.linalg.norm(first_NN) * np.linalg.norm(second_NN))
    assert similarity.linear_cka(features_ND, other_ND) == pytest.approx(expected)


def test_rsa_is_spearmans_correlation(features_ND: np.ndarray) -> None:
    first_NN, second_NN = _cosines(features_ND), _cosines(np.abs(features_ND))
    upper = np.triu_indices(N, 1)
    assert similarity.rsa(first_NN, second_NN) == pytest.approx(spearmanr(first_NN[upper], second_NN[upper]).statistic)


def test_unrelated_encoders_stay_at_the_calibrated_chance(features_ND: np.ndarray) -> None:
    other_ND = np.random.default_rng(1).standard_normal((N, D))
    first_NN, second_NN = _cosines(features_ND), _cosines(other_ND)
    found_knn = similarity.calibrated_knn(first_NN, second_NN, K, num_permutations=60, seed=0)
    assert found_knn.chance == pytest.approx(K / (N - 1), rel=0.1)
    for found in (
        found_knn,
        similarity.calibrated_cka(features_ND, other_ND, num_permutations=60, seed=0),
        similarity.calibrated_rsa(first_NN, second_NN, num_permutations=60, seed=0),
    ):
        assert found.p > 0.05 and found.value < 0.15


def test_the_calibration_starts_from_the_similarity_itself(features_ND: np.ndarray) -> None:
    other_ND = features_ND + 0.3 * np.random.default_rng(2).standard_normal((N, D))
    first_NN, second_NN = _cosines(features_ND), _cosines(other_ND)
    neighbours = similarity.nearest(first_NN, K), similarity.nearest(second_NN, K)
    knn = similarity.calibrated_knn(first_NN, second_NN, K, num_permutations=20, seed=0)
    rsa = similarity.calibrated_rsa(first_NN, second_NN, num_permutations=20, seed=0)
    assert knn.value == similarity.mutual_knn(*neighbours) and knn.p == pytest.approx(1 / 21)
    assert rsa.value == pytest.approx(similarity.rsa(first_NN, second_NN)) and rsa.chance < 0.1


def test_the_effective_rank_counts_the_directions_in_use() -> None:
    corners_ND = np.vstack([np.eye(5), -np.eye(5)])
    assert similarity.effective_rank(corners_ND) == pytest.approx(5)
    assert similarity.effective_rank(np.outer(np.arange(9.0), np.ones(4))) == pytest.approx(1, abs=1e-6)
    assert similarity.effective_rank(np.ones((4, 3))) == 1


def test_class_similarity_is_the_mean_over_pairs_of_either_kind() -> None:
    features_ND = np.random.default_rng(3).standard_normal((20, 4)) + 1
    labels_N = np.array([0, 1, 2, -1] * 5)
    cosines_NN = _cosines(features_ND)
    pairs = [(i, j) for i in range(20) for j in range(i) if labels_N[i] >= 0 and labels_N[j] >= 0]
    intra = np.mean([cosines_NN[i, j] for i, j in pairs if labels_N[i] == labels_N[j]])
    inter = np.mean([cosines_NN[i, j] for i, j in pairs if labels_N[i] != labels_N[j]])
    spread = np.std([cosines_NN[i, j] for i, j in pairs])
    found = similarity.class_similarity(cosines_NN, labels_N)
    expected = {"intra": intra, "inter": inter, "ratio": intra / inter, "separation": (intra - inter) / spread}
    assert found == pytest.approx(expected, rel=1e-4)


def test_one_class_has_no_class_similarity() -> None:
    assert similarity.class_similarity(np.eye(4, dtype=np.float32), np.zeros(4, int)) == {}
