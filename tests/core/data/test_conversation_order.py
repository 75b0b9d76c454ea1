"""The order of conversations: kinds apart, each at most once an epoch, shuffled by seed and epoch alone."""

import itertools

import numpy
import pytest

from components.core.data.conversation import IMAGE, Conversation
from components.core.data.conversation_order import ConversationOrder, share_of
from components.core.data.conversation_store import Conversations


def order_of(num_pictured: int, num_text: int, *, batch_size: int, seed: int = 3) -> ConversationOrder:
    """Returns the order of conversations of 1 to 50 tokens, those with a picture first."""
    lengths = numpy.random.default_rng(0).integers(1, 50, num_pictured + num_text).tolist()
    pictured = [Conversation([IMAGE] + [5] * n, [5] * (n + 1), ("a.jpg",)) for n in lengths[:num_pictured]]
    stored = Conversations(
        pictured + [Conversation([5] * n, [5] * n, ()) for n in lengths[num_pictured:]], num_image_tokens=7
    )
    return ConversationOrder(stored, seed=seed, batch_size=batch_size)


@pytest.mark.parametrize(("num_pictured", "num_text"), [(30, 13), (32, 16), (7, 3), (3, 40), (20, 0), (0, 20)])
def test_an_epoch_uses_each_conversation_at_most_once_and_kinds_meet_only_in_the_remainder(
    num_pictured: int, num_text: int
) -> None:
    size = 8
    order = order_of(num_pictured, num_text, batch_size=size)
    orders = list(itertools.islice(order.batches(), 3 * order.steps_per_epoch))
    assert order.steps_per_epoch == (num_pictured + num_text) // size
    for epoch in range(3):
        rows = orders[epoch * order.steps_per_epoch :][: order.steps_per_epoch]
        used = numpy.concatenate(rows).tolist()
        assert len(set(used)) == len(used) == order.steps_per_epoch * size
        num_pictured_in = [int((numpy.array(row) < num_pictured).sum()) for row in rows]
        num_mixed = sum(0 < number < size for number in num_pictured_in)
        assert num_mixed == int(num_pictured % size > 0 and num_pictured % size + num_text % size >= size)


def test_every_conversation_comes_within_a_few_epochs() -> None:
    order = order_of(13, 13, batch_size=8)
    assert set(numpy.concatenate(list(itertools.islice(order.batches(), 30))).tolist()) == set(range(26))


def test_epochs_and_seeds_differ_and_kinds_come_in_mixed_order() -> None:
    first, second = (
        numpy.array(list(itertools.islice(order_of(64, 64, batch_size=8).batches(s), 16))) for s in (0, 16)
    )
    other = numpy.array(list(itertools.islice(order_of(64, 64, batch_size=8, seed=4).batches(), 16)))
    assert not numpy.array_equal(first, second) and not numpy.array_equal(first, other)
    assert {frozenset(row) for row in first.tolist()} != {frozenset(row) for row in second.tolist()}
    kinds = [row[0] < 64 for row in first.tolist()]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=8 is more than the 5 conversations: use a smaller batch"):
        order_of(3, 2, batch_size=8)


def test_the_order_goes_on_at_any_step() -> None:
    order = order_of(30, 13, batch_size=8)
    whole = [rows.tolist() for rows in itertools.islice(order.batches(), 16)]
    for start in range(16):
        assert [rows.tolist() for rows in itertools.islice(order.batches(start), 16 - start)] == whole[start:]


def test_rows_go_from_long_to_short_and_ranks_have_equal_numbers_and_like_lengths() -> None:
    order = order_of(256, 0, batch_size=64)
    lengths_I = order.conversations.lengths_I
    for rows in itertools.islice(order.batches(), 4):
        assert (numpy.diff(lengths_I[rows]) <= 0).all()
        shares = [share_of(rows, rank, 4) for rank in range(4)]
        assert sorted(itertools.chain(*shares)) == sorted(rows.tolist())
        assert {len(share) for share in shares} == {16}
        sums = [int(lengths_I[share].sum()) for share in shares]
        assert max(sums) - min(sums) <= lengths_I.max() - lengths_I.min()
        assert all((numpy.diff(lengths_I[share]) <= 0).all() for share in shares)


def test_rows_are_dealt_forwards_and_backwards() -> None:
    assert [share_of(numpy.arange(8), rank, 2) for rank in range(2)] == [[0, 3, 4, 7], [1, 2, 5, 6]]
