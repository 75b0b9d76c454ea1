# B batch, N image tokens, P prefix (start token, image tokens), T text tokens, M asked for, E width, V vocabulary.
"""Several questions about one picture share its tokens.

They stand one after the other, each sees the picture and itself and not the others, and its positions go on where the
picture ends. So each is computed as if it stood alone, and the picture once.
"""

import torch
from torch import Tensor

from components.core.models.language_model import LanguageModel

NO_TURN = -1  # turn of a padding token


def text_logits(
    language_model: LanguageModel, prefix_BNE: Tensor, tokens_BT: Tensor, turns_BT: Tensor, is_asked_BT: Tensor
) -> Tensor:
    """Returns the logits (M, V) of the M text tokens that are asked for, row by row, after a prefix of vectors.

    Only these are computed: with short replies the vocabulary's scores elsewhere would be most of the work.

    Args:
        prefix_BNE: Projected image tokens, or words in their place.
        tokens_BT: Text; a turn without prompt can only stand first.
        turns_BT: Number of the turn that each token belongs to, NO_TURN for padding.
        is_asked_BT: The tokens to predict, each from all before it that it sees.
    """
    words_BTE = language_model.embed(tokens_BT)
    prefix_BPE = _with_start(language_model, prefix_BNE.to(words_BTE))
    num_prefix = prefix_BPE.shape[1]
    vectors_BSE = torch.cat([prefix_BPE, words_BTE], dim=1)
    is_before_BS = torch.nn.functional.pad(is_asked_BT, (num_prefix - 1, 1))  # the position before each asked token
    states_BSE = language_model.states(vectors_BSE, seen(turns_BT, num_prefix), positions(turns_BT, num_prefix))
    return language_model.scores(states_BSE[is_before_BS])


def seen(turns_BT: Tensor, num_prefix: int) -> Tensor:
    """Returns (B, 1, P+T, P+T): True where a token (row) sees another (column)."""
    batch, length = turns_BT.shape
    total = num_prefix + length
    is_before_SS = torch.ones(total, total, dtype=torch.bool, device=turns_BT.device).tril()
    is_same_BTT = turns_BT[:, :, None] == turns_BT[:, None, :]
    mask_BSS = is_before_SS.expand(batch, total, total).clone()
    mask_BSS[:, num_prefix:, num_prefix:] &= is_same_BTT
    return mask_BSS[:, None]


def positions(turns_BT: Tensor, num_prefix: int) -> Tensor:
    """Returns (B, P+T): each turn counts on from the end of the prefix."""
    index_T = torch.arange(turns_BT.shape[1], device=turns_BT.device)
    is_first_BT = torch.ones_like(turns_BT, dtype=torch.bool)
    is_first_BT[:, 1:] = turns_BT[:, 1:] != turns_BT[:, :-1]
    start_BT = torch.where(is_first_BT, index_T, 0).cummax(dim=1).values
    prefix_BP = torch.arange(num_prefix, device=turns_BT.device).expand(len(turns_BT), -1)
    return torch.cat([prefix_BP, num_prefix + index_T - start_BT], dim=1)


def _with_start(language_model: LanguageModel, prefix_BNE: Tensor) -> Tensor:
    """Returns the prefix behind the start token, where the language model has one."""
    if language_model.start_id is None:
        return prefix_BNE
    start_B1 = torch.full((len(prefix_BNE), 1), language_model.start_id, device=prefix_BNE.device)
    return torch.cat([language_model.embed(start_B1), prefix_BNE], dim=1)
