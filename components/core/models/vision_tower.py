# B batch, C channels (RGB), H, W, S height, width and side in pixels, N patch tokens, D their width.
"""The eyes of a vision-language model: the study's own trunk, or a vision transformer of timm, open_clip, transformers.

All are read by LLaVA-1.5's rule (Liu et al., arXiv 2310.03744): patch tokens as they leave the second-to-last block
(Hugging Face's `hidden_states[-2]`), without CLS, registers and the final norm. Pictures are padded to a square with
the mean colour of that model's pixels, resized to its side, and normalised as it was trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from components.core.models.encoder import architecture
from components.core.models.external_encoder import load_external
from components.core.models.frozen_encoder import TRUNK_PIXELS, FrozenEncoder, Pixels, describe
from components.core.models.trunk import Trunk

LAYER = -2
OWN = "own"
GREY = 200  # of a picture that has one colour
TOLERANCE = 1e-4  # of normalised pixels, which are a few units


class VisionTower(nn.Module):
    """A frozen vision transformer from uint8 pictures to patch tokens.

    Args:
        vision: The transformer, which is frozen.
        patches: From normalised pictures (B, C, S, S) to tokens (B, N, D); it runs `vision`.
        pixels: How the model's pictures are resized and normalised.
        image_size_px: S.
        facts: What identifies the model.

    Attributes:
        num_tokens: N.
        width: D.
        image_size_px: S.
        facts: What identifies model and pixels, weights included; plain values.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        vision: nn.Module,
        patches: Callable[[Tensor], Tensor],
        *,
        pixels: Pixels,
        image_size_px: int,
        facts: dict[str, Any],
    ) -> None:
        super().__init__()
        self.vision, self.image_size_px = vision.eval().requires_grad_(False), image_size_px
        self._patches, self._pixels = patches, pixels
        self.register_buffer("mean_C11", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)
        device = next(vision.parameters()).device
        self.to(device)
        trial = torch.zeros(1, 3, image_size_px, image_size_px, dtype=torch.uint8, device=device)
        self.num_tokens, self.width = self(trial).shape[1:]
        self.facts = facts | {
            "image_size_px": image_size_px,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "resampling": pixels.resampling.name.lower(),
            "num_tokens": self.num_tokens,
            "width": self.width,
        }

    def prepare(self, picture: Image.Image) -> numpy.ndarray:
        """Returns an RGB picture padded to a square and resized, (C, S, S) uint8, as LLaVA-1.5 does it."""
        side, size_px = max(picture.size), self.image_size_px
        if picture.size != (side, side):
            mean = tuple(int(255 * channel) for channel in self._pixels.mean)
            square = Image.new("RGB", (side, side), mean)
            square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
            picture = square
        if side != size_px:
            picture = picture.resize((size_px, size_px), self._pixels.resampling)
        return numpy.ascontiguousarray(numpy.asarray(picture).transpose(2, 0, 1))

    def normalised(self, pictures_BCSS: Tensor) -> Tensor:
        """Returns uint8 pictures as the transformer takes them."""
        return (pictures_BCSS.float() / 255 - self.mean_C11) / self.std_C11

    @torch.no_grad()
    def forward(self, pictures_BCSS: Tensor) -> Tensor:
        """Returns the patch tokens (B, N, D) of uint8 pictures on the tower's device."""
        return self._patches(self.normalised(pictures_BCSS))

    def train(self, mode: bool = True) -> VisionTower:
        """Returns itself, in evaluation mode always."""
        return super().train(False)


def own_tower(trunk: Trunk, facts: dict[str, Any]) -> VisionTower:
    """Returns the tower of a trunk that pretrain made, with the facts that were saved with it."""
    up_to_there: Callable[[Tensor], Any] = functools.partial(
        trunk.vit.forward_intermediates,
        indices=[trunk.depth + LAYER],
        intermediates_only=True,
        stop_early=True,
        output_fmt="NLC",
    )
    return VisionTower(
        trunk,
        lambda normalised_BCSS: up_to_there(normalised_BCSS)[0],
        pixels=TRUNK_PIXELS,
        image_size_px=trunk.image_size_px,
        facts={"name": OWN, "encoder": facts} | describe(trunk, architecture(trunk)),
    )


def external_tower(name: str) -> VisionTower:
    """Returns another library's tower on the CPU.

    Args:
        name: `timm:...`, `open_clip:...` or `hf:...`, as for `external_encoder`.

    Raises:
        ValueError: It is no vision transformer, has other weights than safetensors, takes other pictures than squares,
            or does more to them than resizing, cropping and normalising.
        Exception: What the library raises for a name that it doesn't know or can't fetch.
    """
    encoder = load_external(name, LAYER, torch.device("cpu"))
    size_px = _side(encoder)
    tower = VisionTower(
        encoder.vision,
        lambda normalised_BCSS: encoder.encode(normalised_BCSS).patches_BPD,
        pixels=encoder.pixels,
        image_size_px=size_px,
        facts={"name": name} | encoder.facts,
    )
    grey = Image.new("RGB", (size_px, size_px), (GREY, GREY, GREY))
    theirs, ours = encoder.prepare([grey]), tower.normalised(torch.from_numpy(tower.prepare(grey))[None])
    if not torch.allclose(theirs, ours, atol=TOLERANCE):
        raise ValueError("its preprocessing is more than resizing, cropping and normalising: give another model")
    return tower


def _side(encoder: FrozenEncoder) -> int:
    height, width = encoder.prepare([Image.new("RGB", (64, 64))]).shape[2:]
    if height != width:
        raise ValueError(f"it takes pictures of {width} x {height} pixels: give a model that takes squares")
    return height
