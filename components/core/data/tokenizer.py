# B batch, T context length.
"""Text to token ids, behind one small interface: a list of captions in, (B, T) int64 out.

`words` is a vocabulary of the words of the training captions, enough for the synthetic world and quick to
embed; `open_clip` is CLIP's byte-pair encoding of 49,408 ids. Both cut at the context length, keep the
end-of-text token, and give that token their highest id, because the text tower reads the state there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Protocol

import torch

from components.core.models.torchvision_cpu import allow_torchvision_import

PAD, UNKNOWN, START = "<pad>", "<unknown>", "<start>"
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[^\sa-z0-9]")


class Tokenizer(Protocol):
    """What objectives and evaluations need of a tokenizer."""

    context_length: int
    vocab_size: int

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Returns (B, T) int64 ids: start, words, end, then zeros."""
        ...

    def to_json(self) -> str:
        """Returns what `tokenizer_from_json` makes an equal tokenizer of."""
        ...


class WordTokenizer:
    """One id per word; words that training never saw share one.

    Args:
        words: the vocabulary, in the order of its ids.
        context_length: T.
    """

    def __init__(self, words: Iterable[str], *, context_length: int) -> None:
        self.words, self.context_length = list(words), context_length
        self._ids = {word: number for number, word in enumerate([PAD, UNKNOWN, START, *self.words])}
        self._end = len(self._ids)
        self.vocab_size = self._end + 1

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Returns (B, T) int64 ids."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = WORD.findall(text.lower())[: self.context_length - 2]
            ids = [
                self._ids[START],
                *(self._ids.get(word, self._ids[UNKNOWN]) for word in words),
                self._end,
            ]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def to_json(self) -> str:
        """Returns name, context and words as JSON."""
        return json.dumps({"name": "words", "context_length": self.context_length, "words": self.words})


class OpenClipTokenizer:
    """open_clip's SimpleTokenizer; its vocabulary comes with the package.

    Args:
        context_length: T.
    """

    def __init__(self, *, context_length: int) -> None:
        allow_torchvision_import()
        from open_clip.tokenizer import SimpleTokenizer

        self.context_length = context_length
        self._tokenizer = SimpleTokenizer(context_length=context_length)
        self.vocab_size = self._tokenizer.vocab_size

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Returns (B, T) int64 ids."""
        return self._tokenizer(texts).long()

    def to_json(self) -> str:
        """Returns name and context as JSON."""
        return json.dumps({"name": "open_clip", "context_length": self.context_length})


def build_tokenizer(name: str, captions: Iterable[str], *, context_length: int) -> Tokenizer:
    """Returns a tokenizer by name; `words` takes its vocabulary, sorted, from the captions.

    Raises:
        ValueError: the name is neither `words` nor `open_clip`, or the context has no room for a word.
    """
    if context_length < 3:
        raise ValueError(f"context_length={context_length}: start, end and one word need 3 tokens or more.")
    if name == "open_clip":
        return OpenClipTokenizer(context_length=context_length)
    if name == "words":
        return WordTokenizer(
            sorted({word for text in set(captions) for word in WORD.findall(text.lower())}),
            context_length=context_length,
        )
    raise ValueError(f"tokenizer={name!r} is unknown: choose words or open_clip.")


def tokenizer_from_json(text: str) -> Tokenizer:
    """Returns the tokenizer that `to_json` described."""
    facts = json.loads(text)
    if facts["name"] == "language":
        from components.core.data.language_tokenizer import language_tokenizer_from_json

        return language_tokenizer_from_json(text)
    if facts["name"] == "words":
        return WordTokenizer(facts["words"], context_length=facts["context_length"])
    return build_tokenizer(facts["name"], [], context_length=facts["context_length"])
