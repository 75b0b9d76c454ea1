"""Conversations about pictures as a language model's token ids, and which of them it learns to predict.

The formats are LLaVA-1.5's (Liu et al., arXiv 2310.03744): `plain` in its first stage, a picture and its caption;
`vicuna_v1` in its second, a system sentence, then questions and replies. `bare` is for the tiny language model.

The text between two pictures is given to the tokenizer as one whole, and the places of its tokens in the text say
which belong to a reply. Where a text is tokenised in parts, or a part again to count its tokens, the sum is often not
the whole: a tokenizer of the Llama kind puts a space before each part, and characters merge across the border of two
parts. The masks would slip, and the model would read other tokens in training than in use.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy

from components.core.data.llava_layout import IMAGE_MARK, Record
from components.core.data.record_tally import RecordTally

IGNORED = -100  # label of a token that is given, not predicted; PyTorch's number
IMAGE = -200  # stands in a row of tokens for all tokens of a picture; LLaVA's number
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
RECORDS_AT_ONCE = 512


@dataclass(frozen=True)
class Conversation:
    """One conversation as token ids.

    Attributes:
        tokens: With IMAGE where a picture's tokens go.
        labels: As long; each predicted token in its own place, IGNORED where a token is given and at IMAGE.
        pictures: Names, in the order of the IMAGEs.
    """

    tokens: list[int]
    labels: list[int]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """How questions and replies become text: `bare`, `plain` or `vicuna_v1`."""

    name: str

    def ask(self, prompt: str) -> str:
        """Returns the text up to where the reply begins, with `<image>` where the picture stands."""
        if self.name == "plain":
            return IMAGE_MARK
        if self.name == "bare":
            return IMAGE_MARK + prompt
        return f"{SYSTEM} USER: {IMAGE_MARK}\n{prompt} ASSISTANT:"

    def texts(self, record: Record, end: str) -> list[list[tuple[str, bool]]]:
        """Returns the texts of a conversation, each as pieces: what it says, and whether that is learnt.

        Args:
            record: The conversation.
            end: The language model's end token.
        """
        pairs = list(zip(record.turns[::2], record.turns[1::2], strict=True))
        if self.name == "plain":
            return [[(IMAGE_MARK * len(record.pictures), False), (pairs[0][1] + "\n", True)]]
        if self.name == "bare":
            return [[piece] for question, reply in pairs for piece in ((question, False), (reply + end, True))]
        pieces = [(f"{SYSTEM} ", False)]
        for question, reply in pairs:
            pieces += [(f"USER: {_picture_first(question)} ASSISTANT:", False), (f" {reply}{end}", True)]
        return [pieces]


TEMPLATES = {name: Template(name) for name in ("bare", "plain", "vicuna_v1")}


def tokenise(
    records: Iterable[Record],
    tokenizer: Any,
    template: Template,
    *,
    max_length: int,
    num_image_tokens: int,
    tally: RecordTally,
) -> Iterator[Conversation]:
    """Yields records as tokens, cut at the right; the tally says which were cut or left out.

    The start token, where the tokenizer has one, stands first. A picture that doesn't fit whole is cut with all that
    follows it; so is no picture's part ever left.

    Args:
        records: With pictures that exist.
        tokenizer: A fast tokenizer of transformers.
        template: The format.
        max_length: Most tokens, a picture counted as `num_image_tokens`.
        num_image_tokens: N, tokens of a picture.
        tally: Counts.

    Raises:
        ValueError: The tokenizer can't say where its tokens stand, or doesn't know its end token in a text.
    """
    end = _checked_end(tokenizer)
    special = re.compile("|".join(re.escape(token) for token in sorted(tokenizer.all_special_tokens)))
    usable = (record for record in records if _is_usable(record, template, special, tally))
    while some := list(islice(usable, RECORDS_AT_ONCE)):
        rows = [[part for text in template.texts(record, end) for part in _split(text)] for record in some]
        for record, (tokens, labels) in zip(some, _encode(rows, tokenizer), strict=True):
            kept = _num_kept(tokens, max_length, num_image_tokens)
            tally.changed["cut_at_max_length"] += kept < len(tokens)
            tokens, labels = tokens[:kept], labels[:kept]
            if all(label == IGNORED for label in labels):
                fault = f"no reply begins within max_length={max_length} tokens; raise it"
                tally.leave_out("too_long", f"{record.place}: {fault}.")
                continue
            yield Conversation(tokens, labels, record.pictures[: tokens.count(IMAGE)])


def prompt_tokens(text: str, tokenizer: Any) -> list[int]:
    """Returns the ids of a text in which `<image>` stands for pictures, as `tokenise` gives them in training."""
    return next(_encode([_split([(text, False)])], tokenizer))[0]


@dataclass(frozen=True)
class _Part:
    """Text without a picture, and where its replies begin and end; or a picture."""

    text: str
    replies: list[tuple[int, int]]
    is_picture: bool = False


def _picture_first(question: str) -> str:
    """Returns a question with its pictures moved to the front, a line each, as LLaVA's reference moves its one."""
    num_pictures = question.count(IMAGE_MARK)
    if not num_pictures:
        return question
    return (f"{IMAGE_MARK}\n" * num_pictures + question.replace(IMAGE_MARK, "").strip()).strip()


def _checked_end(tokenizer: Any) -> str:
    if not tokenizer.is_fast:
        raise ValueError(
            "its tokenizer doesn't say where tokens stand in a text: save a fast tokenizer beside the model"
        )
    end = tokenizer.eos_token
    if end is None or tokenizer.encode(f"a{end}", add_special_tokens=False)[-1] != tokenizer.eos_token_id:
        raise ValueError(f"its tokenizer doesn't read its end token {end!r} in a text: choose another model")
    return str(end)


def _is_usable(record: Record, template: Template, special: re.Pattern[str], tally: RecordTally) -> bool:
    if template.name == "plain" and (len(record.turns) != 2 or not record.pictures):
        tally.leave_out("no_caption", f"{record.place}: it is no picture with one caption, which `plain` needs.")
        return False
    found = next((match[0] for match in map(special.search, record.turns) if match), "")
    if found:
        fault = f"its text contains {found!r}, which the language model takes for a mark of its own; remove it"
        tally.leave_out("special_token", f"{record.place}: {fault}.")
    return not found


def _split(pieces: Sequence[tuple[str, bool]]) -> list[_Part]:
    """Returns a text's pieces joined, and cut where pictures stand."""
    parts = [_Part("", [])]
    for piece, is_reply in pieces:
        for number, text in enumerate([piece] if is_reply else piece.split(IMAGE_MARK)):
            if number:
                parts += [_Part("", [], is_picture=True), _Part("", [])]
            before = parts[-1].text
            replies = [(len(before), len(before) + len(text))] if is_reply else []
            parts[-1] = _Part(before + text, parts[-1].replies + replies)
    return [part for part in parts if part.text or part.is_picture]


def _encode(rows: list[list[_Part]], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Yields (tokens, labels) of each row of parts."""
    texts = [part.text for row in rows for part in row if not part.is_picture]
    found = iter(_placed(texts, tokenizer) if texts else [])
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for row in rows:
        tokens, labels = list(start), [IGNORED] * len(start)
        for part in row:
            ids, places = ([IMAGE], []) if part.is_picture else next(found)
            tokens += ids
            labels += _labels(ids, places, part.replies)
        yield tokens, labels


def _placed(texts: list[str], tokenizer: Any) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Returns the ids of each text, and where in it they stand."""
    encoded = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _labels(ids: list[int], places: list[tuple[int, int]], replies: list[tuple[int, int]]) -> list[int]:
    """Returns the ids of the tokens that begin within a reply, and IGNORED for the others."""
    labels = [IGNORED] * len(ids)
    for reply in replies:
        first, stop = (bisect_left(places, border, key=itemgetter(0)) for border in reply)
        labels[first:stop] = ids[first:stop]
    return labels


def _num_kept(tokens: list[int], max_length: int, num_image_tokens: int) -> int:
    """Returns how many of the tokens fit."""
    if len(tokens) + tokens.count(IMAGE) * (num_image_tokens - 1) <= max_length:
        return len(tokens)
    lengths = numpy.cumsum([num_image_tokens if token == IMAGE else 1 for token in tokens])
    return int(numpy.searchsorted(lengths, max_length, side="right"))
