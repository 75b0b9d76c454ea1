"""LoRA: nothing at first, B A after training, a plain model when merged."""

from typing import Any

import pytest
import torch

from components.core.models.lora import add_lora, merge_lora
from components.core.models.torchvision_cpu import allow_torchvision_import
from tests.core.training.small_language_models import llama

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENS_BT = torch.arange(16).view(2, 8)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS_BT).logits


def _with_lora(seed: int = 0) -> Any:
    model = llama()
    add_lora(model, rank=2, alpha=6, seed=seed)
    return model


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_at_first_nothing_changes_and_only_lora_trains() -> None:
    model = _with_lora()
    assert torch.equal(_logits(model), _logits(llama()))
    assert set(_trained(model)) == {
        f"model.layers.{layer}.{'self_attn' if name[1] == '_' else 'mlp'}.{name}.lora_{part}.default.weight"
        for layer in range(3)
        for name in LINEARS
        for part in "AB"
    }


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = _trained(_with_lora(1)), _trained(_with_lora(1)), _trained(_with_lora(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_merging_adds_alpha_over_rank_b_a_and_leaves_a_plain_model() -> None:
    model, plain = _with_lora(), llama()
    with torch.no_grad():
        for number, parameter in enumerate(_trained(model).values()):
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    weights = {name: parameter.detach().clone() for name, parameter in _trained(model).items()}
    expected = _logits(model)
    merge_lora(model)
    torch.testing.assert_close(_logits(model), expected, rtol=0, atol=1e-5)
    assert (expected - _logits(plain)).abs().max() > 1e-2
    assert repr(model) == repr(plain) and model.state_dict().keys() == plain.state_dict().keys()
    assert model.__dict__.keys() == plain.__dict__.keys()
    for name, before in plain.state_dict().items():
        stem = name.removesuffix(".weight")
        after = before
        if f"{stem}.lora_A.default.weight" in weights:
            b, a = weights[f"{stem}.lora_B.default.weight"], weights[f"{stem}.lora_A.default.weight"]
            after = before + 6 / 2 * b @ a
        torch.testing.assert_close(model.state_dict()[name], after, rtol=0, atol=1e-6)


def test_beside_half_precision_weights_lora_stays_in_single() -> None:
    model = llama().bfloat16()
    add_lora(model, rank=2, alpha=6, seed=0)
    assert {parameter.dtype for parameter in _trained(model).values()} == {torch.float32}
    assert _logits(model).dtype == torch.bfloat16


def test_what_has_no_linear_layers_or_no_rank_is_refused() -> None:
    allow_torchvision_import()
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ValueError, match="rank=0"):
        add_lora(llama(), rank=0, alpha=1, seed=0)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has none of torch's"):
        add_lora(GPT2LMHeadModel(GPT2Config(vocab_size=20, n_layer=2, n_embd=16, n_head=2)), rank=1, alpha=1, seed=0)
