# B batch, K pictures, N image tokens, T tokens, S tokens with pictures expanded.
"""The same small model twice: transformers' LlavaForConditionalGeneration, and ours of the same weights."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.core.data.conversation import IGNORED, IMAGE
from components.core.data.questions import LETTERS
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.vision_tower import VisionTower, external_tower
from tests.core.data.made_tokenizers import made_tokenizer

SIZE, PATCH, WIDTH = 16, 8, 24
VISION = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 16, "intermediate_size": 32}
DEPTH = {"num_hidden_layers": 3, "num_attention_heads": 2}


@dataclass(frozen=True)
class Pair:
    """Both models.

    Attributes:
        theirs: transformers' model.
        image_id: The id that it has for a picture's tokens.
    """

    theirs: Any
    image_id: int
    tower: VisionTower
    projector: Projector
    language_model: LanguageModel

    def expanded(self, row: list[int], *, image: int) -> list[int]:
        """Returns a row with `image` as many times as a picture has tokens."""
        return [part for token in row for part in ([image] * self.tower.num_tokens if token == IMAGE else [token])]

    def their_inputs(self, rows: list[list[int]], pictures: list[Tensor], *, side: str = "right") -> dict[str, Tensor]:
        """Returns ids, mask and pictures as transformers wants them."""
        long = [self.expanded(row, image=self.image_id) for row in rows]
        length = max(len(row) for row in long)
        blanks = [[0] * (length - len(row)) for row in long]
        sides = zip(long, blanks, strict=True) if side == "right" else zip(blanks, long, strict=True)
        masks = [[[1] * len(row), blank] if side == "right" else [blank, [1] * len(row)]
                 for row, blank in zip(long, blanks, strict=True)]  # fmt: skip
        found = {
            "input_ids": torch.tensor([first + second for first, second in sides]),
            "attention_mask": torch.tensor([first + second for first, second in masks]),
        }
        if pictures:
            found["pixel_values"] = self.tower.normalised(torch.stack(pictures))
        return found

    def their_labels(self, rows: list[list[int]]) -> Tensor:
        """Returns labels (B, S), IGNORED at pictures and padding, of rows of labels with IMAGE for a picture."""
        long = [self.expanded(row, image=IGNORED) for row in rows]
        length = max(len(row) for row in long)
        return torch.tensor([row + [IGNORED] * (length - len(row)) for row in long])


def pair(folder: Path, vision: str = "clip", tokenizer: str = "llama", letters: str = " ABCD") -> Pair:
    """Returns the models.

    Args:
        folder: Where the tower is saved.
        vision: `clip`, with a CLS token, or `siglip`, without.
        tokenizer: A kind of `made_tokenizer`.
        letters: The letters that are one token each, with the space before them where one is given.
    """
    allow_torchvision_import()
    import transformers as t
    from tokenizers import AddedToken

    torch.manual_seed(2)
    words = copy.deepcopy(made_tokenizer(tokenizer))
    space, letters = letters[: -len(LETTERS)], letters[-len(LETTERS) :]
    words.add_tokens([AddedToken(space + letter, normalized=False) for letter in letters])
    image_id = len(words)
    text = t.LlamaConfig(
        vocab_size=image_id + 1, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    configs = {"clip": t.CLIPVisionConfig, "siglip": t.SiglipVisionConfig}
    config = t.LlavaConfig(
        vision_config=configs[vision](**VISION, **DEPTH),
        text_config=text,
        image_token_index=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if vision == "clip" else "full",
    )
    theirs = t.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.4 * torch.randn(parameter.shape)  # so that pictures and words decide what follows
        theirs.model.multi_modal_projector.linear_2.weight *= 3
    theirs.model.vision_tower.save_pretrained(folder / "vision")
    processors = {"clip": t.CLIPImageProcessor, "siglip": t.SiglipImageProcessor}
    size = {"height": SIZE, "width": SIZE}
    processors[vision](size=size, crop_size=size).save_pretrained(folder / "vision")
    model = t.LlamaForCausalLM(text)
    model.model.load_state_dict(theirs.model.language_model.state_dict())
    model.lm_head.load_state_dict(theirs.lm_head.state_dict())
    projector = Projector(in_width=16, out_width=WIDTH, seed=0)
    projector.layers[0].load_state_dict(theirs.model.multi_modal_projector.linear_1.state_dict())
    projector.layers[2].load_state_dict(theirs.model.multi_modal_projector.linear_2.state_dict())
    tower = external_tower(f"hf:{folder / 'vision'}")
    return Pair(theirs, image_id, tower, projector, LanguageModel(model, words))


def random_pictures(number: int) -> Tensor:
    """Returns uint8 pictures (number, C, S, S)."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
