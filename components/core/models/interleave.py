# B batch, K pictures of a row, N tokens of a picture, T tokens with a picture counted as one, S with N, E width.
"""Text with pictures anywhere in it, as one row of vectors for a language model.

Every picture's N tokens stand where its IMAGE stood, and positions count on through them, as in LLaVA (Liu et al.,
arXiv 2304.08485) and in transformers' LlavaForConditionalGeneration. Rows are padded at the right only, where a causal
model's text sees nothing of it: no mask is needed, so attention takes its fastest kernel. Sizes come from shapes, not
from values, so that no host waits for a device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.core.data.conversation import IMAGE
from components.core.models.language_model import LanguageModel


class Interleaved(NamedTuple):
    """Rows of vectors, with S = T + K (N - 1) places.

    Attributes:
        vectors_BSE: Words and pictures, at the left; what fills up is of no use.
        starts_BT: Where each token stands, or a picture's first; padding is said to stand where its row ends.
        lengths_B: Places of a row that are in use.
    """

    vectors_BSE: Tensor
    starts_BT: Tensor
    lengths_B: Tensor


def interleave(
    language_model: LanguageModel, pictures_BKNE: Tensor, tokens_BT: Tensor, is_text_BT: Tensor
) -> Interleaved:
    """Returns rows of tokens as vectors, in the type of the language model's words.

    Args:
        language_model: Gives the words' vectors.
        pictures_BKNE: Projected pictures; row b uses as many of its first ones as it has IMAGEs, K at most.
        tokens_BT: Ids, with IMAGE where a picture stands, and anything that is no IMAGE as padding at the right.
        is_text_BT: False at padding.
    """
    length, (num_pictures, num_tokens) = tokens_BT.shape[1], pictures_BKNE.shape[1:3]
    total = length + num_pictures * (num_tokens - 1)
    is_picture_BT = tokens_BT == IMAGE
    sizes_BT = is_text_BT.long() + is_picture_BT * (num_tokens - 1)
    ends_BT = sizes_BT.cumsum(dim=1)
    starts_BT = ends_BT - sizes_BT
    device = tokens_BT.device
    nth_BT = is_picture_BT.cumsum(dim=1).where(is_picture_BT, 0)  # counted from 1; 0 for words
    first_BK = torch.full((len(tokens_BT), 1 + num_pictures), total, device=device).scatter_(1, nth_BT, starts_BT)
    places_BKN = (first_BK[:, 1:, None] + torch.arange(num_tokens, device=device)).clamp(max=total)
    places_BT = starts_BT.where(is_text_BT & ~is_picture_BT, total)  # what is not wanted goes to the place behind S
    sources_BS = tokens_BT.new_zeros(len(tokens_BT), total + 1)
    sources_BS.scatter_(1, places_BT, torch.arange(length, device=device).expand_as(places_BT))
    behind = length + torch.arange(num_pictures * num_tokens, device=device).expand(len(tokens_BT), -1)
    sources_BS.scatter_(1, places_BKN.flatten(1), behind)
    words_BTE = language_model.embed(tokens_BT.clamp(min=0))
    given = torch.cat([words_BTE, pictures_BKNE.flatten(1, 2).to(words_BTE)], dim=1)
    return Interleaved(rows(given, sources_BS[:, :total]), starts_BT, ends_BT[:, -1])


def padded(token_rows: Sequence[Sequence[int]], padding_id: int) -> tuple[Tensor, Tensor]:
    """Returns rows of ids padded at the right, (B, T), and where they are text."""
    length = max(len(row) for row in token_rows)
    tokens_BT = torch.tensor([[*row, *[padding_id] * (length - len(row))] for row in token_rows])
    return tokens_BT, torch.tensor([[place < len(row) for place in range(length)] for row in token_rows])


def rows(vectors_BTE: Tensor, index_BS: Tensor) -> Tensor:
    """Returns of each row of the batch the vectors that its indices name, (B, S, E)."""
    return vectors_BTE.gather(1, index_BS[:, :, None].expand(-1, -1, vectors_BTE.shape[2]))
