"""Blocks are found in every library's models, and computing them again keeps the numbers and saves memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.core.models.language_tower import LanguageTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.training.blocks import blocks_of, tuned_blocks
from tests.core.training.small_language_models import Sentence, llama, run_sentences, sentences
from tests.core.training.small_runs import ARMS, state_sha256

SIZES = {"vocab_size": 20, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}


def _causal(kind: str) -> Any:
    allow_torchvision_import()
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    if kind == "llama":
        return llama(depth=2)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_layer=2, n_embd=16, n_head=2)).eval()
    return OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16)).eval()


def _tower(kind: str, num_trainable_layers: int) -> LanguageTower:
    allow_torchvision_import()
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    bert = BertModel(BertConfig(**SIZES, intermediate_size=32), add_pooling_layer=False)
    distilled = DistilBertModel(DistilBertConfig(vocab_size=20, n_layers=2, dim=16, n_heads=2, hidden_dim=32))
    return LanguageTower(
        bert if kind == "bert" else distilled,
        pooling="mean",
        num_trainable_layers=num_trainable_layers,
        embedding_dim=4,
        context_length=8,
        seed=0,
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_a_causal_model_computed_again_gives_the_same_bits_and_keeps_less(kind: str) -> None:
    model, tokens_BT = _causal(kind), torch.arange(16).view(2, 8)

    def loss() -> torch.Tensor:
        return model(tokens_BT, labels=tokens_BT, use_cache=False).loss

    assert len(blocks_of(model)) == 2
    _assert_same_and_less(model, loss)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("num_trainable_layers", [1, 2])
def test_a_language_tower_computed_again_gives_the_same_bits_and_keeps_less(
    kind: str, num_trainable_layers: int
) -> None:
    tower, tokens_BT = _tower(kind, num_trainable_layers), torch.arange(16).view(2, 8)
    assert len(blocks_of(tower)) == 2
    _assert_same_and_less(tower, lambda: tower(tokens_BT).square().sum())


def _assert_same_and_less(model: nn.Module, loss: Any) -> None:
    plain, kept = _gradients(model, loss)
    with tuned_blocks(model, is_compiled=False, checkpoint_activations=True):
        again, kept_again = _gradients(model, loss)
    assert plain.keys() == again.keys() and plain
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert kept_again < 0.5 * kept
    assert not any("forward" in module.__dict__ for module in model.modules()), "the class's own again"


def _gradients(model: nn.Module, loss: Any) -> tuple[dict[str, torch.Tensor], int]:
    """Returns the gradients, and the bytes that the forward pass keeps for the backward pass beside parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    value.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, sum(kept.values())


def test_what_a_block_keeps_is_its_input_whatever_its_width() -> None:
    """The figure for the large model: B x T x W numbers per block, and the head's."""
    objective = Sentence(llama(depth=6), "all")
    batch = next(sentences(0))
    _, shallow = _kept_again(Sentence(llama(depth=3), "all"), batch)
    _, deep = _kept_again(objective, batch)
    positions, width = 8 * (3 + 10), 16
    assert deep - shallow == 3 * positions * width * 4


def _kept_again(objective: Sentence, batch: Any) -> tuple[dict[str, torch.Tensor], int]:
    with tuned_blocks(objective, is_compiled=False, checkpoint_activations=True):
        return _gradients(objective, lambda: objective.loss(batch, 0)[0])


def test_training_with_recomputed_activations_is_bit_identical(tmp_path: Path) -> None:
    for trained in ("all", "last layer", "lora"):
        plain, tuned = Sentence(llama(), trained), Sentence(llama(), trained)
        expected = run_sentences(plain, tmp_path / trained / "plain")
        assert run_sentences(tuned, tmp_path / trained / "tuned", checkpoint_activations=True) == expected
        assert state_sha256(plain) == state_sha256(tuned)


def test_the_blocks_of_the_arms_are_those_of_timm_and_open_clip() -> None:
    from open_clip.transformer import ResidualAttentionBlock
    from timm.models.vision_transformer import Block

    image, text = [Block, Block], [ResidualAttentionBlock, ResidualAttentionBlock]
    expected = {"clip": image + text, "siglip": image + text, "dino": image * 2, "slip": image + text + image}
    for arm, build in ARMS.items():
        assert all(isinstance(*pair) for pair in zip(blocks_of(build()), expected[arm], strict=True)), arm


def test_the_innermost_of_nested_lists_counts_and_a_stack_of_layers_is_no_list_of_blocks() -> None:
    stage = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    swin = nn.ModuleDict({"layers": nn.ModuleList([stage]), "head": nn.ModuleDict({"layers": nn.Sequential(stage)})})
    assert blocks_of(swin) == list(stage["blocks"])  # type: ignore[arg-type]
    assert blocks_of(nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 2))})) == []
