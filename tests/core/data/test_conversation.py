"""Tokens and label masks of conversations, against the reference's rule worked out another way."""

from typing import Any

import pytest

from components.core.data.conversation import (
    IGNORED,
    IMAGE,
    SYSTEM,
    TEMPLATES,
    Conversation,
    prompt_tokens,
    tokenise,
)
from components.core.data.llava_layout import Record
from components.core.data.record_tally import RecordTally
from tests.core.data.made_tokenizers import KINDS, made_tokenizer

TABLE = {
    "one question": ("<image>\nWhat is in the picture?", "A cat."),
    "the picture last": ("What is it?\n<image>", "A dog"),
    "the picture within": ("  Is <image> red? ", "no"),
    "the picture alone": ("<image>", "A cat and a dog."),
    "two questions": ("<image>\nWhat is it?", "A cat.", "How many colours are there?", "two"),
    "a picture later": ("Hello!", "Hello.", "What is it?\n<image>", "A cat."),
    "two pictures at once": ("<image> or <image>?", "A cat."),
    "two pictures in turn": ("<image>\nWhat is it?", "A cat.", "And now?\n<image>", "A dog."),
    "no picture": ("What is red?", "A colour.", "And blue?", "Another one."),
    "spaces around a question without picture": ("  What?\n", "That."),
    "not ASCII": ("<image>\nWie heißt die Straße? 大きい 🦙", "Grüße aus München, 大阪 🦙🦙"),
    "spaces and lines in a reply": ("<image>\nList!", "  1. red\n\n 2. blue \n"),
    "marks at the border": ("<image>\nA or B:", ": (b)!"),
    "words of the format": ("Who says USER: and ASSISTANT:?", "USER: you. ASSISTANT: me."),
    "three questions": ("<image>\na?", "b.", "c?", "d.", "e?", "f."),
}


def record(*turns: str) -> Record:
    names = tuple(f"{number}.jpg" for number in range(sum(turn.count("<image>") for turn in turns)))
    return Record("mix.json, record 3", names, turns)


def tokenised(
    records: list[Record], kind: str, template: str = "vicuna_v1", *, max_length: int = 10**6, num_image_tokens: int = 5
) -> tuple[list[Conversation], RecordTally]:
    tally = RecordTally()
    found = tokenise(
        records,
        made_tokenizer(kind),
        TEMPLATES[template],
        max_length=max_length,
        num_image_tokens=num_image_tokens,
        tally=tally,
    )
    return list(found), tally


def one(kind: str, *turns: str, template: str = "vicuna_v1") -> Conversation:
    (found,), _ = tokenised([record(*turns)], kind, template)
    return found


def row_of(text: str, tokenizer: Any) -> list[int]:
    """Returns the ids of a text with pictures: its chunks between pictures tokenised each as one, one start token."""
    row = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for number, chunk in enumerate(text.split("<image>")):
        row += [IMAGE] * bool(number) + tokenizer.encode(chunk, add_special_tokens=False)
    return row


def as_asked(question: str) -> str:
    num_pictures = question.count("<image>")
    words = question.replace("<image>", "").strip()
    return ("<image>\n" * num_pictures + words).strip() if num_pictures else question


def rounds_of(turns: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns what is given and what is learnt of each round; the first has the system sentence."""
    given = [f"USER: {as_asked(question)} ASSISTANT:" for question in turns[::2]]
    given[0] = f"{SYSTEM} {given[0]}"
    return list(zip(given, turns[1::2], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", TABLE.values(), ids=TABLE.keys())
def test_tokens_are_the_whole_texts_and_labels_what_the_replies_add_to_it(kind: str, turns: tuple[str, ...]) -> None:
    tokenizer = made_tokenizer(kind)
    text, borders = "", []
    for given, reply in rounds_of(turns):
        text += given
        first = len(row_of(text, tokenizer))
        text += f" {reply}{tokenizer.eos_token}"
        borders.append((first, len(row_of(text, tokenizer))))
    tokens = row_of(text, tokenizer)
    is_label = [any(first <= place < stop for first, stop in borders) for place in range(len(tokens))]
    found = one(kind, *turns)
    assert found.tokens == tokens
    assert found.labels == [t if learnt else IGNORED for t, learnt in zip(tokens, is_label, strict=True)]
    assert found.tokens.count(IMAGE) == len(found.pictures)


@pytest.mark.parametrize("turns", [TABLE[name] for name in TABLE if name != "words of the format"])
def test_masks_are_those_of_the_references_arithmetic(turns: tuple[str, ...]) -> None:
    """LLaVA counts the tokens of each round by itself, with its start token in the place of the end token.

    Of the part of a round up to the reply, it takes off the start token and the space that ends it. This is right for
    Llama's first tokenizer only, and where no reply repeats the format.
    """
    tokenizer = made_tokenizer("llama")
    tokens = row_of("".join(f"{g} {reply}</s>" for g, reply in rounds_of(turns)), tokenizer)
    labels, place = list(tokens), 1
    labels[0] = IGNORED
    for given, reply in rounds_of(turns):
        num_given = len(row_of(f"{given} ", tokenizer)) - 2
        labels[place : place + num_given] = [IGNORED] * num_given
        place += len(row_of(f"{given} {reply}", tokenizer))
    assert place == len(tokens)
    found = one("llama", *turns)
    assert (found.tokens, found.labels) == (tokens, labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("caption", ["a cat and a dog", "  Grüße 大 ", "two\nlines."])
def test_a_caption_and_its_newline_are_learnt(kind: str, caption: str) -> None:
    tokenizer = made_tokenizer(kind)
    learnt = tokenizer.encode(f"{caption}\n", add_special_tokens=False)
    given = row_of("<image>", tokenizer)
    found = one(kind, "Describe it.\n<image>", caption, template="plain")
    assert found.tokens == given + learnt
    assert found.labels == [IGNORED] * len(given) + learnt


@pytest.mark.parametrize("kind", KINDS)
def test_bare_puts_prompt_and_reply_side_by_side_without_anything_between(kind: str) -> None:
    tokenizer = made_tokenizer(kind)
    found = one(kind, "<image>say dog", "dog", "cat", "cats", template="bare")
    question, reply, second, last = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in ("say dog", f"dog{tokenizer.eos_token}", "cat", f"cats{tokenizer.eos_token}")
    )
    given = [*row_of("<image>", tokenizer), *question]
    assert found.tokens == given + reply + second + last
    assert found.labels == [IGNORED] * len(given) + reply + [IGNORED] * len(second) + last


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_asked_in_use_is_what_training_gives(kind: str, template: str) -> None:
    asked = prompt_tokens(TEMPLATES[template].ask("What is it?\nA. red"), made_tokenizer(kind))
    found = one(kind, "<image>What is it?\nA. red", "A. red", template=template)
    assert found.tokens[: len(asked)] == asked
    assert found.labels[: len(asked)] == [IGNORED] * len(asked)
    assert IGNORED not in found.labels[len(asked) :]


def test_the_vicuna_prompt_reads_as_published() -> None:
    assert TEMPLATES["vicuna_v1"].ask("Why?") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhy? ASSISTANT:"
    )
    assert {name: template.name for name, template in TEMPLATES.items()} == {n: n for n in TEMPLATES}


def test_a_token_across_the_border_is_given_and_not_learnt() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), (": no", -1.0), *((c, -2.0) for c in sorted(set(f"{SYSTEM}USERTX: no?")))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens(["</s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    found = list(
        tokenise(
            [record("X?", "nose")],
            fast,
            TEMPLATES["vicuna_v1"],
            max_length=10**6,
            num_image_tokens=1,
            tally=RecordTally(),
        )
    )
    learnt = [label for label in found[0].labels if label != IGNORED]
    assert fast.convert_ids_to_tokens(found[0].tokens)[-4:] == [": no", "s", "e", "</s>"]
    assert fast.convert_ids_to_tokens(learnt) == ["s", "e", "</s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_that_is_too_long_is_cut_at_the_right(kind: str) -> None:
    turns = TABLE["two pictures in turn"]
    whole = one(kind, *turns)
    total = len(whole.tokens) + 2 * 4
    for max_length in range(total + 2):
        found, tally = tokenised([record(*turns)], kind, max_length=max_length)
        lengths = [sum(5 if t == IMAGE else 1 for t in whole.tokens[:kept]) for kept in range(len(whole.tokens) + 1)]
        kept = max(number for number, length in enumerate(lengths) if length <= max_length)
        assert tally.changed["cut_at_max_length"] == (max_length < total)
        if set(whole.labels[:kept]) <= {IGNORED}:
            assert not found and tally.left_out == {"too_long": 1}
            assert tally.first["too_long"].startswith("mix.json, record 3: no reply begins within max_length=")
        else:
            pictures = ("0.jpg", "1.jpg")[: whole.tokens[:kept].count(IMAGE)]
            assert found == [Conversation(whole.tokens[:kept], whole.labels[:kept], pictures)]


def test_a_picture_that_does_not_fit_whole_is_cut_with_all_that_follows() -> None:
    turns = TABLE["a picture later"]
    place = one("llama", *turns).tokens.index(IMAGE)
    for room, is_in in ((place + 4, False), (place + 5, True)):
        ((found,), _) = tokenised([record(*turns)], "llama", max_length=room)
        assert len(found.tokens) == place + is_in
        assert found.pictures == (("0.jpg",) if is_in else ())


def test_a_text_with_a_token_of_the_models_own_is_left_out() -> None:
    found, tally = tokenised([record("What is <s>?", "A start."), record("a?", "b</s>c"), record("a?", "b")], "llama")
    assert len(found) == 1
    assert tally.left_out == {"special_token": 2}
    assert "record 3: its text contains '<s>'" in tally.first["special_token"]


def test_plain_takes_one_caption_about_a_picture() -> None:
    records = [record("<image>", "a"), record("What?", "b"), record("<image>", "a", "b", "c")]
    found, tally = tokenised(records, "llama", "plain")
    assert len(found) == 1
    assert tally.left_out == {"no_caption": 2}


def test_order_and_number_hold_over_many_records() -> None:
    records = [record(f"<image>\nWhich? {number}", f"number {number}.") for number in range(1100)]
    found, tally = tokenised(records, "byte_level")
    assert [conversation.tokens for conversation in found] == [one("byte_level", *r.turns).tokens for r in records]
    assert not tally.left_out and not tally.changed.total()


def test_a_tokenizer_without_end_token_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="doesn't read its end token None in a text"):
        next(tokenise([], fast, TEMPLATES["plain"], max_length=9, num_image_tokens=1, tally=RecordTally()))
