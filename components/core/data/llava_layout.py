"""Conversations about pictures in LLaVA's published layout: a JSON list of records, or one record per line.

A record is `{"id": .., "image": name or list of names, "conversations": [{"from": "human" | "gpt", "value": ..}]}`;
`<image>` in a question says where a picture stands, and a record about no picture has no `image`. So are
blip_laion_cc_sbu_558k.json and llava_v1_5_mix665k.json (Liu et al., arXiv 2310.03744). The latter has a gigabyte, which
would be several as Python objects; so records are read one by one.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol, TextIO, cast

from components.core.data.record_tally import RecordTally

IMAGE_MARK = "<image>"
ROLES = ("human", "gpt")
CHUNK_CHARACTERS = 1 << 20
MAX_RECORD_CHARACTERS = 1 << 24

_SPACE = re.compile(r"[ \t\r\n]*")


class OpeningFolder(Protocol):
    """A place that holds files by name."""

    def open(self, name: str) -> io.BufferedIOBase: ...


@dataclass(frozen=True)
class Record:
    """One conversation.

    Attributes:
        place: Where it stands, for messages.
        pictures: Names, in the order of the marks.
        turns: Questions and replies in turn; as many `<image>` in the questions as there are pictures.
    """

    place: str
    pictures: tuple[str, ...]
    turns: tuple[str, ...]


class _Unusable(Exception):
    """A record that can't be used: the reason as counted, and what is wrong."""

    def __init__(self, reason: str, fault: str) -> None:
        super().__init__(fault)
        self.reason = reason


def read_records(folder: OpeningFolder, name: str, tally: RecordTally) -> Iterator[Record]:
    """Yields the usable records of a file in their order; the tally says what became of the others.

    A reply before the first question is dropped, as LLaVA's reference drops it; pictures that no `<image>` stands for
    stand before the first question.

    Raises:
        ValueError: The file is no such JSON.
    """
    with io.TextIOWrapper(cast(IO[bytes], folder.open(name)), encoding="utf-8-sig", newline="") as text:
        for number, value in enumerate(_values(text, name)):
            tally.num_records += 1
            place = f"{name}, record {number} (id {json.dumps(value.get('id'), ensure_ascii=False)})"
            try:
                record, is_opening_dropped = _record(place, value)
            except _Unusable as unusable:
                tally.leave_out(unusable.reason, f"{place}: {unusable}.")
                continue
            tally.changed["opening_reply_dropped"] += is_opening_dropped
            yield record


def _record(place: str, value: dict[str, Any]) -> tuple[Record, bool]:
    pictures = _pictures(value.get("image"))
    turns = _turns(value.get("conversations"))
    is_opening_dropped = bool(turns) and turns[0][0] == ROLES[1]
    turns = turns[is_opening_dropped:]
    if not turns or [role for role, _ in turns] != [ROLES[i % 2] for i in range(len(turns))] or len(turns) % 2:
        raise _Unusable("roles", "`human` and `gpt` don't speak in turn from the first question to the last reply")
    questions, replies = [text for _, text in turns[::2]], [text for _, text in turns[1::2]]
    if any(IMAGE_MARK in reply for reply in replies):
        raise _Unusable("mark_in_reply", f"a reply contains {IMAGE_MARK}; remove it")
    num_marks = sum(question.count(IMAGE_MARK) for question in questions)
    if pictures and not num_marks:
        questions[0] = f"{IMAGE_MARK}\n" * len(pictures) + questions[0]
    elif num_marks != len(pictures):
        raise _Unusable(
            "marks", f"it has {len(pictures)} pictures and {num_marks} times {IMAGE_MARK}; make the numbers equal"
        )
    if not all(text.strip() for text in questions + replies):
        raise _Unusable("empty_turn", "a question or reply is empty; remove the pair")
    said = (text for pair in zip(questions, replies, strict=True) for text in pair)
    return Record(place, pictures, tuple(said)), is_opening_dropped


def _pictures(image: Any) -> tuple[str, ...]:
    names = [] if image is None else image if isinstance(image, list) else [image]
    for name in names:
        if not isinstance(name, str) or not name:
            raise _Unusable("picture_name", f"image={json.dumps(image)} is neither a name nor a list of names")
        if name.startswith("/") or ".." in name.split("/"):
            raise _Unusable("picture_name", f"image={json.dumps(image)} is no name below the folder of the pictures")
    return tuple(names)


def _turns(conversations: Any) -> list[tuple[str, str]]:
    is_list = isinstance(conversations, list)
    if not is_list or not all(
        isinstance(turn, dict) and turn.get("from") in ROLES and isinstance(turn.get("value"), str)
        for turn in conversations
    ):
        raise _Unusable(
            "conversations", '`conversations` is no list of {"from": "human" or "gpt", "value": text}; write it so'
        )
    return [(turn["from"], turn["value"]) for turn in conversations]


def _values(text: TextIO, name: str) -> Iterator[dict[str, Any]]:
    source, number = _Source(text), 0
    try:
        opening = source.peek()
        if opening not in ("[", "{"):
            raise ValueError("it begins with neither [ nor {")
        source.at += opening == "["
        separator = "," if opening == "[" else ""
        ending = "]" if separator else ""
        while (found := source.peek()) != ending:
            if number and separator:
                source.step_over(separator)
                found = source.peek()
            if found != "{":
                raise ValueError(f"a record begins with {found!r} instead of {{")
            yield source.value()
            number += 1
        source.at += len(ending)
        if source.peek():
            raise ValueError("something follows the end of the list")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} can't be read from record {number} on ({error}): give a JSON list of records, or one record per "
            "line, in UTF-8."
        ) from error


class _Source:
    """JSON values one after the other out of a text of which a part is in memory."""

    def __init__(self, text: TextIO) -> None:
        self.at = 0
        self._text, self._buffer = text, ""
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Returns the next character that is no white space, and stands there; empty at the end."""
        while True:
            space = _SPACE.match(self._buffer, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self._buffer) or not self._grow():
                return self._buffer[self.at : self.at + 1]

    def step_over(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise ValueError(f"there is {found!r} instead of {character!r} between two records")
        self.at += 1

    def value(self) -> Any:
        """Returns the value that begins here; what looks broken may only be not yet read."""
        while True:
            try:
                value, self.at = self._decode(self._buffer, self.at)
            except json.JSONDecodeError:
                if len(self._buffer) - self.at > MAX_RECORD_CHARACTERS or not self._grow():
                    raise
            else:
                return value

    def _grow(self) -> bool:
        """Reads on, each time as much as is held, so that a long record is decoded a few times only."""
        rest = self._buffer[self.at :]
        more = self._text.read(max(CHUNK_CHARACTERS, len(rest)))
        self._buffer, self.at = rest + more, 0
        return bool(more)
