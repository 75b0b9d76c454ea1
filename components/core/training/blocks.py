"""Transformer blocks, and how they are made faster or smaller for a training; their numbers stay what they are.

Blocks are the elements of timm's and open_clip's `blocks` and `resblocks`, and of what Hugging Face's models call
`layers`, `h` (GPT-2) or `layer` (BERT), wherever that is in the objective. Each block is compiled alone, with static
shapes, so that one compilation serves all blocks of a kind.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCK_LISTS = ("blocks", "resblocks")
MODULE_LISTS = ("layers", "h", "layer")  # blocks where it is a ModuleList: as Sequential it is any stack of layers


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Returns the blocks in a module, in the order of their names' first appearance.

    Of lists within lists, such as blocks in the stages of a Swin transformer, the innermost count.
    """
    return list(dict.fromkeys(block for found in _lists_in(module) for block in found))


def _lists_in(module: nn.Module) -> list[nn.ModuleList | nn.Sequential]:
    lists = [
        child
        for parent in module.modules()
        for name, child in parent.named_children()
        if (name in BLOCK_LISTS and isinstance(child, nn.ModuleList | nn.Sequential))
        or (name in MODULE_LISTS and isinstance(child, nn.ModuleList))
    ]
    return [found for found in lists if not any(_lists_in(block) for block in found)]


@contextlib.contextmanager
def tuned_blocks(module: nn.Module, *, is_compiled: bool, checkpoint_activations: bool) -> Iterator[None]:
    """Runs the blocks compiled, or computes their activations again in the backward pass, until the context ends.

    Raises:
        ValueError: something was asked for, and the module has no such blocks.
    """
    if not (is_compiled or checkpoint_activations):
        yield
        return
    blocks = blocks_of(module)
    if not blocks:
        raise ValueError(
            f"is_compiled={is_compiled}, checkpoint_activations={checkpoint_activations}: "
            f"{type(module).__name__} has no transformer blocks to which they apply: leave both off."
        )
    for block in blocks:
        forward: Callable[..., Any] = block.forward
        if is_compiled:
            forward = torch.compile(forward, dynamic=False)
        if checkpoint_activations:
            forward = functools.partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own is in force again
