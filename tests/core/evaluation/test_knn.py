"""k-NN by DINO's protocol."""

import numpy
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from components.core.evaluation.knn import predict


def test_it_predicts_what_scikit_learn_predicts_with_the_same_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(500, 8, generator=generator), torch.randn(300, 8, generator=generator)
    labels = torch.randint(0, 4, (500,), generator=generator)

    found = predict(train, labels, test, neighbours=(10, 100), num_classes=4, temperature=0.07)

    for k in (10, 100):
        reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: numpy.exp((1 - distance) / 0.07))
        expected = reference.fit(train.numpy(), labels.numpy()).predict(test.numpy())
        assert (found[k].numpy() == expected).mean() > 0.995


def test_a_k_above_the_training_set_is_left_out() -> None:
    train, labels = torch.eye(12), torch.arange(12) % 2
    assert list(predict(train, labels, train, neighbours=(10, 20), num_classes=2, temperature=0.07)) == [10]


def test_a_training_set_smaller_than_every_k_is_refused() -> None:
    with pytest.raises(ValueError, match="needs as many training pictures"):
        predict(torch.eye(3), torch.arange(3), torch.eye(3), neighbours=(10,), num_classes=3, temperature=0.07)
