# B batch, T context length, D width, E embedding.
"""CLIP's text transformer: causal, pre-norm, read at the end-of-text token.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020,
section 2.4: open_clip's TextTransformer, whose weights it can therefore load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.core.models.torchvision_cpu import allow_torchvision_import


class TextTower(nn.Module):
    """Maps token ids (B, T) to embeddings (B, E).

    The end-of-text token must have the highest id of the vocabulary: the tower reads the state at the highest
    id.

    Args:
        vocab_size: number of token ids.
        context_length: longest text in tokens.
        width: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads; must divide width.
        embedding_dim: E, the space shared with the images.
        seed: the same seed gives the same bits.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        num_heads: int,
        embedding_dim: int,
        seed: int,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"text width={width} is not a multiple of num_heads={num_heads}: change one of them.")
        allow_torchvision_import()
        from open_clip.transformer import TextTransformer

        self.context_length, self.width, self.depth, self.embedding_dim = (
            context_length,
            width,
            depth,
            embedding_dim,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.transformer = TextTransformer(
                context_length=context_length,
                vocab_size=vocab_size,
                width=width,
                heads=num_heads,
                layers=depth,
                output_dim=embedding_dim,
            )

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Returns the projection of the state at the end-of-text token, (B, E), not normalised."""
        return self.transformer(tokens_BT)
