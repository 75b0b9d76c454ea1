# N pictures, B batch, D features, F features and a constant, C classes, G heads of the grid.
"""Linear probe on frozen features: a grid of heads trained in one pass, the choice made on a validation split.

The recipe is the paper's: standardised features, AdamW, a grid of learning rate and weight decay. Unlike in the public
code of it, the choice never sees the test split, and one schedule spans the whole training.

The heads see the same batches, so their products are one product; gradient and AdamW (Loshchilov and Hutter,
arXiv 1711.05101) are written out for all of them at once. Each head ends where torch.optim.AdamW takes it alone.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.core.evaluation.linear_head import CHUNK, LinearHead, standardisation
from components.core.evaluation.splits import Split

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch.optim.AdamW

Grid = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the heads are trained.

    Attributes:
        learning_rates: Peaks of the cosine schedule.
        weight_decays: Of weights and biases.
        epochs: Over the training pictures.
        batch_size: B.
        seed: Of the order of the pictures.
    """

    learning_rates: Sequence[float]
    weight_decays: Sequence[float]
    epochs: int
    batch_size: int
    seed: int

    @property
    def grid(self) -> Grid:
        """All pairs of learning rate and weight decay; of equally good ones the first is taken."""
        return tuple(itertools.product(self.learning_rates, self.weight_decays))


@dataclass(frozen=True)
class Probe:
    """A chosen and trained probe.

    Attributes:
        learning_rate, weight_decay: The grid's choice.
        validation_accuracy: Of the choice, on the validation split.
        head: Trained with it on all of the training pictures.
    """

    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    head: LinearHead


def fit(features_ND: Tensor, labels_N: Tensor, split: Split, *, num_classes: int, recipe: Recipe) -> Probe:
    """Returns the probe that does best on the validation split, trained again on all of the training pictures."""
    mean_D, std_D = standardisation(features_ND[split.kept])
    inputs_NF = _with_constant((features_ND - mean_D) / std_D)
    kept, held_out = inputs_NF[split.kept], inputs_NF[split.held_out]
    weight_FCG = train(kept, labels_N[split.kept], recipe.grid, num_classes, recipe)
    accuracy_G = _accuracies(weight_FCG, held_out, labels_N[split.held_out])
    best = max(range(len(recipe.grid)), key=lambda number: accuracy_G[number])
    mean_D, std_D = standardisation(features_ND)
    inputs_NF = _with_constant((features_ND - mean_D) / std_D)
    weight_FC = train(inputs_NF, labels_N, recipe.grid[best : best + 1], num_classes, recipe)[..., 0]
    head = LinearHead(weight_FC[:-1].contiguous(), weight_FC[-1].contiguous(), mean_D, std_D)
    return Probe(*recipe.grid[best], accuracy_G[best], head)


def train(inputs_NF: Tensor, labels_N: Tensor, grid: Grid, num_classes: int, recipe: Recipe) -> Tensor:
    """Returns the weights of a head for each setting of the grid, (F, C, G).

    Args:
        inputs_NF: Standardised features, and a constant 1 whose weight is the bias.
        labels_N: Classes.
        grid: Learning rate and weight decay of each head.
        num_classes: C.
        recipe: Epochs, batch size and seed.
    """
    rate_G, decay_G = (inputs_NF.new_tensor(values) for values in zip(*grid, strict=True))
    weight_FCG = inputs_NF.new_zeros(inputs_NF.shape[1], num_classes, len(grid))
    mean_FCG, square_FCG, gradient_FCG, update_FCG = (torch.zeros_like(weight_FCG) for _ in range(4))
    generator = torch.Generator().manual_seed(recipe.seed)
    num_steps = recipe.epochs * -(-len(inputs_NF) // recipe.batch_size)
    batches = (
        index_B.to(inputs_NF.device)
        for _ in range(recipe.epochs)
        for index_B in torch.randperm(len(inputs_NF), generator=generator).split(recipe.batch_size)
    )
    for step, index_B in enumerate(batches):
        _gradient(inputs_NF[index_B], labels_N[index_B], weight_FCG, gradient_FCG)
        mean_FCG.lerp_(gradient_FCG, 1 - BETA1)
        square_FCG.mul_(BETA2).addcmul_(gradient_FCG, gradient_FCG, value=1 - BETA2)
        torch.sqrt(square_FCG, out=update_FCG)
        update_FCG.div_(math.sqrt(1 - BETA2 ** (step + 1))).add_(EPS)
        torch.div(mean_FCG, update_FCG, out=update_FCG)
        cosine = (1 + math.cos(math.pi * step / num_steps)) / 2
        weight_FCG.mul_(1 - cosine * rate_G * decay_G)
        weight_FCG.addcmul_(update_FCG, rate_G, value=-cosine / (1 - BETA1 ** (step + 1)))
    return weight_FCG


def _gradient(inputs_BF: Tensor, labels_B: Tensor, weight_FCG: Tensor, out_FCG: Tensor) -> None:
    """Writes the gradient of each head's mean cross-entropy: inputs' x (softmax - one-hot) / B."""
    num_pictures, num_classes, num_heads = len(inputs_BF), *weight_FCG.shape[1:]
    error_BCG = (inputs_BF @ weight_FCG.flatten(1)).unflatten(1, (num_classes, num_heads)).softmax(dim=1)
    true_class_B = torch.arange(num_pictures, device=labels_B.device) * num_classes + labels_B
    error_BCG.view(-1, num_heads)[true_class_B] -= 1
    torch.mm(inputs_BF.T, error_BCG.flatten(1), out=out_FCG.view(len(out_FCG), -1))
    out_FCG.div_(num_pictures)


def _accuracies(weight_FCG: Tensor, inputs_NF: Tensor, labels_N: Tensor) -> list[float]:
    """Returns each head's accuracy."""
    chunk = max(1, CHUNK // weight_FCG.shape[2])
    num_right_G = torch.zeros(weight_FCG.shape[2], dtype=torch.long, device=weight_FCG.device)
    for part_NF, truth_N in zip(inputs_NF.split(chunk), labels_N.split(chunk), strict=True):
        logits_NCG = (part_NF @ weight_FCG.flatten(1)).unflatten(1, weight_FCG.shape[1:])
        num_right_G += (logits_NCG.argmax(dim=1) == truth_N[:, None]).sum(dim=0)
    return [num_right / len(inputs_NF) for num_right in num_right_G.tolist()]


def _with_constant(features_ND: Tensor) -> Tensor:
    return torch.cat([features_ND, features_ND.new_ones(len(features_ND), 1)], dim=1)
