"""k-NN by DINO's protocol."""

import numpy
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from components.core.evaluation.knn import nearest, predict, vote


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_predicts_what_scikit_learn_predicts_with_the_same_weights() -> None:
    train, test = random(900, 16), random(300, 16, seed=1)
    labels = torch.randint(0, 7, (900,), generator=torch.Generator().manual_seed(2))

    found = predict(train, labels, test, neighbours=(10, 20, 100, 200), num_classes=7, temperature=0.07)

    for k in (10, 20, 100, 200):
        reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: numpy.exp((1 - distance) / 0.07))
        expected = reference.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy())
        assert found[k].tolist() == expected.tolist()


@pytest.mark.parametrize("num_train", [5, 30, 31, 640, 1000])
def test_the_search_is_exact_whatever_the_tiles(num_train: int) -> None:
    train, test = random(num_train, 6), random(50, 6, seed=1)
    cosine = torch.nn.functional.cosine_similarity(test[:, None], train[None], dim=2)
    expected = cosine.topk(5, dim=1)
    for train_chunk, test_chunk in ((10_000, 1_000), (7, 3), (64, 50), (3, 50)):
        similarity, index = nearest(train, test, 5, train_chunk=train_chunk, test_chunk=test_chunk)
        torch.testing.assert_close(similarity, expected.values)
        assert torch.equal(index, expected.indices)


def test_the_order_of_the_training_pictures_changes_nothing() -> None:
    train, test, labels = random(400, 8), random(100, 8, seed=1), torch.arange(400) % 5
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    settings = {"neighbours": (10, 100), "num_classes": 5, "temperature": 0.07}
    found = predict(train, labels, test, **settings)
    moved = predict(train[order], labels[order], test, **settings)
    assert all(torch.equal(found[k], moved[k]) for k in (10, 100))


def test_votes_are_weighted_and_a_small_temperature_leaves_the_nearest_to_decide() -> None:
    similarity, labels = torch.tensor([[0.9, 0.8, 0.79, 0.1]]), torch.tensor([[2, 1, 1, 1]])
    for temperature, expected in ((10.0, [2, 2, 1, 1]), (0.001, [2, 2, 2, 2])):
        found = vote(similarity, labels, neighbours=(1, 2, 3, 4), num_classes=3, temperature=temperature)
        assert [int(found[k]) for k in (1, 2, 3, 4)] == expected


def test_a_k_above_the_training_set_is_left_out() -> None:
    train, labels = torch.eye(12), torch.arange(12) % 2
    assert list(predict(train, labels, train, neighbours=(10, 20), num_classes=2, temperature=0.07)) == [10]


def test_a_training_set_smaller_than_every_k_is_refused() -> None:
    with pytest.raises(ValueError, match="needs as many training pictures"):
        predict(torch.eye(3), torch.arange(3), torch.eye(3), neighbours=(10,), num_classes=3, temperature=0.07)
