"""Batches of conversations: padded, dealt to ranks, resumed, and whole in spite of broken pictures."""

import io
import itertools
import threading
from collections.abc import Callable

import numpy
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from components.core.data.conversation import IGNORED, IMAGE, Conversation
from components.core.data.conversation_batches import BATCHES_AHEAD, ConversationBatch, ConversationBatches
from components.core.data.conversation_order import ConversationOrder
from components.core.data.conversation_store import Conversations
from components.core.training.batches import num_rows, split

NUM_IMAGE_TOKENS, SIZE, PADDING = 7, 4, 0


def conversation(number: int, num_pictures: int, length: int) -> Conversation:
    """Returns one whose first token is its number, and whose last (length % 3 + 1) tokens are learnt."""
    num_labels = length % 3 + 1
    tokens = [1000 + number, *[IMAGE] * num_pictures, *range(1, length)]
    labels = [IGNORED] * (len(tokens) - num_labels) + tokens[-num_labels:]
    return Conversation(tokens, labels, tuple(f"{number}-{place}.png" for place in range(num_pictures)))


def png(name: str) -> bytes:
    number, place = map(int, name.removesuffix(".png").split("-"))
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (number, place, 200)).save(buffer, "PNG")
    return buffer.getvalue()


class Pictures:
    """Pictures made at the time; those named in `broken` are what is said there, or not there."""

    def __init__(self, broken: dict[str, bytes | None] | None = None) -> None:
        self.broken = broken or {}
        self.reads: list[str] = []

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        data = self.broken[name] if name in self.broken else png(name)
        if data is None:
            raise FileNotFoundError(f"images/{name}")
        return data


class Tower:
    image_size_px = SIZE

    def prepare(self, picture: Image.Image) -> NDArray[numpy.uint8]:
        return numpy.asarray(picture).transpose(2, 0, 1)


def mixed(num_pictured: int, num_text: int) -> list[Conversation]:
    rng = numpy.random.default_rng(0)
    lengths = rng.integers(4, 30, num_pictured + num_text).tolist()
    return [
        conversation(number, int(rng.integers(1, 3)) if number < num_pictured else 0, length)
        for number, length in enumerate(lengths)
    ]


def batches_of(
    conversations: list[Conversation],
    *,
    batch_size: int,
    pictures: Pictures | None = None,
    tell: Callable[[str], None] = print,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int = 2,
) -> ConversationBatches:
    stored = Conversations(conversations, num_image_tokens=NUM_IMAGE_TOKENS)
    return ConversationBatches(
        ConversationOrder(stored, seed=3, batch_size=batch_size),
        pictures or Pictures(),
        Tower(),
        padding_id=PADDING,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads,
        tell=tell,
    )


def taken(batches: ConversationBatches, number: int, start: int = 0) -> list[ConversationBatch]:
    return list(itertools.islice(batches.batches(start), number))


def numbers(batch: ConversationBatch) -> list[int]:
    return (batch.tokens_BT[:, 0] - 1000).tolist()


def is_same(one: ConversationBatch, other: ConversationBatch) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_a_batch_holds_rows_padded_at_the_right_and_their_pictures() -> None:
    said = [conversation(0, 2, 5), conversation(1, 1, 9), conversation(2, 0, 4)]
    (batch,) = taken(batches_of(said, batch_size=3), 1)
    assert num_rows(batch) == 3 and numbers(batch) == [0, 1, 2]  # 19, 16 and 4 tokens, a picture counted as 7
    assert batch.tokens_BT.dtype == batch.labels_BT.dtype == torch.int64
    for row, expected in enumerate(said):
        length = len(expected.tokens)
        assert batch.tokens_BT[row].tolist() == expected.tokens + [PADDING] * (10 - length)
        assert batch.labels_BT[row].tolist() == expected.labels + [IGNORED] * (10 - length)
        assert batch.is_text_BT[row].tolist() == [True] * length + [False] * (10 - length)
    assert batch.pictures_BKCSS.shape == (3, 2, 3, SIZE, SIZE) and batch.pictures_BKCSS.dtype == torch.uint8
    colours = [[(0, 0, 200), (0, 1, 200)], [(1, 0, 200), (0, 0, 0)], [(0, 0, 0), (0, 0, 0)]]
    assert batch.pictures_BKCSS[..., 3, 1].tolist() == [[list(c) for c in row] for row in colours]
    assert (batch.pictures_BKCSS == batch.pictures_BKCSS[..., :1, :1]).all()
    num_labels = 3 + 1 + 2
    assert torch.equal(batch.weights_B, torch.full((3,), 3 / num_labels))


def test_a_batch_without_pictures_has_none() -> None:
    (batch,) = taken(batches_of([conversation(n, 0, 5) for n in range(4)], batch_size=4), 1)
    assert batch.pictures_BKCSS.shape == (4, 0, 3, SIZE, SIZE)
    assert [num_rows(part) for part in split(batch, 2)] == [2, 2]
    assert is_same(batch.to("cpu"), batch)


@pytest.mark.parametrize(("num_parts", "world_size"), [(1, 1), (4, 1), (2, 2), (1, 4)])
def test_the_mean_of_the_parts_losses_is_the_mean_over_all_labels(num_parts: int, world_size: int) -> None:
    said = mixed(16, 0)
    entropies = numpy.random.default_rng(1).random(2000)  # of a token, by its row's number and its place
    parts = []
    for rank in range(world_size):
        (batch,) = taken(batches_of(said, batch_size=8, rank=rank, world_size=world_size), 1)
        for part in split(batch, num_parts):
            losses = [
                sum(entropies[31 * number + place] for place in numpy.flatnonzero(row != IGNORED)) * weight
                for number, row, weight in zip(numbers(part), part.labels_BT, part.weights_B.tolist(), strict=True)
            ]
            parts.append(sum(losses) / num_rows(part))
    (whole,) = taken(batches_of(said, batch_size=8), 1)
    labels = [
        entropies[31 * number + place]
        for number, row in zip(numbers(whole), whole.labels_BT, strict=True)
        for place in numpy.flatnonzero(row != IGNORED)
    ]
    assert numpy.mean(parts) == pytest.approx(numpy.mean(labels), rel=1e-6)


def test_any_number_of_ranks_has_the_same_global_batches() -> None:
    said = mixed(30, 13)
    whole = taken(batches_of(said, batch_size=8), 7)
    for world_size in (2, 4):
        ranks = [taken(batches_of(said, batch_size=8, rank=r, world_size=world_size), 7) for r in range(world_size)]
        for step, batch in enumerate(whole):
            parts = [rank[step] for rank in ranks]
            assert [num_rows(part) for part in parts] == [8 // world_size] * world_size
            assert sorted(n for part in parts for n in numbers(part)) == sorted(numbers(batch))
            assert {w for part in parts for w in part.weights_B.tolist()} == set(batch.weights_B.tolist())


@pytest.mark.parametrize("start", [1, 4, 5, 12])
def test_batches_from_a_step_on_are_those_of_the_unbroken_stream(start: int) -> None:
    said = mixed(30, 13)
    whole = taken(batches_of(said, batch_size=8, num_threads=3), 15)
    resumed = taken(batches_of(said, batch_size=8, num_threads=1), 15 - start, start)
    assert all(is_same(one, other) for one, other in zip(whole[start:], resumed, strict=True))


def test_one_conversation_is_a_batch_of_one() -> None:
    found = taken(batches_of([conversation(0, 1, 6)], batch_size=1), 3)
    assert all(is_same(batch, found[0]) for batch in found)


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=8 is no multiple of the 3 ranks"):
        batches_of(mixed(9, 9), batch_size=8, world_size=3)


CUT = png("0-0.png")[:40]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (CUT, "Error"),
        (b"", "UnidentifiedImageError"),
        (b"<html>", "UnidentifiedImageError"),
        (None, "FileNotFoundError"),
    ],
)
@pytest.mark.parametrize("name", ["2-0.png", "2-1.png"])
def test_a_row_with_a_broken_picture_contributes_nothing_and_is_told_once(
    data: bytes | None, why: str, name: str
) -> None:
    said = [conversation(number, 2, 6 + number) for number in range(4)]
    told: list[str] = []
    batches = batches_of(said, batch_size=4, pictures=Pictures({name: data}), tell=told.append)
    found, whole = taken(batches, 3), taken(batches_of(said, batch_size=4), 3)
    for batch, other in zip(found, whole, strict=True):
        is_broken = torch.tensor(numbers(batch)) == 2
        assert is_broken.sum() == 1
        assert (batch.labels_BT[is_broken] == IGNORED).all()
        assert torch.equal(batch.labels_BT[~is_broken], other.labels_BT[~is_broken])
        assert torch.equal(batch.pictures_BKCSS[~is_broken], other.pictures_BKCSS[~is_broken])
        assert torch.equal(batch.weights_B, other.weights_B) and torch.equal(batch.tokens_BT, other.tokens_BT)
    assert (batches.num_broken, batches.num_pictured) == (3, 12)
    assert len(told) == 1 and told[0].startswith(f"The picture {name} can't be used (") and why in told[0]


def test_a_cut_jpeg_is_broken() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    told: list[str] = []
    cut = Pictures({"0-0.png": buffer.getvalue()[: len(buffer.getvalue()) // 2]})
    (batch,) = taken(batches_of([conversation(0, 1, 6)], batch_size=1, pictures=cut, tell=told.append), 1)
    assert (batch.labels_BT == IGNORED).all() and "truncated" in told[0]


class BrokenStore(Pictures):
    def read(self, name: str) -> bytes:
        raise RuntimeError("the store doesn't answer")


def test_a_store_that_does_not_answer_is_no_broken_picture() -> None:
    with pytest.raises(RuntimeError, match="the store doesn't answer"):
        taken(batches_of([conversation(0, 1, 6)], batch_size=1, pictures=BrokenStore()), 1)


def test_no_more_is_read_than_a_few_batches_ahead_and_threads_end() -> None:
    before = threading.active_count()
    pictures = Pictures()
    said = [conversation(number, 1, 6) for number in range(64)]
    stream = batches_of(said, batch_size=4, pictures=pictures).batches()
    for step in range(1, 4):
        next(stream)
        assert 4 * step <= len(pictures.reads) <= 4 * (step + BATCHES_AHEAD)
    stream.close()
    assert threading.active_count() == before


def test_transparent_and_deep_pictures_become_rgb() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (SIZE, SIZE), (9, 9, 9, 0)).save(buffer, "PNG")
    pictures = Pictures({"0-0.png": buffer.getvalue()})
    (batch,) = taken(batches_of([conversation(0, 1, 6)], batch_size=1, pictures=pictures), 1)
    assert (batch.pictures_BKCSS == 255).all()
