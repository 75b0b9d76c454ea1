"""Parts of a benchmark, in which replies are kept while the others are still asked for, and their batches.

What is asked together follows from the questions alone, so that a run that goes on from where another one stopped
computes with the very batches of an unbroken one, and gives the same bits.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.benchmark_vlm.params import QUESTIONS_PER_PART
from components.core.evaluation.multiple_choice import Question
from components.runtime.storage import Folder

FOLDER = "parts"


@dataclass(frozen=True)
class Part:
    """Questions that follow one another in the files.

    Attributes:
        number: Which part.
        batches: The numbers of the questions that are asked together, the long ones first.
        key: The sha256 of everything that decides the replies.
        replies: Those that are known, by the number of the question.
    """

    number: int
    batches: tuple[tuple[int, ...], ...]
    key: str
    replies: dict[int, str] = field(default_factory=dict)

    def open_batches(self) -> list[tuple[int, ...]]:
        """Returns the batches that have no replies yet."""
        return [batch for batch in self.batches if any(number not in self.replies for number in batch)]


class Parts:
    """The parts of a benchmark, as they lie in a folder."""

    def __init__(self, out: Folder, questions: Sequence[Question]) -> None:
        self._out, self._questions = out, questions

    def read(self, lengths: Sequence[int], batch_size: int, asked_how: Sequence[object]) -> list[Part]:
        """Returns all parts, with the replies that an earlier run of the same has left.

        Args:
            lengths: Tokens of each question's prompt.
            batch_size: Most questions of a batch.
            asked_how: Everything else that decides a reply: the model and how it is asked.
        """
        parts: list[Part] = []
        for start in range(0, len(self._questions), QUESTIONS_PER_PART):
            numbers = range(start, min(start + QUESTIONS_PER_PART, len(self._questions)))
            order = sorted(numbers, key=lambda number: (-lengths[number], number))
            batches = tuple(tuple(order[at : at + batch_size]) for at in range(0, len(order), batch_size))
            decisive = [*asked_how, batch_size, [self._questions[number].digest() for number in numbers]]
            key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
            part = Part(len(parts), batches, key)
            part.replies.update(self._kept(part, numbers))
            parts.append(part)
        return parts

    def write(self, part: Part) -> None:
        """Keeps the replies of a part."""
        replies = {self._questions[number].index: reply for number, reply in part.replies.items()}
        self._out.write_json(_name(part), {"key": part.key, "replies": replies})

    def _kept(self, part: Part, numbers: range) -> Mapping[int, str]:
        try:
            found = self._out.read_json(_name(part))
        except FileNotFoundError:
            return {}
        if found["key"] != part.key:
            return {}
        replies: dict[str, str] = found["replies"]
        by_index = {self._questions[number].index: number for number in numbers}
        return {by_index[index]: reply for index, reply in replies.items()}


def _name(part: Part) -> str:
    return f"{FOLDER}/{part.number:05d}.json"
