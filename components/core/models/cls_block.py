# B batch, N tokens (CLS first), D width, H heads, E width of a head.
"""A transformer block that can be asked for its first token alone, with the same result and most of the work spared.

Where only CLS leaves the last block, as in every objective here, the other tokens are its keys and values and nothing
else: their queries, their output projection and their MLP (10/12 of the block's products with weights) lead nowhere.
"""

from typing import Any

import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor


class ClsBlock(Block):
    """timm's block, with the same parameters under the same names."""

    def forward(self, x: Tensor, *args: Any, is_cls_only: bool = False, **kwargs: Any) -> Tensor:
        """Returns the tokens (B, N, D) as timm's block does, or the first of them alone (B, 1, D)."""
        if not is_cls_only:
            return super().forward(x, *args, **kwargs)
        cls_B1D = x[:, :1] + self.drop_path1(self.ls1(self._attended(self.norm1(x))))
        return cls_B1D + self.drop_path2(self.ls2(self.mlp(self.norm2(cls_B1D))))

    def _attended(self, normed_BND: Tensor) -> Tensor:
        """Returns what the first token gets from attention, (B, 1, D)."""
        attention: Any = self.attn
        heads = (attention.num_heads, attention.head_dim)
        weight_query, weight_rest = attention.qkv.weight.tensor_split([attention.attn_dim])
        bias_query, bias_rest = attention.qkv.bias.tensor_split([attention.attn_dim])
        query_BH1E = F.linear(normed_BND[:, :1], weight_query, bias_query).unflatten(2, heads).transpose(1, 2)
        rest = F.linear(normed_BND, weight_rest, bias_rest).unflatten(2, (2, *heads))
        keys_BHNE, values_BHNE = rest.permute(2, 0, 3, 1, 4).unbind(0)
        found_BH1E = F.scaled_dot_product_attention(query_BH1E, keys_BHNE, values_BHNE)
        return attention.proj(found_BH1E.transpose(1, 2).flatten(2))
