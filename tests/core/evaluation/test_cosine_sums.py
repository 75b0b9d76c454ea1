"""Sums of unit vectors give the means over all pairs."""

import numpy as np
import pytest

from components.core.evaluation import cosine_sums
from components.core.evaluation.similarity import cosine_similarities

N = 40


@pytest.fixture(name="rows_ND", params=[8, 8192])
def _rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(cosine_sums, "CHUNK", request.param)  # both shorter and longer than the rows
    return (np.random.default_rng(3).standard_normal((N, 4)) + 1).astype(np.float32)


def test_moments_are_those_of_all_pairs(rows_ND: np.ndarray) -> None:
    values_P = cosine_similarities(rows_ND)[np.triu_indices(N, 1)]
    found = cosine_sums.cosine_moments(rows_ND)
    assert (found.mean, found.spread) == pytest.approx((values_P.mean(), values_P.std()), rel=1e-5)


def test_class_similarity_is_the_mean_over_pairs_of_either_kind(rows_ND: np.ndarray) -> None:
    labels_N = np.array([0, 1, 2, -1] * 10)
    cosines_NN = cosine_similarities(rows_ND)
    pairs = [(i, j) for i in range(N) for j in range(i) if labels_N[i] >= 0 and labels_N[j] >= 0]
    intra = np.mean([cosines_NN[i, j] for i, j in pairs if labels_N[i] == labels_N[j]])
    inter = np.mean([cosines_NN[i, j] for i, j in pairs if labels_N[i] != labels_N[j]])
    found = cosine_sums.class_similarity(rows_ND, labels_N, spread=0.25)
    expected = {"intra": intra, "inter": inter, "ratio": intra / inter, "separation": (intra - inter) / 0.25}
    assert found == pytest.approx(expected, rel=1e-4)


def test_one_class_has_no_class_similarity(rows_ND: np.ndarray) -> None:
    for labels_N in (np.zeros(N, int), np.arange(N), np.full(N, -1)):
        assert cosine_sums.class_similarity(rows_ND, labels_N, spread=1.0) == {}
