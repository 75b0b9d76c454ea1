# N pictures, D width, C classes.
"""A linear classifier for standardised features, whichever way it was trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 16_384
MIN_STD = 1e-6


@dataclass(frozen=True)
class LinearHead:
    """A head with the standardisation that it was trained with.

    Attributes:
        weight_DC, bias_C: For standardised features.
        mean_D, std_D: Of the features that it was trained on.
    """

    weight_DC: Tensor
    bias_C: Tensor
    mean_D: Tensor
    std_D: Tensor

    def predict(self, features_ND: Tensor) -> Tensor:
        """Returns the class of each picture, (N,), on the CPU; of equal logits the first."""
        found = []
        for part_ND in features_ND.split(CHUNK):
            scaled_ND = (part_ND.to(self.weight_DC.dtype) - self.mean_D) / self.std_D
            found.append((scaled_ND @ self.weight_DC + self.bias_C).argmax(dim=1).cpu())
        return torch.cat(found)


def standardisation(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each feature, (D,) each; a constant feature gets a small deviation."""
    return features_ND.mean(dim=0), features_ND.std(dim=0, correction=0).clamp_min(MIN_STD)
