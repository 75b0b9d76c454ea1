"""Multiple-choice benchmarks in VMCBench's format: sets and groups, prompt, reply parser, scores.

Zhang et al., "Automated Generation of Challenging Multiple-Choice Questions for Vision Language Model Evaluation",
arXiv 2501.03225. The parser is the official one, but for its unseeded random choice where a reply can't be read: such a
reply is wrong in the primary scores, and counts as a quarter in the second ones.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from components.core.data.questions import LETTERS, vmcbench_prompt
from components.core.evaluation.intervals import wilson

CHANCE = 1 / len(LETTERS)
COLUMNS = ("index", "question", *LETTERS, "answer", "category", "image")
LONG_REPLY_WORDS = 5
GROUPS: dict[str, tuple[str, ...]] = {
    "general": ("SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA"),
    "reasoning": ("MMMU", "MathVista", "ScienceQA", "RealWorldQA", "GQA", "MathVision"),
    "ocr": ("TextVQA", "OCRVQA"),
    "doc & chart": ("AI2D", "ChartQA", "DocVQA", "InfoVQA", "TableVQABench"),
}
GROUP_OF_SET = {name: group for group, names in GROUPS.items() for name in names}


@dataclass(frozen=True)
class Question:
    """One row of a benchmark."""

    index: str
    question: str
    options: tuple[str, str, str, str]
    answer: str
    category: str
    group: str
    image: bytes

    def prompt(self) -> str:
        """Returns VMCBench's prompt."""
        return vmcbench_prompt(self.question, self.options)

    def picture(self) -> Image.Image:
        """Returns the decoded picture, RGB.

        Raises:
            ValueError: The bytes are no picture.
        """
        try:
            return Image.open(io.BytesIO(self.image)).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"the picture of question {self.index} can't be decoded ({error})") from error


def read_questions(data: bytes, groups: Mapping[str, str]) -> list[Question]:
    """Returns the questions of a parquet file in its order.

    Args:
        data: The file; pictures are bytes, {"bytes": ...} or base64 text.
        groups: The group of each set that is no set of VMCBench.

    Raises:
        ValueError: The file is empty or no parquet, lacks a column, or has a row that can't be used.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"the benchmark is no parquet file ({error})") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"the benchmark lacks the columns {', '.join(missing)}: expected {', '.join(COLUMNS)}")
    if not table.num_rows:
        raise ValueError("the benchmark has no questions")
    known = GROUP_OF_SET | dict(groups)
    questions: list[Question] = []
    seen: set[str] = set()
    for row in table.select(list(COLUMNS)).to_pylist():
        question = _question(row, known)
        if question.index in seen:
            raise ValueError(f"the index {question.index} occurs twice")
        seen.add(question.index)
        questions.append(question)
    return questions


def _question(row: dict[str, Any], groups: Mapping[str, str]) -> Question:
    index = str(row["index"])
    empty = [name for name in COLUMNS if row[name] is None]
    if empty:
        raise ValueError(f"question {index} has nothing in {', '.join(empty)}")
    answer, category = str(row["answer"]).strip(), str(row["category"])
    if answer not in tuple(LETTERS):
        raise ValueError(f"question {index} has the answer {answer!r}: expected A, B, C or D")
    if category not in groups:
        raise ValueError(
            f"question {index} is of the set {category!r}, which belongs to no group: expected one of "
            f"{', '.join(sorted(groups))}"
        )
    a, b, c, d = (str(row[letter]) for letter in LETTERS)
    image = _image_bytes(row["image"], index)
    return Question(index, str(row["question"]), (a, b, c, d), answer, category, groups[category], image)


def _image_bytes(value: Any, index: str) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the picture of question {index} is text, but no base64 ({error})") from error
    if not isinstance(value, bytes):
        raise ValueError(f"the picture of question {index} is {type(value).__name__}: expected bytes or base64 text")
    return value


def parse_reply(reply: str, options: Sequence[str]) -> str | None:
    """Returns the letter that a reply means, or None where it can't be told: VMCBench's rule.

    Marks at the ends are dropped. `(B)` or `B. ` count first, then a letter alone; then, in replies of more than five
    words, an option's text. Of several, the last one in the reply counts.
    """
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        reply = reply.strip(mark)
    padded = f" {reply} "
    found = {letter: max(padded.rfind(f"({letter})"), padded.rfind(f"{letter}. ")) for letter in LETTERS}
    if max(found.values()) < 0:
        found = {letter: padded.rfind(f" {letter} ") for letter in LETTERS}
    if max(found.values()) < 0 and len(reply.split()) > LONG_REPLY_WORDS:
        lower = padded.lower()
        found = {letter: lower.rfind(text.lower()) for letter, text in zip(LETTERS, options, strict=True) if text}
    best = max(found, key=lambda letter: found[letter])
    return best if found[best] >= 0 else None


def score_sheet(questions: Sequence[Question], predicted: Sequence[str | None], confidence: float) -> dict[str, Any]:
    """Returns accuracies per set, per group and over all questions, with Wilson intervals.

    `micro` is the mean over questions, `macro` the mean over sets. `quarter` beside each accuracy is the one that
    counts an unread reply as a quarter, the chance of guessing it.
    """
    rows = [
        (q.category, q.group, int(letter == q.answer), int(letter is None))
        for q, letter in zip(questions, predicted, strict=True)
    ]

    def entry(chosen: list[tuple[str, str, int, int]]) -> dict[str, float]:
        n, right = len(chosen), sum(row[2] for row in chosen)
        low, high = wilson(right, n, confidence)
        quarter = (right + CHANCE * sum(row[3] for row in chosen)) / n
        return {"accuracy": right / n, "low": low, "high": high, "n": n, "chance": CHANCE, "quarter": quarter}

    group_of = {row[0]: row[1] for row in rows}
    sets: dict[str, Any] = {
        name: entry([row for row in rows if row[0] == name]) | {"group": group_of[name]} for name in sorted(group_of)
    }
    order = [*GROUPS, *sorted({row[1] for row in rows} - set(GROUPS))]
    groups = {name: [row for row in rows if row[1] == name] for name in order}
    return {
        "sets": sets,
        "groups": {name: entry(chosen) for name, chosen in groups.items() if chosen},
        "micro": entry(rows),
        "macro": sum(scores["accuracy"] for scores in sets.values()) / len(sets),
        "macro_quarter": sum(scores["quarter"] for scores in sets.values()) / len(sets),
        "unparsed_rate": sum(row[3] for row in rows) / len(rows),
    }
