"""Mined pairs keep their thresholds, use a picture once, and don't depend on the order of the arms."""

import numpy as np
import pytest

from components.core.evaluation import pairs
from components.core.evaluation.similarity import cosine_similarities

QUANTILE = 0.95


@pytest.fixture
def similarities() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {arm: cosine_similarities(generator.standard_normal((80, 5))) for arm in ("clip", "dino", "siglip")}


def test_every_mined_pair_is_within_both_thresholds(similarities: dict[str, np.ndarray]) -> None:
    for (alike, unlike), mined in pairs.mine_directions(similarities, QUANTILE).items():
        assert len(mined.pairs_M2) > 3
        upper = np.triu_indices(80, 1)
        assert mined.high == pytest.approx(np.quantile(similarities[alike][upper], QUANTILE))
        assert mined.low == pytest.approx(np.quantile(similarities[unlike][upper], 1 - QUANTILE))
        i, j = mined.pairs_M2.T
        assert (similarities[alike][i, j] > mined.high).all() and (similarities[unlike][i, j] < mined.low).all()


def test_a_picture_occurs_in_one_pair_only(similarities: dict[str, np.ndarray]) -> None:
    mined = pairs.mine(similarities["clip"], similarities["dino"], quantile=0.8)
    assert len(np.unique(mined.pairs_M2)) == mined.pairs_M2.size
    assert mined.num_candidates > len(mined.pairs_M2)
    assert (mined.pairs_M2[:, 0] < mined.pairs_M2[:, 1]).all()


def test_permuting_the_arms_swaps_the_directions(similarities: dict[str, np.ndarray]) -> None:
    there = pairs.mine_directions(similarities, QUANTILE)
    back = pairs.mine_directions(dict(reversed(similarities.items())), QUANTILE)
    assert there.keys() == back.keys() and len(there) == 6
    for direction, mined in there.items():
        np.testing.assert_array_equal(mined.pairs_M2, back[direction].pairs_M2)


def test_permuting_the_pictures_permutes_the_pairs(similarities: dict[str, np.ndarray]) -> None:
    order = np.random.default_rng(1).permutation(80)
    mined = pairs.mine(similarities["clip"], similarities["dino"], QUANTILE)
    moved = pairs.mine(*(similarities[arm][np.ix_(order, order)] for arm in ("clip", "dino")), QUANTILE)
    assert {frozenset(p) for p in order[moved.pairs_M2].tolist()} == {frozenset(p) for p in mined.pairs_M2.tolist()}


def test_an_encoder_that_sees_everything_alike_gives_no_pairs(similarities: dict[str, np.ndarray]) -> None:
    collapsed_NN = np.ones((80, 80), np.float32)
    mined = pairs.mine(collapsed_NN, similarities["dino"], QUANTILE)
    assert mined.pairs_M2.shape == (0, 2) and mined.num_candidates == 0


def test_the_base_rate_is_the_agreement_of_all_pairs() -> None:
    labels_N = np.array([0, 0, 1, 2, 2, 2, -1])
    every_pair = np.array([(i, j) for j in range(7) for i in range(j)])
    agreeing, known = pairs.agreement(every_pair, labels_N)
    assert (agreeing, known) == (4, 15)
    assert pairs.base_rate(labels_N) == pytest.approx(4 / 15)
    assert pairs.base_rate(np.array([-1, 3])) == 0


def test_fixed_thresholds_count_distinct_pairs() -> None:
    first_NN = np.array([[1, 0.9, 0.2], [0.9, 1, 0.8], [0.2, 0.8, 1]])
    second_NN = np.array([[1, 0.1, 0.1], [0.1, 1, 0.6], [0.1, 0.6, 1]])
    assert pairs.count_fixed(first_NN, second_NN, above=0.7, below=0.5) == 1
