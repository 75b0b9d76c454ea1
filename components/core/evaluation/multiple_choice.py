"""Multiple-choice benchmarks in VMCBench's format: sets and groups, prompt, reply parser, scores.

Zhang et al., "Automated Generation of Challenging Multiple-Choice Questions for Vision Language Model Evaluation",
arXiv 2501.03225. The parser is the official one, but for its unseeded random choice where a reply can't be read: such a
reply is wrong in the primary scores, and counts as a guess in the second ones.
"""

import base64
import binascii
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from components.core.data.questions import LETTERS, vmcbench_prompt
from components.core.evaluation.intervals import wilson

COLUMNS = ("index", "question", *LETTERS, "answer", "category", "image")
LEAST_OPTIONS = 2
LONG_REPLY_WORDS = 5
OTHER = "other"
GROUPS: dict[str, tuple[str, ...]] = {
    "general": ("SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA"),
    "reasoning": ("MMMU", "MathVista", "ScienceQA", "RealWorldQA", "GQA", "MathVision"),
    "ocr": ("TextVQA", "OCRVQA"),
    "doc & chart": ("AI2D", "ChartQA", "DocVQA", "InfoVQA", "TableVQABench"),
}
GROUP_OF_SET = {name: group for group, names in GROUPS.items() for name in names}


@dataclass(frozen=True)
class Question:
    """One row of a benchmark, and the digest of its picture's bytes in their place."""

    index: str
    question: str
    options: tuple[str, ...]
    answer: str
    category: str
    group: str
    split: str
    image_sha256: str

    def prompt(self) -> str:
        """Returns VMCBench's prompt."""
        return vmcbench_prompt(self.question, self.options)

    def digest(self) -> str:
        """Returns the sha256 of all that a reply depends on, beside the model."""
        asked = [self.index, self.prompt(), self.options, self.image_sha256]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def read_question(row: Mapping[str, Any], groups: Mapping[str, str], split: str, other_group: bool) -> Question:
    """Returns the question in a row of a benchmark's table.

    Args:
        row: A value for each of COLUMNS; the picture is bytes, {"bytes": ...} or base64 text.
        groups: The group of each set that is known.
        split: The part of the benchmark that the row belongs to; empty: it has none.
        other_group: Whether a set of no known group belongs to the group `other`.

    Raises:
        ValueError: The row can't be used.
    """
    index = str(row["index"])
    empty = [name for name in ("index", "question", "answer", "category") if row[name] is None]
    if empty:
        raise ValueError(f"question {index} has nothing in {', '.join(empty)}")
    answer, category = str(row["answer"]).strip(), str(row["category"])
    options = _options(row, index)
    letters = LETTERS[: len(options)]
    if answer not in tuple(letters):
        raise ValueError(
            f"question {index} has the answer {answer!r}: expected {', '.join(letters[:-1])} or {letters[-1]}"
        )
    if category not in groups and not other_group:
        raise ValueError(
            f"question {index} is of the set {category!r}, which belongs to no group: expected one of "
            f"{', '.join(sorted(groups))}"
        )
    data = image_bytes(row["image"], index)
    with _decoding(index):  # the header alone: what is no picture is refused long before its turn
        Image.open(io.BytesIO(data))
    group, sha256 = groups.get(category, OTHER), hashlib.sha256(data).hexdigest()
    return Question(index, str(row["question"]), options, answer, category, group, split, sha256)


def _options(row: Mapping[str, Any], index: str) -> tuple[str, ...]:
    """Returns the options up to the first that is empty: sets with fewer than four leave the last ones empty."""
    texts = ["" if row[letter] is None else str(row[letter]) for letter in LETTERS]
    count = next((number for number, text in enumerate(texts) if not text.strip()), len(texts))
    behind = [letter for letter, text in zip(LETTERS[count:], texts[count:], strict=True) if text.strip()]
    if behind:
        raise ValueError(f"question {index} has an option {behind[0]} but no {LETTERS[count]}")
    if count < LEAST_OPTIONS:
        raise ValueError(f"question {index} has nothing in {LETTERS[count]}: expected at least the options A and B")
    return tuple(texts[:count])


def image_bytes(value: Any, index: str) -> bytes:
    """Returns the encoded picture in a row's column `image`.

    Raises:
        ValueError: There is none.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if value is None:
        raise ValueError(f"question {index} has no picture")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"the picture of question {index} is text, but no base64 ({error})") from error
    if not isinstance(value, bytes):
        raise ValueError(f"the picture of question {index} is {type(value).__name__}: expected bytes or base64 text")
    return value


def decoded(data: bytes, index: str) -> Image.Image:
    """Returns the picture of a question, RGB.

    Raises:
        ValueError: The bytes are no picture.
    """
    with _decoding(index):
        return Image.open(io.BytesIO(data)).convert("RGB")


@contextlib.contextmanager
def _decoding(index: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them raise
        raise ValueError(f"the picture of question {index} can't be decoded ({error})") from error


def parse_reply(reply: str, options: Sequence[str]) -> str | None:
    """Returns the letter that a reply means, or None where it can't be told: VMCBench's rule.

    Marks at the ends are dropped. `(B)` or `B. ` count first, then a letter alone; then, in replies of more than five
    words, an option's text. Of several letters the last one in the reply counts, but the official code looks for their
    places in brackets only: of several `B. ` the first in the alphabet counts.
    """
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        reply = reply.strip(mark)
    padded, letters = f" {reply} ", LETTERS[: len(options)]
    found = [letter for letter in letters if f"({letter})" in padded or f"{letter}. " in padded]
    if found:
        return max(found, key=lambda letter: padded.rfind(f"({letter})"))
    found = [letter for letter in letters if f" {letter} " in padded]
    if found:
        return max(found, key=lambda letter: padded.rfind(f" {letter} "))
    if len(reply.split()) <= LONG_REPLY_WORDS:
        return None
    lower = padded.lower()
    places = {letter: lower.rfind(text.lower()) for letter, text in zip(letters, options, strict=True)}
    best = max(places, key=lambda letter: places[letter])
    return best if places[best] >= 0 else None


@dataclass(frozen=True)
class _Marked:
    """A question, and what a reply made of it."""

    category: str
    group: str
    split: str
    chance: float
    is_right: bool
    is_read: bool


def score_sheet(questions: Sequence[Question], predicted: Sequence[str | None], confidence: float) -> dict[str, Any]:
    """Returns accuracies per set, per group, per split and over all questions, with Wilson intervals.

    `micro` is the mean over questions, `macro` the mean over sets. `quarter` beside each accuracy is the one that
    counts an unread reply as the chance of guessing it: a quarter of four options.
    """
    rows = [
        _Marked(q.category, q.group, q.split, 1 / len(q.options), letter == q.answer, letter is not None)
        for q, letter in zip(questions, predicted, strict=True)
    ]

    def entry(chosen: list[_Marked]) -> dict[str, float]:
        n, right = len(chosen), sum(row.is_right for row in chosen)
        low, high = wilson(right, n, confidence)
        quarter = (right + sum(row.chance for row in chosen if not row.is_read)) / n
        chance = sum(row.chance for row in chosen) / n
        return {"accuracy": right / n, "low": low, "high": high, "n": n, "chance": chance, "quarter": quarter}

    group_of = {row.category: row.group for row in rows}
    sets: dict[str, Any] = {
        name: entry([row for row in rows if row.category == name]) | {"group": group_of[name]}
        for name in sorted(group_of)
    }
    order = [*GROUPS, *sorted({row.group for row in rows} - set(GROUPS))]
    groups = {name: [row for row in rows if row.group == name] for name in order}
    splits = sorted({row.split for row in rows if row.split})
    return {
        "sets": sets,
        "groups": {name: entry(chosen) for name, chosen in groups.items() if chosen},
        "splits": {name: entry([row for row in rows if row.split == name]) for name in splits},
        "micro": entry(rows),
        "macro": sum(scores["accuracy"] for scores in sets.values()) / len(sets),
        "macro_quarter": sum(scores["quarter"] for scores in sets.values()) / len(sets),
        "unparsed_rate": sum(not row.is_read for row in rows) / len(rows),
    }
