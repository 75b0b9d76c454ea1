# N pictures.
"""A validation split carved out of the training pictures, so that nothing is ever chosen on the test split."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Which training pictures are trained on while settings are compared, and which they are compared on.

    Attributes:
        kept: Numbers of the pictures to train on, ascending; every class is among them.
        held_out: Numbers of the others, ascending.
    """

    kept: Tensor
    held_out: Tensor


def validation_split(labels_N: Tensor, fraction: float, seed: int) -> Split:
    """Returns a stratified split: every class gives its share to within one picture, and keeps at least one.

    The pictures lie shuffled within their class, class after class, and every (1 / fraction)-th is held out.

    Args:
        labels_N: Class of each training picture.
        fraction: Share to hold out, in (0, 0.5].
        seed: Decides which pictures.

    Raises:
        ValueError: Not one picture can be held out.
    """
    labels_N = labels_N.cpu()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels_N), generator=generator)
    is_alone = torch.bincount(labels_N)[labels_N[shuffled]] == 1
    spare = shuffled[~is_alone]
    ordered = spare[labels_N[spare].argsort(stable=True)]
    taken = (torch.arange(len(ordered) + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    is_held_out = torch.zeros(len(labels_N), dtype=torch.bool)
    is_held_out[ordered[taken.diff() > 0]] = True
    if not is_held_out.any():
        raise ValueError(
            f"{len(labels_N)} labelled training pictures are too few to hold out {fraction:.0%} for validation"
        )
    return Split((~is_held_out).nonzero()[:, 0], is_held_out.nonzero()[:, 0])
