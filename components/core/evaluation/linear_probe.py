# N pictures, D width, C classes, G heads of the grid.
"""Linear probe on frozen features: a grid of heads trained in one pass, the choice made on a validation split.

The recipe is the paper's: standardised features, AdamW, a grid of learning rate and weight decay. Unlike in the public
code of it, the choice never sees the test split, and one schedule spans the whole training.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEARNING_RATES = (1e-3, 1e-2, 1e-1)
WEIGHT_DECAYS = (0.0, 1e-2, 1.0)
GRID = tuple(itertools.product(LEARNING_RATES, WEIGHT_DECAYS))


@dataclass(frozen=True)
class Probe:
    """A chosen and trained probe.

    Attributes:
        learning_rate, weight_decay: The grid's choice.
        validation_accuracy: Of the choice, on the validation split.
        weight_DC, bias_C: The head, for standardised features.
        mean_D, std_D: The standardisation, from the training split.
    """

    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    weight_DC: Tensor
    bias_C: Tensor
    mean_D: Tensor
    std_D: Tensor

    def predict(self, features_ND: Tensor) -> Tensor:
        """Returns the class of each picture, (N,)."""
        return (((features_ND - self.mean_D) / self.std_D) @ self.weight_DC + self.bias_C).argmax(dim=1)


def fit(
    features_ND: Tensor,
    labels_N: Tensor,
    *,
    num_classes: int,
    validation_fraction: float,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Probe:
    """Returns the probe that does best on a validation split, trained again on all of the training data.

    Raises:
        ValueError: There are too few pictures to carve out a validation split.
    """
    num_validation = round(len(features_ND) * validation_fraction)
    if num_validation < 1 or len(features_ND) - num_validation < 2:
        raise ValueError(f"{len(features_ND)} labelled training pictures are too few for a probe and its validation.")
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(features_ND), generator=generator)
    held_out, kept = order_N[:num_validation], order_N[num_validation:]
    scaled_ND, _, _ = _standardise(features_ND, features_ND[kept])
    heads = _train(scaled_ND[kept], labels_N[kept], GRID, num_classes, epochs, batch_size, seed)
    accuracies = [
        float(((scaled_ND[held_out] @ weight + bias).argmax(dim=1) == labels_N[held_out]).float().mean())
        for weight, bias in heads
    ]
    best = max(range(len(GRID)), key=lambda g: accuracies[g])
    scaled_ND, mean_D, std_D = _standardise(features_ND, features_ND)
    ((weight_DC, bias_C),) = _train(scaled_ND, labels_N, (GRID[best],), num_classes, epochs, batch_size, seed)
    return Probe(*GRID[best], accuracies[best], weight_DC, bias_C, mean_D, std_D)


def _standardise(features_ND: Tensor, reference_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean_D, std_D = reference_ND.mean(dim=0), reference_ND.std(dim=0).clamp_min(1e-6)
    return (features_ND - mean_D) / std_D, mean_D, std_D


def _train(
    features_ND: Tensor,
    labels_N: Tensor,
    grid: tuple[tuple[float, float], ...],
    num_classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    """Returns (weight, bias) of each setting of the grid; they share batches and products, and nothing else."""
    width = features_ND.shape[1]
    weights = [nn.Parameter(torch.zeros(width, num_classes)) for _ in grid]
    biases = [nn.Parameter(torch.zeros(num_classes)) for _ in grid]
    groups = [
        {"params": [weight, bias], "lr": rate, "weight_decay": decay}
        for weight, bias, (rate, decay) in zip(weights, biases, grid, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, foreach=True)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(features_ND) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for index_B in torch.randperm(len(features_ND), generator=generator).split(batch_size):
            logits_BGC = (features_ND[index_B] @ torch.cat([*weights], dim=1) + torch.cat([*biases])).unflatten(
                1, (len(grid), -1)
            )
            targets_BG = labels_N[index_B, None].expand(-1, len(grid))
            loss = F.cross_entropy(logits_BGC.flatten(0, 1), targets_BG.flatten(), reduction="sum") / len(index_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return [(weight.detach(), bias.detach()) for weight, bias in zip(weights, biases, strict=True)]
