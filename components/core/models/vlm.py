# B batch, N image tokens, P prefix (start token, image tokens), T text tokens, M asked for, D, E widths, V vocabulary.
"""A vision-language model as LLaVA builds it: frozen encoder, projector, causal language model.

Liu et al., arXiv 2304.08485 and 2310.03744. The image is the patch tokens that leave the encoder's second-to-last
block, without CLS and without the final norm, the same rule for every arm; projected, they stand before the text.

Several questions about one picture share its tokens: they stand one after the other, each sees the picture and itself
and not the others, and its positions go on where the picture ends. So each is computed as if it stood alone.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from components.core.data.questions import LETTERS
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.models.trunk import PIXEL_MEAN, Trunk

NO_TURN = -1  # turn of a padding token


class VisionLanguageModel(nn.Module):
    """Encoder, projector and language model."""

    def __init__(self, encoder: Trunk, projector: Projector, language_model: LanguageModel) -> None:
        super().__init__()
        self.encoder, self.projector, self.language_model = encoder, projector, language_model

    @torch.no_grad()
    def features(self, pictures_BCSS: Tensor) -> Tensor:
        """Returns the image tokens before the projector, (B, N, D), of uint8 pictures of the encoder's size."""
        return image_features(self.encoder, pictures_BCSS)

    def choose_letters(
        self, features_BND: Tensor, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[str]:
        """Returns the letter whose reply begins best after each prompt, from one forward pass.

        Args:
            features_BND: The picture of each prompt.
            prompts: VMCBench's prompts.
            options: The four options of each prompt.
        """
        ids = [self.language_model.encode(prompt) for prompt in prompts]
        length = max(len(row) for row in ids) + 1  # room for the reply's first token, which is scored and not given
        tokens_BT = torch.zeros(len(ids), length, dtype=torch.int64)
        turns_BT = torch.full((len(ids), length), NO_TURN)
        is_asked_BT = torch.zeros(len(ids), length, dtype=torch.bool)
        for row, prompt in enumerate(ids):
            tokens_BT[row, : len(prompt)] = torch.tensor(prompt)
            turns_BT[row, : len(prompt)] = 0
            is_asked_BT[row, len(prompt)] = True
        device = features_BND.device
        scores_BV = text_logits(
            self.language_model,
            self.projector(features_BND),
            tokens_BT.to(device),
            turns_BT.to(device),
            is_asked_BT.to(device),
        )
        first_B4 = torch.tensor([self.language_model.first_ids(texts) for texts in options], device=device)
        return [LETTERS[choice] for choice in scores_BV.gather(1, first_B4).argmax(dim=1).tolist()]

    def generate(self, features_BND: Tensor, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Returns the most likely reply to each prompt, chosen token by token, up to the end token."""
        prefix_BPE = _with_start(self.language_model, self.projector(features_BND))
        ids = [self.language_model.encode(prompt) for prompt in prompts]
        length, num_prefix = max(len(row) for row in ids), prefix_BPE.shape[1]
        vectors_BSE = prefix_BPE.new_zeros(len(ids), num_prefix + length, prefix_BPE.shape[2])
        mask_BS = torch.zeros(len(ids), num_prefix + length, dtype=torch.int64, device=prefix_BPE.device)
        for row, prompt in enumerate(ids):  # padded at the left, so that all replies begin together
            words_TE = self.language_model.embed(torch.tensor(prompt, device=prefix_BPE.device))
            vectors_BSE[row, length - len(prompt) :] = torch.cat([prefix_BPE[row], words_TE.to(prefix_BPE)])
            mask_BS[row, length - len(prompt) :] = 1
        end = self.language_model.end_id
        output = self.language_model.model.generate(
            inputs_embeds=vectors_BSE,
            attention_mask=mask_BS,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        return [self.language_model.decode(row) for row in output.tolist()]


def image_features(encoder: Trunk, pictures_BCSS: Tensor) -> Tensor:
    """Returns the patch tokens of the second-to-last block, (B, N, D), of uint8 pictures."""
    return encoder.tokens(pictures_BCSS.float() / 255).penultimate_BND


def square_picture(picture: Image.Image, size_px: int) -> Image.Image:
    """Returns the picture padded to a square with the encoder's mean colour, and resized, as LLaVA-1.5 does."""
    side = max(picture.size)
    if picture.size != (side, side):
        mean = tuple(round(255 * channel) for channel in PIXEL_MEAN)
        square = Image.new("RGB", (side, side), mean)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    return picture if side == size_px else picture.resize((size_px, size_px), Image.Resampling.BICUBIC)


def text_logits(
    language_model: LanguageModel, prefix_BNE: Tensor, tokens_BT: Tensor, turns_BT: Tensor, is_asked_BT: Tensor
) -> Tensor:
    """Returns the logits (M, V) of the M text tokens that are asked for, row by row, after a prefix of vectors.

    Args:
        prefix_BNE: Projected image tokens, or words in their place.
        tokens_BT: Text; a turn without prompt can only stand first.
        turns_BT: Number of the turn that each token belongs to, NO_TURN for padding.
        is_asked_BT: The tokens to predict, each from all before it that it sees.
    """
    prefix_BPE = _with_start(language_model, prefix_BNE)
    num_prefix = prefix_BPE.shape[1]
    vectors_BSE = torch.cat([prefix_BPE, language_model.embed(tokens_BT).to(prefix_BPE)], dim=1)
    is_before_BS = torch.nn.functional.pad(is_asked_BT, (num_prefix - 1, 1))  # the position before each asked token
    return language_model.logits(vectors_BSE, seen(turns_BT, num_prefix), positions(turns_BT, num_prefix), is_before_BS)


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
    return torch.cat([language_model.embed(start_B1).to(prefix_BNE), prefix_BNE], dim=1)
