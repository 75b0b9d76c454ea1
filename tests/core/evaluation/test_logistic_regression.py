"""Logistic regression by L-BFGS."""

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from components.core.evaluation import logistic_regression
from components.core.evaluation.splits import validation_split


def blobs(n: int, *, seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 5, (n,), generator=generator)
    return 3 + centres[labels] + spread * torch.randn(n, 16, generator=generator), labels


def scaled(features: Tensor) -> numpy.ndarray:
    return ((features - features.mean(dim=0)) / features.std(dim=0, correction=0)).double().numpy()


@pytest.mark.parametrize("inverse_strength", [1e-3, 1.0, 1e2])
def test_its_weights_are_scikit_learns(inverse_strength: float) -> None:
    features, labels = blobs(800, seed=0)
    start = torch.zeros(17, 5, dtype=torch.float64)
    head, _, is_converged = logistic_regression.solve(features, labels, inverse_strength, start, 1e-8)
    reference = LogisticRegression(C=inverse_strength, tol=1e-8, max_iter=10_000)
    reference.fit(scaled(features), labels.numpy())
    assert is_converged
    numpy.testing.assert_allclose(head.weight_DC.T.numpy(), reference.coef_, atol=1e-4)
    centred = head.bias_C - head.bias_C.mean()  # a shift of all biases is free
    numpy.testing.assert_allclose(centred.numpy(), reference.intercept_ - reference.intercept_.mean(), atol=1e-4)


def test_its_accuracy_is_scikit_learns_at_the_chosen_strength() -> None:
    (features, labels), (test, truth) = blobs(1000, seed=0), blobs(4000, seed=1)
    found = logistic_regression.fit(features, labels, validation_split(labels, 0.2, seed=0), num_classes=5)
    reference = LogisticRegression(C=found.inverse_strength, max_iter=1000).fit(scaled(features), labels.numpy())
    moved = (test - features.mean(dim=0)) / features.std(dim=0, correction=0)
    ours = float((found.head.predict(test) == truth).double().mean())
    assert found.is_converged
    assert ours == pytest.approx(reference.score(moved.double().numpy(), truth.numpy()), abs=0.001)


def test_a_warm_start_changes_where_a_fit_begins_and_not_where_it_ends() -> None:
    features, labels = blobs(500, seed=0)
    cold = torch.zeros(17, 5, dtype=torch.float64)
    _, warm, _ = logistic_regression.solve(features, labels, 0.1, cold, 1e-8)
    first, second = (logistic_regression.solve(features, labels, 1.0, start, 1e-8)[0] for start in (cold, warm))
    torch.testing.assert_close(first.weight_DC, second.weight_DC, atol=1e-5, rtol=1e-4)


def test_pictures_in_chunks_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(300, seed=0)
    weight = torch.randn(17, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = logistic_regression._cross_entropy(features, labels, weight)
    monkeypatch.setattr(logistic_regression, "CHUNK", 37)
    chunked = logistic_regression._cross_entropy(features, labels, weight)
    assert chunked[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(chunked[1], whole[1])


def test_the_strength_is_the_one_that_scikit_learn_does_best_with_on_the_validation_split() -> None:
    features, labels = blobs(800, seed=0)
    split = validation_split(labels, 0.2, seed=0)
    found = logistic_regression.fit(features, labels, split, num_classes=5, tolerance=1e-7)
    kept = features[split.kept]
    moved = (features[split.held_out] - kept.mean(dim=0)) / kept.std(dim=0, correction=0)
    accuracies = {}
    for inverse_strength in logistic_regression.INVERSE_STRENGTHS:
        reference = LogisticRegression(C=inverse_strength, tol=1e-7, max_iter=10_000)
        reference.fit(scaled(kept), labels[split.kept].numpy())
        accuracies[inverse_strength] = reference.score(moved.double().numpy(), labels[split.held_out].numpy())
    assert found.inverse_strength == max(accuracies, key=lambda inverse_strength: accuracies[inverse_strength])
    assert found.validation_accuracy == pytest.approx(max(accuracies.values()))
