"""The order of samples."""

import itertools

import pytest

from components.core.data.order import SampleOrder


def order(sizes: list[int], *, seed: int = 0, batch_size: int = 8, num_streams: int = 4) -> SampleOrder:
    return SampleOrder(sizes, seed=seed, batch_size=batch_size, num_streams=num_streams)


def test_every_sample_comes_once_in_each_epoch() -> None:
    batches = itertools.islice(order([6, 10, 8, 8, 10, 6, 8, 8]).batches(), 16)
    seen = [pair for batch in batches for pair in batch]
    for epoch in (0, 1):
        assert sorted(sample for sample, e in seen if e == epoch) == list(range(64))


def test_a_batch_takes_equally_many_samples_from_every_stream() -> None:
    batch = next(order([4] * 8, num_streams=4).batches())
    streams = [sample // 4 % 4 for sample, _ in batch]
    assert streams == [0, 0, 1, 1, 2, 2, 3, 3]


def test_starting_late_gives_the_same_batches_as_having_started_early() -> None:
    sizes = [7, 9, 8, 8, 5]
    from_start = list(itertools.islice(order(sizes).batches(), 30))
    assert list(itertools.islice(order(sizes).batches(start_step=17), 13)) == from_start[17:]


def test_seeds_and_epochs_shuffle_differently() -> None:
    first, second = (list(itertools.islice(order([8] * 4, seed=s).batches(), 8)) for s in (0, 1))
    assert first != second
    assert [s for s, _ in first[0]] != [s for s, _ in first[4]]
    assert order([8] * 4, seed=0).digest(8) != order([8] * 4, seed=1).digest(8)
    assert order([8] * 4, seed=0).digest(8) == order([8] * 4, seed=0).digest(8)


def test_the_order_is_the_one_that_was_published() -> None:
    """Golden value: another order would make finished studies incomparable."""
    assert [sample for sample, _ in next(order([5, 5, 5, 5]).batches())] == PUBLISHED


PUBLISHED = [3, 1, 5, 6, 13, 10, 15, 16]


@pytest.mark.parametrize(
    ("sizes", "arguments", "sentence"),
    [
        ([4, 4], {}, "num_streams=4 is more than the 2 shards"),
        ([4] * 4, {"batch_size": 6}, "no multiple of num_streams=4"),
        ([4, 4, 4, 0], {}, "leaves a stream without samples"),
    ],
)
def test_an_impossible_order_is_refused(sizes: list[int], arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        order(sizes, **arguments)
