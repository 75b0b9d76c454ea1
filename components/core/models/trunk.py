# B batch, N patches, D width, H height, W width in pixels; images are RGB in [0, 1].
"""The vision transformer that every arm trains: one class, one init, one normalisation.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, as timm builds it: pre-norm blocks,
learnt position embedding, CLS token, final LayerNorm (eps 1e-6). Stock CLIP and stock DINO each differ from
it a little (a norm before the blocks, a patch projection without bias, drop-path); here they can't, which is
the point of the study.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.core.models.torchvision_cpu import allow_torchvision_import

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # open_clip's, for all arms
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class Tokens(NamedTuple):
    """What the trunk says about a batch of images.

    Attributes:
        cls_BD: the CLS token after the final norm, the image's embedding.
        patches_BND: the patch tokens after the final norm, row by row.
        penultimate_BND: the patch tokens as they leave the second-to-last block, without norm (Hugging Face's
            `hidden_states[-2]`), which LLaVA reads.
    """

    cls_BD: Tensor
    patches_BND: Tensor
    penultimate_BND: Tensor


class Trunk(nn.Module):
    """Maps RGB images in [0, 1] to tokens; it normalises them itself, so that nobody can do it differently.

    Args:
        image_size_px: side of the images that the position embedding is learnt for; other multiples of the
            patch (DINO's small crops) get it interpolated.
        patch_size_px: side of a patch.
        width: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads; must divide width.
        seed: the same seed gives the same bits, whatever was drawn before.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self, *, image_size_px: int, patch_size_px: int, width: int, depth: int, num_heads: int, seed: int
    ) -> None:
        super().__init__()
        if image_size_px % patch_size_px:
            raise ValueError(
                f"image_size_px={image_size_px} is not a multiple of patch_size_px={patch_size_px}: change one of them."
            )
        if width % num_heads:
            raise ValueError(f"width={width} is not a multiple of num_heads={num_heads}: change one of them.")
        if depth < 2:
            raise ValueError(f"depth={depth}: the VLM reads the second-to-last block, so give it 2 or more.")
        allow_torchvision_import()
        from timm.models.vision_transformer import VisionTransformer

        from components.core.models.cls_block import ClsBlock

        self.image_size_px, self.patch_size_px = image_size_px, patch_size_px
        self.width, self.depth, self.num_heads = width, depth, num_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.vit = VisionTransformer(
                img_size=image_size_px,
                patch_size=patch_size_px,
                embed_dim=width,
                depth=depth,
                num_heads=num_heads,
                num_classes=0,
                global_pool="token",
                dynamic_img_size=True,
                block_fn=ClsBlock,
            )
        self.register_buffer("mean_C11", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    @property
    def num_patches(self) -> int:
        """Number of patch tokens of an image of the trunk's own size."""
        return (self.image_size_px // self.patch_size_px) ** 2

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns the CLS token after the final norm, (B, D); of the last block nothing else is computed."""
        tokens_BND = self._embedded(images_BCHW)
        *blocks, last = self.vit.blocks
        for block in blocks:
            tokens_BND = block(tokens_BND)
        return self.vit.norm(last(tokens_BND, is_cls_only=True))[:, 0]

    def tokens(self, images_BCHW: Tensor) -> Tokens:
        """Returns CLS and patch tokens of the last block, and patch tokens of the second-to-last."""
        penultimate_BND = self._embedded(images_BCHW)
        *blocks, last = self.vit.blocks
        for block in blocks:
            penultimate_BND = block(penultimate_BND)
        last_BND = self.vit.norm(last(penultimate_BND))
        return Tokens(last_BND[:, 0], last_BND[:, 1:], penultimate_BND[:, 1:])

    def _embedded(self, images_BCHW: Tensor) -> Tensor:
        """Returns what enters the first block, (B, 1 + N, D)."""
        return self.vit._pos_embed(self.vit.patch_embed((images_BCHW - self.mean_C11) / self.std_C11))


def weights_sha256(module: nn.Module) -> str:
    """Returns the sha256 of all parameters and persistent buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
