"""The validation split."""

import pytest
import torch

from components.core.evaluation.splits import validation_split


def labels_of(*sizes: int) -> torch.Tensor:
    labels = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_every_class_gives_its_share_to_within_one_picture() -> None:
    sizes = (100, 7, 33, 2, 250)
    labels = labels_of(*sizes)
    split = validation_split(labels, 0.2, seed=0)
    held_out = torch.bincount(labels[split.held_out], minlength=5)
    assert all(abs(int(n) - 0.2 * size) < 1 for n, size in zip(held_out, sizes, strict=True))
    assert len(split.held_out) == int(0.2 * sum(sizes))
    assert torch.cat([split.kept, split.held_out]).sort().values.tolist() == list(range(len(labels)))


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_every_class_is_kept(fraction: float) -> None:
    labels = labels_of(1, 2, 3, 1, 40, 1)
    assert set(labels[validation_split(labels, fraction, seed=1).kept].tolist()) == set(range(6))


def test_the_seed_decides() -> None:
    labels = labels_of(50, 50)
    first, again, other = (validation_split(labels, 0.2, seed) for seed in (0, 0, 1))
    assert torch.equal(first.held_out, again.held_out) and not torch.equal(first.held_out, other.held_out)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        validation_split(torch.tensor([0, 1]), 0.2, seed=0)
