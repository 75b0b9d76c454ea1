# B batch, T tokens of the longest text, rounded up.
"""Tokenizers of Hugging Face language models, held as the text of their `tokenizer.json`.

That text goes with the run, so what was trained can be used without the hub. Rows are padded at the right with -1,
which is no id of any vocabulary: many decoders have no padding token, or use the end token as one, and then only the
position tells what is text. Rows are as long as the batch's longest text, rounded up: with captions of twenty words,
most of a fixed context of 77 would be padding, and a language model's work with it.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from components.core.data.tokenizer import PAD, START, UNKNOWN, WORD, WordTokenizer

PADDING = -1
LENGTH_STEP = 8  # lengths are multiples, so that a compiled model meets few shapes
END = "<end>"
START_OF_WORDS = 3  # behind padding, unknown and start


class LanguageTokenizer:
    """The tokens that the model's own tokenizer gives, cut at the context, and always with the end token last.

    A decoder is read at its last token, as in Wang et al., "Improving Text Embeddings with Large Language Models",
    arXiv 2401.00368, section 3; decoders' tokenizers usually don't write an end by themselves.

    Args:
        definition: The text of a `tokenizer.json`.
        end_id: The token that ends every row.
        context_length: Most tokens of a row, with the special ones.
    """

    def __init__(self, definition: str, *, end_id: int, context_length: int) -> None:
        from tokenizers import Tokenizer

        self.context_length, self.end_id = context_length, end_id
        self._definition = definition
        self._tokenizer = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=context_length)
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Returns (B, T) int64 ids, -1 behind each text's end."""
        rows = [self._ended(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        longest = max((len(row) for row in rows), default=1)
        length = min(self.context_length, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        tokens_BT = torch.full((len(rows), length), PADDING)
        for place_T, row in zip(tokens_BT, rows, strict=True):
            place_T[: len(row)] = torch.tensor(row)
        return tokens_BT

    def to_json(self) -> str:
        """Returns what `language_tokenizer_from_json` makes an equal tokenizer of."""
        facts = {"end_id": self.end_id, "context_length": self.context_length, "definition": self._definition}
        return json.dumps({"name": "language"} | facts)

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] == self.end_id else [*ids[: self.context_length - 1], self.end_id]


def language_tokenizer_from_json(text: str) -> LanguageTokenizer:
    """Returns the tokenizer that `to_json` described."""
    facts = json.loads(text)
    return LanguageTokenizer(facts["definition"], end_id=facts["end_id"], context_length=facts["context_length"])


def from_hugging_face(tokenizer: Any, *, context_length: int) -> LanguageTokenizer:
    """Returns a transformers tokenizer behind the interface of the others.

    Raises:
        ValueError: It is not a fast one, has no token that ends a text, or takes shorter texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("its tokenizer has no tokenizer.json: save a fast tokenizer beside the model")
    end_id = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if end_id is None:
        raise ValueError("its tokenizer has neither an end nor a separator token")
    if context_length > tokenizer.model_max_length:
        raise ValueError(f"it takes {tokenizer.model_max_length} tokens, and the context is {context_length}")
    return LanguageTokenizer(backend.to_str(), end_id=end_id, context_length=context_length)


def word_tokenizer_json(tokenizer: WordTokenizer) -> str:
    """Returns a `tokenizer.json` that gives a text the ids that the word tokenizer gives it, without the padding."""
    special = {PAD: 0, UNKNOWN: 1, START: 2, END: tokenizer.vocab_size - 1}
    vocabulary = special | {word: number for number, word in enumerate(tokenizer.words, start=START_OF_WORDS)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    text, start, end = ({"Sequence": {"id": "A", "type_id": 0}}, _special(START), _special(END))
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token} | flags for token, number in special.items()],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": WORD.pattern},
            "behavior": "Removed",
            "invert": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, {"Sequence": {"id": "B", "type_id": 1}}, end],
            "special_tokens": {
                token: {"id": token, "ids": [special[token]], "tokens": [token]} for token in (START, END)
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }
    return json.dumps(definition)


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}
