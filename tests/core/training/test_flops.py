"""The formulas against PyTorch's own count of a real pass, and the study's figures."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.objectives.dino import DinoObjective
from components.core.training.flops import (
    clip_lm_training_flops,
    clip_training_flops,
    dino_training_flops,
    language_model_training_flops,
    slip_training_flops,
    transformer_forward_flops,
    vit_forward_flops,
)

BASE = {"image_size_px": 224, "patch_size_px": 16, "width": 768, "depth": 12}
SMALL = {"image_size_px": 16, "patch_size_px": 4, "width": 16, "depth": 2}


def _counted(loss: Callable[[], Tensor]) -> int:
    """Returns the FLOP of a forward and backward pass; PyTorch counts those of attention in its plain form only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def _spared(size_px: int) -> int:
    """Returns what one image of ViT-B/16 spares where the last block computes CLS alone."""
    base = BASE | {"image_size_px": size_px}
    return vit_forward_flops(**base, is_cls_only=False) - vit_forward_flops(**base)


def test_clip_with_vit_b_16_costs_116_gflop_an_image_and_123_with_all_tokens() -> None:
    flops = clip_training_flops(**BASE, context_length=77, text_width=512, text_depth=12)
    assert flops / 1e9 == pytest.approx(116.0, abs=0.05)
    assert (flops + 3 * _spared(224)) / 1e9 == pytest.approx(123.3, abs=0.05)


def test_dino_with_vit_b_16_and_ten_crops_costs_406_gflop_an_image_and_436_with_all_tokens() -> None:
    flops = dino_training_flops(**BASE, local_size_px=96, num_local=8, hidden=2048, bottleneck=256, out_dim=65_536)
    assert flops / 1e9 == pytest.approx(405.8, abs=0.05)
    assert (flops + 8 * _spared(224) + 24 * _spared(96)) / 1e9 == pytest.approx(435.6, abs=0.05)


def test_slip_costs_both() -> None:
    assert slip_training_flops(clip_flops=123, dino_flops=436) == 559


def test_the_trunks_flops_are_those_that_pytorch_counts() -> None:
    """But for the gradient of the pixels, which nobody needs and the usual count includes."""
    trunk, images = Trunk(**SMALL, num_heads=2, seed=0), torch.zeros(1, 3, 16, 16)
    unneeded = 2 * 16 * 3 * 4**2 * 16
    assert _counted(lambda: trunk(images).sum()) == 3 * vit_forward_flops(**SMALL) - unneeded
    whole = 3 * vit_forward_flops(**SMALL, is_cls_only=False) - unneeded
    assert _counted(lambda: trunk.tokens(images).patches_BND.sum()) == whole


def test_dinos_flops_are_those_that_pytorch_counts() -> None:
    large = View(size_px=16, scale_low=0.4, scale_high=1.0)
    objective = DinoObjective(
        Trunk(**SMALL, num_heads=2, seed=0),
        num_steps=10,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=3,
        out_dim=32,
        hidden=24,
        bottleneck=12,
    )
    images, zero_1 = torch.zeros(1, 3, 20, 20, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    batch = Batch(images, torch.full((1, 2), 20), zero_1, zero_1, [""])
    flops = dino_training_flops(**SMALL, local_size_px=8, num_local=3, hidden=24, bottleneck=12, out_dim=32)
    unneeded = 2 * (2 * 16 + 3 * 4) * 3 * 4**2 * 16
    assert _counted(lambda: objective.loss(batch, 0)[0]) == flops - unneeded


@pytest.mark.parametrize("num_trainable_layers", [0, 1, 3, 4])
def test_a_language_models_flops_are_those_that_pytorch_counts(num_trainable_layers: int) -> None:
    allow_torchvision_import()
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=2,
        attn_implementation="sdpa",
    )
    model = LlamaModel(config).requires_grad_(False)
    for layer in list(model.layers)[4 - num_trainable_layers :]:
        layer.requires_grad_(True)
    scale = torch.ones((), requires_grad=True)
    layer_parameters = sum(parameter.numel() for parameter in model.layers[0].parameters() if parameter.ndim == 2)
    assert layer_parameters == 4 * 16**2 + 3 * 16 * 40
    flops = language_model_training_flops(
        num_tokens=7, width=16, depth=4, layer_parameters=layer_parameters, num_trainable_layers=num_trainable_layers
    )
    tokens = torch.arange(7)[None]
    counted = _counted(lambda: scale * model(input_ids=tokens, use_cache=False).last_hidden_state.sum())
    assert counted == flops


def test_a_language_model_of_the_text_towers_shape_costs_what_it_costs() -> None:
    shape = {"num_tokens": 77, "width": 512, "depth": 12}
    text = language_model_training_flops(**shape, layer_parameters=12 * 512**2, num_trainable_layers=12)
    assert text == 3 * transformer_forward_flops(**shape)
    tower = {"context_length": 77, "text_width": 512, "text_depth": 12}
    assert clip_lm_training_flops(**BASE, text_training_flops=text) == clip_training_flops(**BASE, **tower)


def test_a_frozen_language_model_costs_a_third() -> None:
    shape = {"num_tokens": 77, "width": 768, "depth": 12, "layer_parameters": 12 * 768**2}
    costs = [language_model_training_flops(**shape, num_trainable_layers=number) for number in (0, 6, 12)]
    assert costs[2] == 3 * costs[0] and costs[1] == 2 * costs[0]
