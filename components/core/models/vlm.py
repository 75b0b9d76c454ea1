# B batch, N image tokens, T text tokens, S text and image tokens, D, E widths of tower and language model.
"""A vision-language model as LLaVA builds it: frozen tower, projector, causal language model.

Liu et al., arXiv 2304.08485 and 2310.03744. The image is the patch tokens that leave the tower's second-to-last block,
without CLS and without the final norm, the same rule for every arm; projected, they stand in the text's place for them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.core.data.conversation import Template, prompt_tokens
from components.core.data.llava_layout import IMAGE_MARK
from components.core.data.questions import LETTERS
from components.core.models.interleave import Interleaved, interleave, padded, rows
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.models.vision_tower import VisionTower


class VisionLanguageModel(nn.Module):
    """Tower, projector and language model, and the text around a question that they were trained with.

    Raises:
        ValueError: The tokenizer doesn't tell the letters A, B, C and D apart at the beginning of a reply.
    """

    def __init__(
        self, tower: VisionTower, projector: Projector, language_model: LanguageModel, template: Template
    ) -> None:
        super().__init__()
        self.tower, self.projector, self.language_model = tower, projector, language_model
        self.template = template
        self._lead, self._letters = self._in_context()

    @torch.no_grad()
    def features(self, pictures_BCSS: Tensor) -> Tensor:
        """Returns the image tokens before the projector, (B, N, D), of uint8 pictures that the tower prepared."""
        return self.tower(pictures_BCSS)

    @torch.no_grad()
    def choose_letters(
        self, features_BND: Tensor, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[str]:
        """Returns the letter whose reply begins best after each prompt, from one forward pass.

        Args:
            features_BND: The picture of each prompt.
            prompts: VMCBench's prompts.
            options: The options of each prompt, at most four.
        """
        asked = self._interleaved(features_BND, [self.tokens(prompt) + self._lead for prompt in prompts])
        states_BSE = self.language_model.states(asked.vectors_BSE)
        last_BE = rows(states_BSE, asked.lengths_B[:, None] - 1)[:, 0]
        first = [self._first_ids(texts)[: len(texts)] for texts in options]
        num = len(LETTERS)
        first_B4 = torch.tensor([(ids + ids[:1] * num)[:num] for ids in first])  # of equal scores the first one counts
        scores_B4 = self.language_model.some_scores(last_BE, first_B4.to(last_BE.device))
        return [LETTERS[choice] for choice in scores_B4.argmax(dim=1).tolist()]

    @torch.no_grad()
    def generate(self, features_BND: Tensor, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Returns the most likely reply to each prompt, chosen token by token, up to the end token."""
        asked = self._interleaved(features_BND, [self.tokens(prompt) for prompt in prompts])
        total = asked.vectors_BSE.shape[1]
        shift_BS = torch.arange(total, device=asked.lengths_B.device) - (total - asked.lengths_B[:, None])
        end = self.language_model.end_id
        output = self.language_model.model.generate(
            inputs_embeds=rows(asked.vectors_BSE, shift_BS % total),  # at the right, so that all replies begin together
            attention_mask=(shift_BS >= 0).long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        return [self.language_model.decode(row).strip() for row in output.tolist()]

    def tokens(self, prompt: str) -> list[int]:
        """Returns the ids up to where the reply begins, with one IMAGE: the only picture is the template's."""
        return prompt_tokens(self.template.ask(prompt.replace(IMAGE_MARK, "")), self.language_model.tokenizer)

    def _first_ids(self, options: Sequence[str]) -> list[int]:
        """Returns the ids by which the replies to a question differ: of `bare` they say the option's text too."""
        return self.language_model.first_ids(options) if self.template.name == "bare" else self._letters

    def _in_context(self) -> tuple[list[int], list[int]]:
        """Returns the ids that all letters' replies begin with, and those by which they differ.

        Tokens are those of question and reply in one text: some tokenizers put the space before a letter into its
        token, some have a token for it. `bare` puts two texts side by side, so that there the reply's own tokens count.
        """
        tokenizer, asked = self.language_model.tokenizer, self.tokens("")
        if self.template.name == "bare":
            replies = [[*asked, first] for first in self.language_model.first_ids("xxxx")]
        else:
            replies = [prompt_tokens(f"{self.template.ask('')} {letter}", tokenizer) for letter in LETTERS]
        columns = [set(column) for column in zip(*replies, strict=False)]
        shared = next((place for place, column in enumerate(columns) if len(column) > 1), 0)
        if shared < len(asked) or len(columns[shared]) < len(LETTERS):
            raise ValueError("its tokenizer doesn't tell the letters A, B, C and D apart at the beginning of a reply")
        return replies[0][len(asked) : shared], [reply[shared] for reply in replies]

    def _interleaved(self, features_BND: Tensor, tokens: list[list[int]]) -> Interleaved:
        pictures_B1NE = self.projector(features_BND)[:, None]
        tokens_BT, is_text_BT = (table.to(features_BND.device) for table in padded(tokens, self.language_model.end_id))
        return interleave(self.language_model, pictures_B1NE, tokens_BT, is_text_BT)
