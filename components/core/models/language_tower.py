# B batch, T tokens, W width of the language model, E embedding.
"""A pretrained language model as text tower: its last layers train, the rest stays as it was.

The paper's variants with RoBERTa (last 10 and last 4 layers) and Vicuna (Liu et al., arXiv 2510.11835). Locked towers
are Zhai et al.'s, "LiT: Zero-Shot Transfer with Locked-image text Tuning", arXiv 2111.07991. Dropout is off in all
layers, those that train included: what is random in a run is a function of seed, sample and epoch, and dropout is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from components.core.data.language_tokenizer import (
    PADDING,
    LanguageTokenizer,
    from_hugging_face,
    word_tokenizer_json,
)
from components.core.data.tokenizer import WordTokenizer, build_tokenizer
from components.core.models.torchvision_cpu import allow_torchvision_import

TINY = "tiny"
TINY_WIDTH, TINY_DEPTH, TINY_HEADS = 64, 2, 2
POOLINGS = ("cls", "mean", "last")


class LanguageTower(nn.Module):
    """Maps token ids (B, T), padded at the right with -1, to embeddings (B, E) by a linear projection.

    Args:
        model: A transformers model that returns `last_hidden_state`: an encoder or a decoder.
        pooling: `cls` reads the first token, `mean` all tokens' mean, `last` the last token, which alone has seen the
            whole text in a decoder.
        num_trainable_layers: How many of the last layers train, with what stands behind them; 0 for none. The
            embeddings train with all layers only.
        embedding_dim: E, the space shared with the images.
        context_length: Longest text in tokens.
        seed: Of the projection; the same seed gives the same bits.

    Raises:
        ValueError: The model is of another kind, too short or too shallow, or the pooling is unknown.
    """

    def __init__(
        self,
        model: Any,
        *,
        pooling: str,
        num_trainable_layers: int,
        embedding_dim: int,
        context_length: int,
        seed: int,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} is unknown: choose {', '.join(POOLINGS)}.")
        longest = getattr(model.config, "max_position_embeddings", context_length)
        if longest < context_length:
            raise ValueError(f"the language model has {longest} positions, and the context is {context_length} tokens")
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # made for another task; it would get no gradient
        model.config.use_cache = False
        self.model, self.pooling = model.float(), pooling
        self.num_trainable_layers, self.depth = num_trainable_layers, len(layers_of(model))
        self.context_length, self.embedding_dim = context_length, embedding_dim
        self.width: int = model.config.hidden_size
        vocab_size, padding_id = model.get_input_embeddings().num_embeddings, model.config.pad_token_id
        self._filler_id = padding_id if padding_id is not None and 0 <= padding_id < vocab_size else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Linear(self.width, embedding_dim, bias=False)
            nn.init.normal_(self.projection.weight, std=self.width**-0.5)  # as CLIP's text projection
        _train_last(model, num_trainable_layers)
        self.train()

    def train(self, mode: bool = True) -> LanguageTower:
        """Returns itself; the language model stays in evaluation mode, which has no dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Returns the projection of the pooled last states, (B, E), not normalised."""
        is_text_BT = tokens_BT != PADDING
        ids_BT = tokens_BT.masked_fill(~is_text_BT, self._filler_id)
        states_BTW = self.model(input_ids=ids_BT, attention_mask=is_text_BT.long()).last_hidden_state
        return self.projection(pool(states_BTW, is_text_BT, self.pooling))

    def facts(self) -> dict[str, Any]:
        """Returns what `language_tower_from_facts` makes a tower of the same shape of."""
        config = self.model.config.to_dict()
        config.pop("_name_or_path", None)  # a place on this machine, which says nothing about the weights
        return {
            "config": config,
            "pooling": self.pooling,
            "num_trainable_layers": self.num_trainable_layers,
            "embedding_dim": self.embedding_dim,
            "context_length": self.context_length,
        }


def pool(states_BTW: Tensor, is_text_BT: Tensor, pooling: str) -> Tensor:
    """Returns one state per text, (B, W); texts have one token or more, and stand at the left."""
    if pooling == "cls":
        return states_BTW[:, 0]
    if pooling == "mean":
        weights_BT1 = is_text_BT[..., None].to(states_BTW)
        return (states_BTW * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
    last_B11 = is_text_BT.sum(dim=1)[:, None, None] - 1
    return states_BTW.gather(1, last_B11.expand(-1, 1, states_BTW.shape[2]))[:, 0]


def layers_of(model: Any) -> nn.ModuleList:
    """Returns the layers of a transformers model, first to last.

    Raises:
        ValueError: It has none that are its config's number, as where layers share weights, or has two stacks.
    """
    num_layers = getattr(model.config, "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError("the language model is an encoder with a decoder: give one that is either")
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError("the language model has no list of layers: give an encoder such as RoBERTa or a decoder")


def build_language_tower(
    name_or_path: str,
    captions: Iterable[str],
    *,
    revision: str,
    pooling: str,
    num_trainable_layers: int,
    embedding_dim: int,
    context_length: int,
    seed: int,
) -> tuple[LanguageTower, LanguageTokenizer]:
    """Returns the tower and its tokenizer.

    Args:
        name_or_path: A model of the hub, a folder, or `tiny`: a decoder of two layers made on the spot, with random
            weights and the captions' words. It shows that the arm works, and knows no language.
        captions: The vocabulary of `tiny`; else not read.
        revision: Branch, tag or commit on the hub; not read for a folder.
        pooling: See LanguageTower, as for the rest.
        num_trainable_layers: How many layers train.
        embedding_dim: E.
        context_length: Longest text in tokens.
        seed: Of the projection, and of `tiny`'s weights.

    Raises:
        ValueError: The model can't be loaded, or can't be used so.
    """
    try:
        if name_or_path == TINY:
            model, tokenizer = _tiny(captions, context_length, seed)
        else:
            model, tokenizer = _load(name_or_path, revision, context_length, pooling)
        tower = LanguageTower(
            model,
            pooling=pooling,
            num_trainable_layers=num_trainable_layers,
            embedding_dim=embedding_dim,
            context_length=context_length,
            seed=seed,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the language model {name_or_path} can't be the text tower ({reason})") from error
    if tokenizer.vocab_size > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"the language model {name_or_path} has {model.get_input_embeddings().num_embeddings} word vectors, and "
            f"its tokenizer {tokenizer.vocab_size} ids: give the tokenizer that it was trained with."
        )
    return tower, tokenizer


def language_tower_from_facts(facts: dict[str, Any]) -> LanguageTower:
    """Returns a tower of the shape that `facts` told, whose weights are to be loaded."""
    allow_torchvision_import()
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng(devices=[]):
        model = AutoModel.from_config(AutoConfig.for_model(**facts["config"]))
    return LanguageTower(model, **{name: value for name, value in facts.items() if name != "config"}, seed=0)


def _load(name_or_path: str, revision: str, context_length: int, pooling: str) -> tuple[Any, LanguageTokenizer]:
    allow_torchvision_import()
    from transformers import AutoModel, AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    tokenizer = from_hugging_face(theirs, context_length=context_length)
    if pooling == "cls" and tokenizer([""])[0, 0] != theirs.cls_token_id:
        raise ValueError("pooling=cls, and its tokenizer puts no class token first: choose mean or last")
    model = AutoModel.from_pretrained(name_or_path, revision=revision, dtype=torch.float32, use_safetensors=True)
    return model, tokenizer


def _tiny(captions: Iterable[str], context_length: int, seed: int) -> tuple[Any, LanguageTokenizer]:
    allow_torchvision_import()
    from transformers import LlamaConfig, LlamaModel

    words = build_tokenizer("words", captions, context_length=context_length)
    assert isinstance(words, WordTokenizer)
    end_id = words.vocab_size - 1
    config = LlamaConfig(
        vocab_size=words.vocab_size,
        hidden_size=TINY_WIDTH,
        intermediate_size=2 * TINY_WIDTH,
        num_hidden_layers=TINY_DEPTH,
        num_attention_heads=TINY_HEADS,
        num_key_value_heads=TINY_HEADS,
        max_position_embeddings=context_length,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=end_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaModel(config)
    return model, LanguageTokenizer(word_tokenizer_json(words), end_id=end_id, context_length=context_length)


def _train_last(model: Any, num_trainable_layers: int) -> None:
    """Lets the last layers and what is registered behind them train; the embeddings with all layers only."""
    layers = layers_of(model)
    if not 0 <= num_trainable_layers <= len(layers):
        raise ValueError(f"{num_trainable_layers} of its layers are to train, and it has {len(layers)}")
    model.requires_grad_(num_trainable_layers == len(layers))
    if num_trainable_layers == 0:
        return
    for layer in layers[len(layers) - num_trainable_layers :]:
        layer.requires_grad_(True)
    modules = list(model.modules())
    for module in modules[modules.index(list(layers[-1].modules())[-1]) + 1 :]:
        if not isinstance(module, nn.Embedding):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
