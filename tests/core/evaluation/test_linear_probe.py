"""The linear probe."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from components.core.evaluation.linear_probe import fit


def blobs(n: int, *, seed: int, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99)) * 1.5
    labels = torch.randint(0, 5, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, 16, generator=generator), labels


def probe(features: Tensor, labels: Tensor, seed: int = 0):
    return fit(features, labels, num_classes=5, validation_fraction=0.2, epochs=30, batch_size=128, seed=seed)


def test_it_is_as_accurate_as_scikit_learns_logistic_regression() -> None:
    (train, labels), (test, truth) = blobs(1500, seed=0), blobs(1500, seed=1)
    reference = LogisticRegression(max_iter=1000).fit(train.numpy(), labels.numpy()).score(test.numpy(), truth.numpy())
    ours = float((probe(train, labels).predict(test) == truth).float().mean())
    assert ours == pytest.approx(reference, abs=0.01)


def test_scale_and_offset_of_a_feature_change_nothing() -> None:
    (train, labels), (test, _) = blobs(400, seed=0), blobs(200, seed=1)
    scale, offset = torch.linspace(0.1, 10, 16), torch.linspace(-5, 5, 16)
    plain, moved = probe(train, labels), probe(train * scale + offset, labels)
    assert (plain.predict(test) == moved.predict(test * scale + offset)).float().mean() > 0.99


def test_the_same_seed_gives_the_same_probe() -> None:
    train, labels = blobs(300, seed=0)
    assert torch.equal(probe(train, labels).weight_DC, probe(train, labels).weight_DC)


def test_random_labels_are_not_learnt() -> None:
    (train, _), (test, truth) = blobs(600, seed=0), blobs(1000, seed=1)
    labels = torch.randint(0, 5, (600,), generator=torch.Generator().manual_seed(3))
    assert float((probe(train, labels).predict(test) == truth).float().mean()) < 0.3


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        probe(torch.randn(2, 16), torch.tensor([0, 1]))
