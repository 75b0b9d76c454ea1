"""LoRA on a causal language model: small matrices train beside the frozen weights, and become part of them at the end.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1: a linear layer W gives

    h = W x + (alpha / r) B A x,   A in R^(r x in), B in R^(out x r), B = 0 at first,

by the library peft, on all linear layers of the transformer blocks. There is no dropout: what is random in a run is a
function of its seed. Before `add_lora` and after `merge_lora` the model is a plain one of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from components.core.models.language_tower import layers_of
from components.core.models.torchvision_cpu import allow_torchvision_import


def add_lora(model: Any, *, rank: int, alpha: int, seed: int) -> None:
    """Adds LoRA in place; from then on nothing else of the model trains. The same seed gives the same bits.

    Args:
        model: a causal language model of transformers.
        rank: r, 1 or more.
        alpha: over rank, the factor of what is added.
        seed: of A.

    Raises:
        ValueError: rank is below 1, or the model's blocks have no linear layers.
    """
    allow_torchvision_import()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    if rank < 1:
        raise ValueError(f"rank={rank}: LoRA's rank is 1 or more; train the whole model, or nothing, without it.")
    linears = {layer for layer in layers_of(model).modules() if isinstance(layer, nn.Linear)}
    names = [name for name, module in model.named_modules() if module in linears]
    if not names:
        raise ValueError(
            f"LoRA needs linear layers in the blocks of the language model, and {type(model).__name__} has none of "
            "torch's: train it without LoRA, or give another one."
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=names)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_A.float()  # small updates to bfloat16 would be rounded away
            layer.lora_B.float()


def merge_lora(model: Any) -> None:
    """Adds (alpha / r) B A to each W in place, which leaves the model that `add_lora` was given, with new weights."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    del model.peft_config
