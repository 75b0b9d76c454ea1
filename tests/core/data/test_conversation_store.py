"""Conversations in arrays: the same as they came, in a tenth of the memory."""

import dataclasses
import tracemalloc
from collections.abc import Iterator

import pytest

from components.core.data.conversation import IGNORED, IMAGE, Conversation
from components.core.data.conversation_store import Conversations

SAID = [
    Conversation([1, IMAGE, 70_000, 5, 2], [IGNORED, IGNORED, IGNORED, 5, 2], ("a.jpg",)),
    Conversation([1, 9, 2], [IGNORED, IGNORED, 2], ()),
    Conversation([IMAGE, 8, IMAGE, 7], [IGNORED, 8, IGNORED, 7], ("ü/b.jpg", "c.jpg")),
]


def test_conversations_come_back_as_they_were_given() -> None:
    found = Conversations(iter(SAID), num_image_tokens=196)
    assert [found[number] for number in range(len(found))] == SAID
    assert all(type(token) is int for number in range(3) for token in found[number].tokens + found[number].labels)


def test_lengths_labels_and_kinds_are_known() -> None:
    found = Conversations(SAID, num_image_tokens=196)
    assert found.lengths_I.tolist() == [4 + 196, 3, 2 + 2 * 196]
    assert found.num_labels_I.tolist() == [2, 1, 2]
    assert found.has_picture_I.tolist() == [True, False, True]


def test_no_conversations_are_none() -> None:
    found = Conversations([], num_image_tokens=196)
    assert len(found) == len(found.lengths_I) == len(found.num_labels_I) == len(found.has_picture_I) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [1, IMAGE, 70_001, 5, 2]},
        {"labels": [IGNORED, IGNORED, 70_000, 5, 2]},
        {"pictures": ("b.jpg",)},
    ],
)
def test_the_digest_tells_every_difference(change: dict) -> None:
    changed = [dataclasses.replace(SAID[0], **change), *SAID[1:]]
    digests = [Conversations(said, num_image_tokens=196).digest() for said in (SAID, SAID, changed, SAID[::-1])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_token_takes_few_bytes() -> None:
    def made() -> Iterator[Conversation]:
        for number in range(2000):
            tokens = list(range(1000, 1300))
            yield Conversation(tokens, [IGNORED] * 200 + tokens[200:], (f"coco/train2017/{number:012}.jpg",))

    tracemalloc.start()
    found = Conversations(made(), num_image_tokens=196)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 2000
    assert held < 7 * 300 * 2000
