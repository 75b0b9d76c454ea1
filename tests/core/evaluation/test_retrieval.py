"""Retrieval against scikit-learn's average precision, and random features against the closed form."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from components.core.evaluation import retrieval
from components.core.evaluation.similarity import cosine_similarities


def test_average_precision_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK_CELLS", 500)
    generator = np.random.default_rng(0)
    rows_ND, labels_N = generator.standard_normal((70, 4)).astype(np.float32), generator.integers(-1, 4, 70)
    labels_N[0] = 9  # alone in its class
    cosines_NN = cosine_similarities(rows_ND).astype(float)
    known = np.flatnonzero(labels_N >= 0)
    expected, hits = [], []
    for query in known[labels_N[known] != 9]:
        others = known[known != query]
        is_right = labels_N[others] == labels_N[query]
        expected.append(average_precision_score(is_right, cosines_NN[query, others]))
        hits.append(is_right[cosines_NN[query, others].argmax()])
    found = retrieval.retrieve(rows_ND, {"object": labels_N, "none": np.full(70, -1)}, max_queries=100, seed=0)
    assert list(found) == ["object"] and found["object"].num_queries == len(expected)
    assert found["object"].mean_average_precision == pytest.approx(np.mean(expected), abs=1e-5)
    assert found["object"].at_1 == pytest.approx(np.mean(hits))


def test_features_that_are_the_class_find_everything() -> None:
    labels_N = np.arange(60) % 3
    found = retrieval.retrieve(np.eye(3, dtype=np.float32)[labels_N], {"f": labels_N}, max_queries=20, seed=0)["f"]
    assert (found.at_1, found.mean_average_precision, found.num_queries) == (1, 1, 20)


def test_random_features_reach_the_closed_form_of_chance() -> None:
    generator = np.random.default_rng(1)
    labels_N = np.repeat(np.arange(6), (5, 10, 20, 40, 80, 145))
    found = []
    for _ in range(12):
        rows_ND = generator.standard_normal((300, 32)).astype(np.float32)
        found.append(retrieval.retrieve(rows_ND, {"f": labels_N}, max_queries=300, seed=0)["f"])
    at_1, precision = (np.mean([getattr(f, n) for f in found]) for n in ("at_1", "mean_average_precision"))
    assert precision == pytest.approx(found[0].chance_average_precision, rel=0.02)
    assert at_1 == pytest.approx(found[0].chance_at_1, abs=0.02)


def test_the_chance_of_average_precision_is_the_mean_over_all_rankings() -> None:
    of_rankings = []
    for places in itertools.combinations(range(8), 3):
        is_right = np.isin(np.arange(8), places)
        of_rankings.append(average_precision_score(is_right, -np.arange(8)))
    assert retrieval.chance_average_precision(np.array(3), 8) == pytest.approx(np.mean(of_rankings))
    assert retrieval.chance_average_precision(np.array(8), 8) == pytest.approx(1)
