"""Language models as text towers: pooling, frozen layers, and what goes with the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.core.data.language_tokenizer import PADDING, word_tokenizer_json
from components.core.data.tokenizer import WordTokenizer, build_tokenizer
from components.core.models.encoder import TEXT_FILES, TextSide, load_text, save_text
from components.core.models.language_tower import LanguageTower, build_language_tower, layers_of
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import weights_sha256
from components.runtime.storage import open_folder

CAPTIONS = ["a red ball on the left", "two blue boxes", "stop"]
OPTIONS: dict[str, Any] = {"revision": "main", "embedding_dim": 6, "context_length": 12, "seed": 0}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    allow_torchvision_import()


def _save(folder: Path, config: Any, *, has_end: bool) -> str:
    """Saves a model with random weights and a tokenizer of words; an encoder's ends its texts, a decoder's doesn't."""
    from tokenizers import Tokenizer
    from transformers import AutoModel, PreTrainedTokenizerFast

    words = build_tokenizer("words", CAPTIONS, context_length=12)
    assert isinstance(words, WordTokenizer)
    definition = json.loads(word_tokenizer_json(words))
    special = {"unk_token": "<unknown>", "bos_token": "<start>", "eos_token": "<end>"}
    if has_end:
        special |= {"cls_token": "<start>", "pad_token": "<pad>"}
    else:
        definition["post_processor"]["single"].pop()
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=20, **special).save_pretrained(folder)
    config.vocab_size = words.vocab_size
    config.bos_token_id, config.eos_token_id = 2, words.vocab_size - 1
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def roberta(tmp_path: Path) -> str:
    from transformers import RobertaConfig

    config = RobertaConfig(**SHAPE, max_position_embeddings=20, pad_token_id=0)
    return _save(tmp_path / "roberta", config, has_end=True)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    from transformers import LlamaConfig

    config = LlamaConfig(**SHAPE, num_key_value_heads=1, max_position_embeddings=20, pad_token_id=None)
    return _save(tmp_path / "llama", config, has_end=False)


def _states(path: str, ids: list[int]) -> Tensor:
    """Returns transformers' last states (T, W) of one text without padding."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(path).eval()(input_ids=torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@torch.inference_mode()
def test_an_encoder_agrees_with_transformers_on_each_text_alone(roberta: str, pooling: str) -> None:
    from transformers import AutoTokenizer

    tower, tokenizer = build_language_tower(roberta, [], pooling=pooling, num_trainable_layers=0, **OPTIONS)
    found = tower(tokenizer(CAPTIONS))
    for row, text in zip(found, CAPTIONS, strict=True):
        states = _states(roberta, AutoTokenizer.from_pretrained(roberta)(text).input_ids)
        expected = {"cls": states[0], "mean": states.mean(dim=0), "last": states[-1]}[pooling]
        torch.testing.assert_close(row, tower.projection.weight @ expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_decoder_without_padding_token_is_read_at_the_end_that_it_gets(llama: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(llama)
    assert theirs.pad_token_id is None
    tower, tokenizer = build_language_tower(llama, [], pooling="last", num_trainable_layers=1, **OPTIONS)
    found = tower(tokenizer([*CAPTIONS, ""]))
    for row, text in zip(found, [*CAPTIONS, ""], strict=True):
        ids = [*theirs(text).input_ids, theirs.eos_token_id]
        torch.testing.assert_close(row, tower.projection.weight @ _states(llama, ids)[-1], rtol=1e-4, atol=1e-5)


def test_a_long_text_is_cut_at_the_context_and_still_ends(llama: str, roberta: str) -> None:
    for path in (llama, roberta):
        _, tokenizer = build_language_tower(path, [], pooling="last", num_trainable_layers=0, **OPTIONS)
        tokens = tokenizer(["red " * 50, "red"])
        assert tokens.shape == (2, 12)
        assert tokens[0, -1] == tokenizer.end_id
        assert (tokens[1] == PADDING).sum() == 9
        assert tokenizer(["red"]).shape == (1, 8)


def test_the_last_layers_train_and_the_rest_gets_no_gradient(roberta: str, llama: str) -> None:
    for path in (roberta, llama):
        tower, tokenizer = build_language_tower(path, [], pooling="mean", num_trainable_layers=2, **OPTIONS)
        tower.train()
        before = {name: value.clone() for name, value in tower.state_dict().items()}
        tower(tokenizer(CAPTIONS)).square().sum().backward()
        torch.optim.AdamW([p for p in tower.parameters() if p.requires_grad], lr=0.1).step()
        changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
        layers = layers_of(tower.model)
        assert not any(parameter.requires_grad for parameter in layers[0].parameters())
        assert all(parameter.requires_grad for layer in layers[1:] for parameter in layer.parameters())
        assert not tower.model.get_input_embeddings().weight.requires_grad
    assert tower.model.norm.weight.requires_grad


def test_frozen_layers_keep_nothing_for_a_backward_pass(roberta: str) -> None:
    tower, tokenizer = build_language_tower(roberta, [], pooling="cls", num_trainable_layers=1, **OPTIONS)
    needs_gradient = []
    for layer in layers_of(tower.model):
        layer.register_forward_hook(lambda _, __, output: needs_gradient.append(_first(output).requires_grad))
    tower(tokenizer(CAPTIONS))
    assert needs_gradient == [False, False, True]


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_no_layer_or_all_with_the_embeddings_can_train(roberta: str) -> None:
    frozen, _ = build_language_tower(roberta, [], pooling="cls", num_trainable_layers=0, **OPTIONS)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == ["projection.weight"]
    free, _ = build_language_tower(roberta, [], pooling="cls", num_trainable_layers=3, **OPTIONS)
    assert all(parameter.requires_grad for parameter in free.parameters())


def test_training_has_no_dropout(roberta: str) -> None:
    tower, tokenizer = build_language_tower(roberta, [], pooling="cls", num_trainable_layers=3, **OPTIONS)
    tower.train()
    assert tower.model.config.hidden_dropout_prob > 0
    tokens = tokenizer(CAPTIONS)
    assert torch.equal(tower(tokens), tower(tokens))


def test_the_projection_is_the_seeds_and_building_leaves_the_generator_alone(roberta: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    towers = [
        build_language_tower(name, CAPTIONS, pooling="last", num_trainable_layers=1, **OPTIONS | {"seed": seed})[0]
        for name, seed in ((roberta, 0), (roberta, 0), (roberta, 1), ("tiny", 0), ("tiny", 0), ("tiny", 1))
    ]
    assert torch.equal(torch.rand(1), expected)
    digests = [weights_sha256(tower) for tower in towers]
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == digests[4] != digests[5]


@pytest.mark.parametrize("kind", ["roberta", "llama", "tiny", "clip"])
@torch.inference_mode()
def test_the_text_side_comes_back_without_the_model_it_was_made_from(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.core.models.encoder.MAX_PART_BYTES", 5000)
    side = _side(kind if kind in ("tiny", "clip") else request.getfixturevalue(kind), kind)
    files = open_folder(str(tmp_path / "run"))
    names = save_text(files, side)
    assert set(TEXT_FILES) < set(names)
    assert sorted(names) == files.names()
    assert str(tmp_path) not in files.read(TEXT_FILES[1]).decode()
    for path in tmp_path.glob(f"{kind}/*"):
        path.unlink()
    again = load_text(files)
    texts = [*CAPTIONS, "an unseen zebra"]
    assert torch.equal(again.tokenizer(texts), side.tokenizer(texts))
    assert torch.equal(again.tower(again.tokenizer(texts)), side.tower(side.tokenizer(texts)))
    assert torch.equal(again.projection_DE, side.projection_DE)
    assert (again.logit_scale, again.logit_bias) == (side.logit_scale, side.logit_bias)
    assert not any(parameter.requires_grad for parameter in again.tower.parameters())


def _side(path: str, kind: str) -> TextSide:
    projection, scale = torch.rand(16, 6), torch.tensor(2.0)
    if kind == "clip":
        tokenizer = build_tokenizer("words", CAPTIONS, context_length=12)
        sizes = {"width": 16, "depth": 2, "num_heads": 2, "embedding_dim": 6}
        tower = TextTower(vocab_size=tokenizer.vocab_size, context_length=12, **sizes, seed=0)
        return TextSide(tower.eval(), tokenizer, projection, scale)
    built, tokens = build_language_tower(path, CAPTIONS, pooling="mean", num_trainable_layers=1, **OPTIONS)
    return TextSide(built.eval(), tokens, projection, scale, torch.tensor(-10.0))


def test_the_tiny_model_has_the_words_of_the_captions() -> None:
    tower, tokenizer = build_language_tower("tiny", CAPTIONS, pooling="last", num_trainable_layers=1, **OPTIONS)
    words = build_tokenizer("words", CAPTIONS, context_length=12)
    expected = words(CAPTIONS)[:, :8]
    assert tokenizer(CAPTIONS).tolist() == expected.masked_fill(expected == 0, PADDING).tolist()
    assert tower.model.get_input_embeddings().num_embeddings == words.vocab_size == tokenizer.vocab_size
    assert isinstance(tower, LanguageTower)
    assert tower(tokenizer(CAPTIONS)).shape == (3, 6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pooling": "max"}, "choose cls, mean, last"),
        ({"num_trainable_layers": 4}, "4 of its layers are to train, and it has 3"),
        ({"context_length": 21}, "it takes 20 tokens, and the context is 21"),
    ],
)
def test_what_the_model_has_not_is_refused(roberta: str, changes: dict[str, Any], reason: str) -> None:
    options = OPTIONS | {"pooling": "cls", "num_trainable_layers": 1} | changes
    with pytest.raises(ValueError, match=reason):
        build_language_tower(roberta, [], **options)


def test_a_class_token_that_is_not_there_is_not_read(llama: str) -> None:
    with pytest.raises(ValueError, match="no class token first: choose mean or last"):
        build_language_tower(llama, [], pooling="cls", num_trainable_layers=0, **OPTIONS)


def test_a_model_that_cant_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the language model .*nothing can't be the text tower"):
        build_language_tower(str(tmp_path / "nothing"), [], pooling="cls", num_trainable_layers=0, **OPTIONS)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    path = _save(tmp_path / "t5", config, has_end=True)
    with pytest.raises(ValueError, match="is an encoder with a decoder"):
        build_language_tower(path, [], pooling="mean", num_trainable_layers=0, **OPTIONS)
