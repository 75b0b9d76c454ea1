# B batch, N image tokens, D width of the encoder, E width of the language model.
"""LLaVA-1.5's projector: two linear layers with a GELU between them.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744, section 3.2 (`mlp2x_gelu`).
"""

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """Maps image tokens (B, N, D) to word vectors (B, N, E).

    Args:
        in_width: D.
        out_width: E.
        seed: The same seed gives the same bits, whatever was drawn before.
    """

    def __init__(self, *, in_width: int, out_width: int, seed: int) -> None:
        super().__init__()
        self.in_width, self.out_width = in_width, out_width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))

    def forward(self, features_BND: Tensor) -> Tensor:
        """Returns (B, N, E)."""
        return self.layers(features_BND)
