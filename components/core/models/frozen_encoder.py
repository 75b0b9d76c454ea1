# B batch, C channels (RGB), H height, W width, P patches, N tokens, D width, E joint embedding.
"""An encoder as those see it who only ask it about pictures: the study's own, or another library's.

`layer` counts blocks from the end: -1 is the last block's output after the model's final norm, -2 the output of the
block before it as it leaves that block, without any norm, and so on. CLS before and after the final norm are not to be
compared with each other; that is why -1 is the only layer with a norm. The joint embedding is always that of the whole
model, whatever the layer.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from components.core.data.augment import whole_views
from components.core.models.encoder import TEXT_FILES, Files, load_encoder, load_text
from components.core.models.trunk import PIXEL_MEAN, PIXEL_STD, weights_sha256

CLS, POOLED, PATCH_MEAN = "cls", "pooled", "patch_mean"


class Vectors(NamedTuple):
    """What an encoder says about pictures.

    Attributes:
        cls_BD: The picture's token.
        patches_BPD: The patch tokens, without CLS, distillation tokens and registers.
        joint_BE: The unit vector in the space shared with text; None without a text tower.
    """

    cls_BD: Tensor
    patches_BPD: Tensor
    joint_BE: Tensor | None

    @property
    def patch_mean(self) -> Tensor:
        """The mean of the patch tokens, (B, D)."""
        return self.patches_BPD.mean(dim=1)


class Pixels(NamedTuple):
    """What is done to a picture of the right size before the model sees it, and how it gets that size.

    Attributes:
        mean: Subtracted from each channel in [0, 1].
        std: Divides each channel then.
        resampling: Pillow's filter.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: Image.Resampling


TRUNK_PIXELS = Pixels(PIXEL_MEAN, PIXEL_STD, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Text:
    """A text tower: `tower(tokenizer(texts))` are the texts' embeddings, on the CPU and not normalised."""

    tower: Callable[[Tensor], Tensor]
    tokenizer: Callable[[list[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder with its own preprocessing.

    Attributes:
        prepare: From RGB pictures of any sizes to what the model takes, float32 [B, C, H, W]; several threads may
            call it.
        encode: From a batch of those, on the encoder's device, to vectors there.
        text: The text tower of an encoder that has one.
        vision: The vision transformer, which `encode` runs.
        pixels: How pictures become its input, apart from padding and crop.
        token: What stands in `cls`: `cls`, the model's own `pooled` vector where it reads no CLS token, or, without
            CLS token below the last block, the `patch_mean`.
        facts: What identifies it: sha256 of weights and configuration; library and version of another library's.
    """

    prepare: Callable[[Sequence[Image.Image]], Tensor]
    encode: Callable[[Tensor], Vectors]
    text: Text | None
    vision: nn.Module
    pixels: Pixels
    token: str
    facts: dict[str, str]


def load_checkpoint(files: Files, names: Sequence[str], layer: int, device: torch.device) -> FrozenEncoder:
    """Returns the encoder that pretrain wrote.

    Args:
        files: The checkpoint.
        names: What is in it.
        layer: Block whose output is taken.
        device: Where to compute.

    Raises:
        ValueError: There is no such block.
    """
    trunk, facts = load_encoder(files)
    block_index(trunk.depth, layer)
    identity = describe(trunk, facts["architecture"])
    trunk.to(device)
    side = load_text(files) if TEXT_FILES[0] in names else None
    projection_DE = side.projection_DE.to(device) if side else None

    def encode(pictures_BCHW: Tensor) -> Vectors:
        normalised_BCHW = (pictures_BCHW - trunk.mean_C11) / trunk.std_C11
        prefix, patches_BPD, final_BND = timm_tokens(trunk.vit, normalised_BCHW, layer)
        joint_BE = None if projection_DE is None else F.normalize(final_BND[:, 0] @ projection_DE, dim=1)
        return Vectors(prefix[:, 0], patches_BPD, joint_BE)

    return FrozenEncoder(
        prepare=lambda pictures: whole_views(pictures, trunk.image_size_px),
        encode=encode,
        text=Text(on_device(side.tower.to(device), device), side.tokenizer) if side else None,
        vision=trunk,
        pixels=TRUNK_PIXELS,
        token=CLS,
        facts=identity,
    )


def timm_tokens(vit: Any, pictures_BCHW: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a timm transformer's prefix tokens and patch tokens of a layer, and all tokens after the final norm.

    The prefix is CLS first, then registers; it is empty where the model has none.
    """
    final_BND, [taken] = vit.forward_intermediates(
        pictures_BCHW, indices=[block_index(len(vit.blocks), layer)], return_prefix_tokens=True, output_fmt="NLC"
    )
    num_prefix = vit.num_prefix_tokens
    if layer == -1:
        return final_BND[:, :num_prefix], final_BND[:, num_prefix:], final_BND
    patches_BPD, prefix = taken if num_prefix else (taken, taken[:, :0])
    return prefix, patches_BPD, final_BND


def block_index(num_blocks: int, layer: int) -> int:
    """Returns the number of the block, counted from 0, that `layer` counts from the end.

    Raises:
        ValueError: It lies before the first block.
    """
    if not -num_blocks <= layer <= -1:
        raise ValueError(f"layer {layer} is none of the {num_blocks} blocks: give -1 to -{num_blocks}")
    return num_blocks + layer


def one_by_one(prepare: Callable[[Image.Image], Tensor]) -> Callable[[Sequence[Image.Image]], Tensor]:
    """Returns a function that prepares pictures with a library's own transform of one."""
    return lambda pictures: torch.stack([prepare(picture) for picture in pictures])


def on_device(model: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns a function that takes tensors from the CPU to a model on a device and brings its answer back."""
    return lambda tokens: model(tokens.to(device)).cpu()


def describe(model: nn.Module, configuration: object) -> dict[str, str]:
    """Returns the sha256 of a model's weights, and that of its modules and configuration."""
    text = json.dumps([repr(model), configuration], sort_keys=True, default=str)
    return {"weights_sha256": weights_sha256(model), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}
