"""Perceptual hashes within a distance, against comparing all pairs."""

import random

import pytest

from components.core.data.near_duplicates import NearDuplicates


@pytest.mark.parametrize("max_distance", [0, 1, 3, 7, 15])
def test_it_finds_what_comparing_all_pairs_finds(max_distance: int) -> None:
    rng = random.Random(max_distance)
    values = [rng.getrandbits(64) for _ in range(150)]
    for value in values[:150]:
        flipped = value
        for bit in rng.sample(range(64), rng.randrange(20)):
            flipped ^= 1 << bit
        values.append(flipped)
    index = NearDuplicates(max_distance)
    for number, value in enumerate(values):
        expected = any((value ^ other).bit_count() <= max_distance for other in values[:number])
        assert index.has_near(value) == expected
        index.add(value)
