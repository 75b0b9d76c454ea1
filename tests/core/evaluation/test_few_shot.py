"""Few-shot least squares."""

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from components.core.evaluation.few_shot import L2, draws, least_squares, predict, usable_shots


def blobs(n: int, *, seed: int, width: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % 4
    return centres[labels] + torch.randn(n, width, generator=generator), labels


@pytest.mark.parametrize(("num_pictures", "width"), [(100, 12), (8, 40)])
def test_it_is_ridge_regression_with_an_almost_free_bias(num_pictures: int, width: int) -> None:
    (features, labels), (test, _) = blobs(num_pictures, seed=0, width=width), blobs(200, seed=1, width=width)
    head = least_squares(features, labels, 4)
    scaled = ((features.double() - head.mean_D) / head.std_D).numpy()
    reference = Ridge(alpha=L2).fit(scaled, (2 * torch.nn.functional.one_hot(labels) - 1).numpy())
    torch.testing.assert_close(head.weight_DC.T, torch.from_numpy(reference.coef_), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(head.bias_C, torch.from_numpy(reference.intercept_), atol=0.02, rtol=0.02)
    moved = ((test.double() - head.mean_D) / head.std_D).numpy()
    assert head.predict(test).tolist() == reference.predict(moved).argmax(axis=1).tolist()


def test_a_draw_has_n_pictures_of_each_class_and_larger_draws_hold_the_smaller() -> None:
    labels = torch.arange(60) % 3
    found = list(draws(labels, (1, 5), 3, seed=0))
    for drawn in found:
        assert {n: torch.bincount(labels[pictures]).tolist() for n, pictures in drawn.items()} == {
            1: [1] * 3,
            5: [5] * 3,
        }
        assert set(drawn[1].tolist()) <= set(drawn[5].tolist())
    assert len({frozenset(drawn[5].tolist()) for drawn in found}) == 3


def test_the_seed_decides_the_draws_and_more_shots_help() -> None:
    (features, labels), (test, truth) = blobs(400, seed=0), blobs(1000, seed=1)
    settings = {"shots": (1, 25), "num_draws": 5, "num_classes": 4}
    first, again, other = (predict(features, labels, test, **settings, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in (1, 25)) and not torch.equal(first[1], other[1])
    assert first[1].shape == (5, 1000)
    assert (first[25] == truth).double().mean() > (first[1] == truth).double().mean() + 0.1


def test_shots_are_usable_up_to_the_smallest_class() -> None:
    labels = torch.cat([torch.zeros(30), torch.ones(7)]).long()
    assert usable_shots(labels, 2) == [1, 5]
