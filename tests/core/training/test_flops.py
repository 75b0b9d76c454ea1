"""The study's own figures."""

import pytest

from components.core.training.flops import clip_training_flops, dino_training_flops

BASE = {"image_size_px": 224, "patch_size_px": 16, "width": 768, "depth": 12}


def test_clip_with_vit_b_16_costs_123_gflop_an_image() -> None:
    flops = clip_training_flops(**BASE, context_length=77, text_width=512, text_depth=12)
    assert flops / 1e9 == pytest.approx(123.3, abs=0.05)


def test_dino_with_vit_b_16_and_ten_crops_costs_436_gflop_an_image() -> None:
    flops = dino_training_flops(**BASE, local_size_px=96, num_local=8, hidden=2048, bottleneck=256, out_dim=65_536)
    assert flops / 1e9 == pytest.approx(435.6, abs=0.05)
