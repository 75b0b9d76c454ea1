# B batch, D width of the trunk, K prototypes.
"""The projection that DINO compares: Caron et al., arXiv 2104.14294, section 3.1 and appendix C."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DinoHead(nn.Module):
    """Three-layer MLP with GELU, l2 norm, then cosines with K prototypes.

    The prototypes are the original's weight-normed last layer with its norm fixed at 1.

    Args:
        width: input width.
        hidden: width of the two hidden layers.
        bottleneck: width before the prototypes.
        out_dim: number of prototypes K.
        seed: seed of the init.
    """

    def __init__(self, *, width: int, hidden: int, bottleneck: int, out_dim: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Linear(hidden, bottleneck),
            )
            for layer in self.mlp:
                if isinstance(layer, nn.Linear):
                    # main_dino.py's 0.02, at its hidden width; a narrow head would be born shrunken and learn
                    # in jumps
                    nn.init.trunc_normal_(layer.weight, std=0.02 * math.sqrt(2_048 / hidden))
                    nn.init.zeros_(layer.bias)
            self.prototypes = nn.Parameter(torch.empty(out_dim, bottleneck))
            nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def forward(self, features_BD: Tensor, temperature: float = 1.0) -> Tensor:
        """Returns cosines divided by a temperature, (B, K)."""
        # dividing before the product spares a copy of B x K numbers
        return F.linear(F.normalize(self.mlp(features_BD), dim=1) / temperature, F.normalize(self.prototypes, dim=1))
