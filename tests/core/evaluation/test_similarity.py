"""Similarities of representations against their closed forms and invariances."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr

from components.core.evaluation import similarity

N, D, K = 120, 6, 8
Matrix = Callable[[np.ndarray], np.ndarray]


def _ranks(rows_ND: np.ndarray) -> np.ndarray:
    return similarity.rank_matrix(similarity.cosine_similarities(rows_ND))


def _neighbours(rows_ND: np.ndarray) -> np.ndarray:
    return similarity.neighbour_matrix(similarity.cosine_similarities(rows_ND), K)


MEASURES = {
    "cka": similarity.cka_matrix,
    "debiased": similarity.debiased_cka_matrix,
    "rsa": _ranks,
    "mutual_knn": _neighbours,
}
every_measure = pytest.mark.parametrize("matrix", MEASURES.values(), ids=MEASURES)


@pytest.fixture(name="rows_ND")
def _rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)) + 0.5


def _value(matrix: Matrix, first_ND: np.ndarray, second_ND: np.ndarray) -> float:
    return similarity.between([matrix(first_ND)], [matrix(second_ND)], num_permutations=1, seed=0).value


@every_measure
def test_an_encoder_is_identical_to_itself_however_it_is_turned(matrix: Matrix, rows_ND: np.ndarray) -> None:
    turned_ND = 3 * rows_ND @ ortho_group.rvs(D, random_state=1)
    assert _value(matrix, rows_ND, rows_ND) == pytest.approx(1)
    assert _value(matrix, rows_ND, turned_ND) == pytest.approx(1, abs=0.01)  # near ties fall either way in float32


def test_cka_is_its_form_over_features(rows_ND: np.ndarray) -> None:
    other_ND = rows_ND[:, ::-1] ** 2
    first_ND, second_ND = (f - f.mean(axis=0) for f in (rows_ND, other_ND))
    shared = np.linalg.norm(second_ND.T @ first_ND) ** 2
    expected = shared / np.linalg.norm(first_ND.T @ first_ND) / np.linalg.norm(second_ND.T @ second_ND)
    assert _value(similarity.cka_matrix, rows_ND, other_ND) == pytest.approx(expected)


def test_debiased_cka_is_the_unbiased_estimate_of_hsic(rows_ND: np.ndarray) -> None:
    """Song et al. 2012, equation 5."""

    def hsic(first_NN: np.ndarray, second_NN: np.ndarray) -> float:
        cross = first_NN @ second_NN
        constant = first_NN.sum() * second_NN.sum() / ((N - 1) * (N - 2))
        return (np.trace(cross) + constant - 2 / (N - 2) * cross.sum()) / (N * (N - 3))

    grams = [f @ f.T for f in (rows_ND, rows_ND[:, :2] ** 2)]
    for gram_NN in grams:
        np.fill_diagonal(gram_NN, 0)
    expected = hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    assert _value(similarity.debiased_cka_matrix, rows_ND, rows_ND[:, :2] ** 2) == pytest.approx(expected)


def test_rsa_is_spearmans_correlation(rows_ND: np.ndarray) -> None:
    first_NN, second_NN = (similarity.cosine_similarities(f) for f in (rows_ND, np.abs(rows_ND)))
    upper = np.triu_indices(N, 1)
    expected = spearmanr(first_NN[upper], second_NN[upper]).statistic
    assert _value(_ranks, rows_ND, np.abs(rows_ND)) == pytest.approx(expected)


def test_mutual_knn_is_the_share_of_common_neighbours(rows_ND: np.ndarray) -> None:
    nearest = []
    for found_ND in (rows_ND, np.abs(rows_ND)):
        cosines_NN = similarity.cosine_similarities(found_ND) - 9 * np.eye(N)
        nearest.append([set(row.tolist()) for row in np.argsort(-cosines_NN, axis=1)[:, :K]])
    expected = np.mean([len(first & second) / K for first, second in zip(*nearest, strict=True)])
    assert _value(_neighbours, rows_ND, np.abs(rows_ND)) == pytest.approx(expected)


def test_the_cka_of_independent_gaussians_is_what_their_widths_make_it() -> None:
    """With m = N - 1: E tr W = m d and E tr W^2 = m d (m + d + 1) for a Wishart matrix W of width d."""
    generator = np.random.default_rng(1)
    found = [
        _value(similarity.cka_matrix, generator.standard_normal((N, 20)), generator.standard_normal((N, 40)))
        for _ in range(20)
    ]
    assert np.mean(found) == pytest.approx(np.sqrt(20 * 40 / ((N + 20) * (N + 40))), rel=0.02)


@every_measure
def test_unrelated_encoders_stay_at_the_calibrated_chance(matrix: Matrix, rows_ND: np.ndarray) -> None:
    other_ND = np.random.default_rng(1).standard_normal((N, D))
    first_NN, second_NN = matrix(rows_ND), matrix(other_ND)
    found = similarity.between([first_NN], [second_NN], num_permutations=200, seed=0)
    assert found.p > 0.05 and found.value < 0.15 and found.chance_high < 0.2
    # the mean over all shuffles: the diagonals meet each other, and so do the rest
    (own, rest), (other_own, other_rest) = ([np.trace(m), m.sum() - np.trace(m)] for m in (first_NN, second_NN))
    expected = own * other_own / N + rest * other_rest / (N * (N - 1))
    assert expected == pytest.approx({_neighbours: K / (N - 1)}.get(matrix, expected))
    assert found.chance == pytest.approx(expected, abs=0.005)


def test_the_mean_over_encoders_is_the_mean_of_their_pairs(rows_ND: np.ndarray) -> None:
    generator = np.random.default_rng(2)
    encoders = [_ranks(rows_ND + scale * generator.standard_normal((N, D))) for scale in (0.1, 0.5, 1, 2)]
    values = np.array([[(a * b).sum() for b in encoders] for a in encoders])
    across = similarity.between(encoders[:2], encoders[2:], num_permutations=20, seed=0)
    assert across.value == pytest.approx(values[:2, 2:].mean()) and across.p == pytest.approx(1 / 21)
    same = similarity.within(encoders, num_permutations=20, seed=0)
    assert same.value == pytest.approx(values[np.triu_indices(4, 1)].mean())
    pair = similarity.between(encoders[:1], encoders[1:2], num_permutations=20, seed=0)
    assert vars(similarity.within(encoders[:2], num_permutations=20, seed=0)) == pytest.approx(vars(pair))


@pytest.mark.parametrize("chunk", [3, 8192])
def test_the_effective_rank_counts_the_directions_in_use(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "CHUNK", chunk)
    corners_ND = np.vstack([np.eye(5), -np.eye(5)])
    assert similarity.effective_rank(corners_ND) == pytest.approx(5)
    assert similarity.effective_rank(np.outer(np.arange(9.0), np.ones(4))) == pytest.approx(1, abs=1e-6)
    assert similarity.effective_rank(np.ones((4, 3))) == 1
