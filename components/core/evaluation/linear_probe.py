# N pictures, B batch, D features, F features and a constant, C classes, G heads of the grid, X = G B.
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
    weight_CGF = train(kept, labels_N[split.kept], recipe.grid, num_classes, recipe)
    accuracy_G = _accuracies(weight_CGF, held_out, labels_N[split.held_out])
    best = max(range(len(recipe.grid)), key=lambda number: accuracy_G[number])
    mean_D, std_D = standardisation(features_ND)
    inputs_NF = _with_constant((features_ND - mean_D) / std_D)
    weight_FC = train(inputs_NF, labels_N, recipe.grid[best : best + 1], num_classes, recipe)[:, 0].T.contiguous()
    head = LinearHead(weight_FC[:-1], weight_FC[-1], mean_D, std_D)
    return Probe(*recipe.grid[best], accuracy_G[best], head)


def train(inputs_NF: Tensor, labels_N: Tensor, grid: Grid, num_classes: int, recipe: Recipe) -> Tensor:
    """Returns the weights of a head for each setting of the grid, (C, G, F).

    Args:
        inputs_NF: Standardised features, and a constant 1 whose weight is the bias.
        labels_N: Classes.
        grid: Learning rate and weight decay of each head.
        num_classes: C.
        recipe: Epochs, batch size and seed.
    """
    rate_G1, decay_G1 = (inputs_NF.new_tensor(values)[:, None] for values in zip(*grid, strict=True))
    weight_CGF = inputs_NF.new_zeros(num_classes, len(grid), inputs_NF.shape[1])
    mean_CGF, square_CGF, gradient_CGF, update_CGF = (torch.zeros_like(weight_CGF) for _ in range(4))
    generator = torch.Generator().manual_seed(recipe.seed)
    num_steps = recipe.epochs * -(-len(inputs_NF) // recipe.batch_size)
    batches = (
        index_B.to(inputs_NF.device)
        for _ in range(recipe.epochs)
        for index_B in torch.randperm(len(inputs_NF), generator=generator).split(recipe.batch_size)
    )
    for step, index_B in enumerate(batches):
        _gradient(inputs_NF[index_B], labels_N[index_B], weight_CGF, gradient_CGF)
        mean_CGF.lerp_(gradient_CGF, 1 - BETA1)
        square_CGF.mul_(BETA2).addcmul_(gradient_CGF, gradient_CGF, value=1 - BETA2)
        torch.sqrt(square_CGF, out=update_CGF)
        update_CGF.div_(math.sqrt(1 - BETA2 ** (step + 1))).add_(EPS)
        torch.div(mean_CGF, update_CGF, out=update_CGF)
        cosine = (1 + math.cos(math.pi * step / num_steps)) / 2
        weight_CGF.mul_(1 - cosine * rate_G1 * decay_G1)
        weight_CGF.addcmul_(update_CGF, rate_G1, value=-cosine / (1 - BETA1 ** (step + 1)))
    return weight_CGF


def _gradient(inputs_BF: Tensor, labels_B: Tensor, weight_CGF: Tensor, out_CGF: Tensor) -> None:
    """Writes the gradient of each head's mean cross-entropy: (softmax - one-hot) x inputs / B.

    Pictures lie innermost, so that softmax runs over whole vectors.
    """
    logits_CX = (weight_CGF.flatten(0, 1) @ inputs_BF.T).view(len(weight_CGF), -1)
    error_CGB = torch.softmax(logits_CX, dim=0).view(*weight_CGF.shape[:2], len(inputs_BF))
    one_hot_CB = torch.zeros_like(error_CGB[:, 0]).scatter_(0, labels_B[None], 1.0)
    error_CGB.sub_(one_hot_CB[:, None])
    torch.mm(error_CGB.flatten(0, 1), inputs_BF, out=out_CGF.flatten(0, 1))
    out_CGF.div_(len(inputs_BF))


def _accuracies(weight_CGF: Tensor, inputs_NF: Tensor, labels_N: Tensor) -> list[float]:
    """Returns each head's accuracy."""
    num_heads = weight_CGF.shape[1]
    chunk = max(1, CHUNK // num_heads)
    num_right_G = torch.zeros(num_heads, dtype=torch.long, device=weight_CGF.device)
    for part_NF, truth_N in zip(inputs_NF.split(chunk), labels_N.split(chunk), strict=True):
        logits_CGN = (weight_CGF.flatten(0, 1) @ part_NF.T).unflatten(0, weight_CGF.shape[:2])
        num_right_G += (logits_CGN.argmax(dim=0) == truth_N).sum(dim=1)
    return [num_right / len(inputs_NF) for num_right in num_right_G.tolist()]


def _with_constant(features_ND: Tensor) -> Tensor:
    return torch.cat([features_ND, features_ND.new_ones(len(features_ND), 1)], dim=1)
