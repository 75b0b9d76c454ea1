"""Training FLOP per image of each objective, from the numbers of its architecture.

Counted as usual: matrix products only, 2 FLOP per multiply-add, a backward pass of twice the forward, a
teacher and frozen layers without backward. Left out are the projections to the joint space and the products of the
contrastive losses, which grow with the batch: 0.03 % together at a batch of 8,192. SigLIP costs what CLIP costs.

Of the last block only CLS is computed (cls_block.py), and counted. With ViT-B/16 at 224 px that gives CLIP 116.0 GFLOP
(with its 12 x 512 text tower) and DINO 405.8 (2 x 224 + 8 x 96 px, with its head of 65,536 prototypes); code that
computes all tokens to the end takes 123.3 and 435.6. Equal samples are not equal compute.
"""

from __future__ import annotations

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}  # a second, dense bf16


def vit_forward_flops(
    *, image_size_px: int, patch_size_px: int, width: int, depth: int, is_cls_only: bool = True
) -> int:
    """Returns the FLOP of one image through the trunk, to its CLS token alone or to all tokens."""
    num_patches = (image_size_px // patch_size_px) ** 2
    embedding = 2 * num_patches * 3 * patch_size_px**2 * width
    blocks = transformer_forward_flops(num_tokens=num_patches + 1, width=width, depth=depth)
    spared = num_patches * (20 * width**2 + 4 * (num_patches + 1) * width)  # all but keys and values of the last block
    return embedding + blocks - (spared if is_cls_only else 0)


def transformer_forward_flops(*, num_tokens: int, width: int, depth: int) -> int:
    """Returns the FLOP of one sequence through pre-norm blocks with an MLP of four times the width."""
    linear = 12 * width**2 * num_tokens  # q, k, v, output: 4; MLP: 8
    attention = 2 * num_tokens**2 * width  # scores and their weighted sum; a causal mask saves nothing here
    return 2 * depth * (linear + attention)


def clip_training_flops(
    *,
    image_size_px: int,
    patch_size_px: int,
    width: int,
    depth: int,
    context_length: int,
    text_width: int,
    text_depth: int,
) -> int:
    """Returns the FLOP of one image and its caption, forward and backward."""
    image = vit_forward_flops(image_size_px=image_size_px, patch_size_px=patch_size_px, width=width, depth=depth)
    text = transformer_forward_flops(num_tokens=context_length, width=text_width, depth=text_depth)
    return 3 * (image + text)


def language_model_training_flops(
    *, num_tokens: int, width: int, depth: int, layer_parameters: int, num_trainable_layers: int
) -> int:
    """Returns the FLOP of one text through a language model, forward, and backward through the layers that train.

    Args:
        num_tokens: of the text.
        width: of the tokens; heads times their width.
        depth: number of layers.
        layer_parameters: numbers in the matrices of one layer: 12 width^2 with an MLP of four times the width,
            4 width^2 + 3 width x hidden with LLaMA's gated one.
        num_trainable_layers: the last ones.
    """
    layer = 2 * num_tokens * layer_parameters + 4 * num_tokens**2 * width
    return layer * (depth + 2 * num_trainable_layers)


def clip_lm_training_flops(
    *, image_size_px: int, patch_size_px: int, width: int, depth: int, text_training_flops: int
) -> int:
    """Returns the FLOP of one image and its caption, with a language model as text tower."""
    image = vit_forward_flops(image_size_px=image_size_px, patch_size_px=patch_size_px, width=width, depth=depth)
    return 3 * image + text_training_flops


def slip_training_flops(*, clip_flops: int, dino_flops: int) -> int:
    """Returns the FLOP of one image and its caption: the sum of both arms, whose views are different ones."""
    return clip_flops + dino_flops


def dino_training_flops(
    *,
    image_size_px: int,
    local_size_px: int,
    num_local: int,
    patch_size_px: int,
    width: int,
    depth: int,
    hidden: int,
    bottleneck: int,
    out_dim: int,
) -> int:
    """Returns the FLOP of one image: the student on all views forward and backward, the teacher on the two
    large ones.
    """
    large = vit_forward_flops(image_size_px=image_size_px, patch_size_px=patch_size_px, width=width, depth=depth)
    small = vit_forward_flops(image_size_px=local_size_px, patch_size_px=patch_size_px, width=width, depth=depth)
    head = 2 * (width * hidden + hidden**2 + hidden * bottleneck + bottleneck * out_dim)
    student = 2 * (large + head) + num_local * (small + head)
    teacher = 2 * (large + head)
    return 3 * student + teacher
