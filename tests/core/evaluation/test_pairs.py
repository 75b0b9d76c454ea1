"""Mined pairs are those of the brute-force search over all pairs at once, whatever the tiles and the memory."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from components.core.evaluation import pairs
from components.core.evaluation.best_pairs import BestPairs
from components.core.evaluation.pair_tiles import cosines_of_pairs, num_distinct_pairs, tiles
from components.core.evaluation.similarity import cosine_similarities

N, QUANTILE = 80, 0.95


@pytest.fixture(name="encoders")
def _encoders() -> dict[str, np.ndarray]:
    return _random(N, ("clip", "dino", "siglip"))


def _random(n: int, names: tuple[str, ...], width: int = 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal((n, width)).astype(np.float32) for name in names}


def _brute_force(
    encoders: Mapping[str, np.ndarray], direction: pairs.Direction, quantile: float
) -> tuple[np.ndarray, int]:
    """Returns the pairs and the number of candidates, with all pairs in memory."""
    upper = np.triu_indices(len(encoders[direction[0]]), 1)
    alike_P, unlike_P = (cosine_similarities(encoders[name])[upper].astype(float) for name in direction)
    high, low = np.quantile(alike_P, quantile), np.quantile(unlike_P, 1 - quantile)
    chosen = np.flatnonzero((alike_P > high) & (unlike_P < low))
    gaps = alike_P / alike_P.std() - unlike_P / unlike_P.std()
    taken: set[int] = set()
    found = []
    for index in chosen[np.argsort(-gaps[chosen], kind="stable")]:
        pair = int(upper[0][index]), int(upper[1][index])
        if taken.isdisjoint(pair):
            taken.update(pair)
            found.append(pair)
    return np.array(found).reshape(-1, 2), len(chosen)


@pytest.mark.parametrize("num_pairs", [1, 5, 100])
@pytest.mark.parametrize(("n", "tile"), [(N, 1024), (N, 80), (N, 7), (300, 64), (300, 299)])
def test_mined_pairs_are_those_of_the_brute_force_search(n: int, tile: int, num_pairs: int) -> None:
    encoders = _random(n, ("clip", "dino", "siglip"))
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    mined = pairs.mine(encoders, scales, num_pairs, tile=tile)
    assert list(mined) == list(itertools.permutations(encoders, 2))
    for direction, found in mined.items():
        expected_M2, num_candidates = _brute_force(encoders, direction, QUANTILE)
        assert found.num_candidates == num_candidates > 3
        np.testing.assert_array_equal(found.pairs_M2, expected_M2[:num_pairs])


def test_tiles_hold_every_distinct_pair_once(encoders: dict[str, np.ndarray]) -> None:
    met: list[tuple[int, int]] = []
    num_pairs = 0
    for tile in tiles(encoders, 13):
        first_P, second_P = tile.pictures(np.flatnonzero(tile.cosines["clip"] > -1.5))
        met += zip(first_P.tolist(), second_P.tolist(), strict=True)
        num_pairs += tile.num_pairs
    assert sorted(met) == list(itertools.combinations(range(N), 2)) and num_pairs == len(met)


def test_the_thresholds_are_quantiles_and_the_spread_is_that_of_all_pairs(encoders: dict[str, np.ndarray]) -> None:
    found = pairs.thresholds(encoders, QUANTILE, seed=0)
    assert found.is_exact and found.num_pairs == num_distinct_pairs(N)
    for name, scale in found.scales.items():
        values_P = cosine_similarities(encoders[name])[np.triu_indices(N, 1)].astype(float)
        expected = np.quantile(values_P, [QUANTILE, 1 - QUANTILE])
        assert [scale.high, scale.low] == pytest.approx(expected) and scale.error == 0
        assert [scale.mean, scale.spread] == pytest.approx([values_P.mean(), values_P.std()], abs=1e-6)


def test_sampled_thresholds_are_within_their_stated_error() -> None:
    encoders = _random(600, tuple("abcdefgh"))
    exact = pairs.thresholds(encoders, 0.9, seed=0).scales
    sampled = pairs.thresholds(encoders, 0.9, seed=0, exact_pairs=1000, sampled_pairs=20_000)
    assert not sampled.is_exact and sampled.num_pairs == 20_000
    errors = [
        abs(getattr(exact[n], end) - getattr(s, end)) for n, s in sampled.scales.items() for end in ("high", "low")
    ]
    stated = [scale.error for scale in sampled.scales.values() for _ in range(2)]
    assert sum(error <= bound for error, bound in zip(errors, stated, strict=True)) >= 14  # of 16, at 95 % each
    assert max(stated) < 0.02


def test_a_picture_occurs_in_one_pair_only(encoders: dict[str, np.ndarray]) -> None:
    scales = pairs.thresholds(encoders, 0.8, seed=0).scales
    mined = pairs.mine(encoders, scales, N)["clip", "dino"]
    assert len(np.unique(mined.pairs_M2)) == mined.pairs_M2.size
    assert mined.num_candidates > len(mined.pairs_M2)
    for name, sign in (("clip", 1), ("dino", -1)):
        cosines_M = cosines_of_pairs(encoders[name], mined.pairs_M2)
        assert (sign * cosines_M > sign * (scales[name].high if sign > 0 else scales[name].low)).all()


def test_permuting_the_arms_swaps_the_directions(encoders: dict[str, np.ndarray]) -> None:
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    there = pairs.mine(encoders, scales, 9)
    back = pairs.mine(dict(reversed(encoders.items())), scales, 9)
    assert there.keys() == back.keys() and len(there) == 6
    for direction, mined in there.items():
        np.testing.assert_array_equal(mined.pairs_M2, back[direction].pairs_M2)


def test_permuting_the_pictures_permutes_the_pairs(encoders: dict[str, np.ndarray]) -> None:
    order_N = np.random.default_rng(1).permutation(N)
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    mined = pairs.mine(encoders, scales, 9)["clip", "dino"]
    moved = pairs.mine({name: rows_ND[order_N] for name, rows_ND in encoders.items()}, scales, 9)["clip", "dino"]
    assert {frozenset(p) for p in order_N[moved.pairs_M2].tolist()} == {frozenset(p) for p in mined.pairs_M2.tolist()}


@pytest.mark.parametrize("num_pairs", [1, 2, 6])
def test_the_choice_is_greedy_though_only_few_pairs_are_kept(num_pairs: int) -> None:
    """One picture is in most of the best pairs, the gaps have ties, and the pairs come in any order."""
    generator = np.random.default_rng(num_pairs)
    every = np.array(list(itertools.combinations(range(60), 2)))
    gaps = generator.integers(0, 200, len(every)) + 1000.0 * (every[:, 0] == 0) + 500.0 * (every[:, 1] == 59)
    taken: set[int] = set()
    expected: list[list[int]] = []
    for pair in every[np.lexsort((every[:, 1], every[:, 0], -gaps))].tolist():
        if taken.isdisjoint(pair) and len(expected) < num_pairs:
            taken.update(pair)
            expected.append(pair)
    for _ in range(5):
        best = BestPairs(num_pairs)
        for part in np.array_split(generator.permutation(len(every)), 40):
            best.add(gaps[part], every[part, 0], every[part, 1])
        assert best.chosen().tolist() == expected


def test_an_encoder_that_sees_everything_alike_gives_no_pairs(encoders: dict[str, np.ndarray]) -> None:
    flat = {"clip": np.ones((N, 5), np.float32), "dino": encoders["dino"]}
    for mined in pairs.mine(flat, pairs.thresholds(flat, QUANTILE, seed=0).scales, 5).values():
        assert mined.pairs_M2.shape == (0, 2) and mined.num_candidates == 0


def test_memory_mapped_features_give_the_same_pairs(encoders: dict[str, np.ndarray], tmp_path: Path) -> None:
    mapped = {}
    for name, rows_ND in encoders.items():
        np.save(tmp_path / f"{name}.npy", rows_ND)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    scales = pairs.thresholds(mapped, QUANTILE, seed=0).scales
    assert scales == pairs.thresholds(encoders, QUANTILE, seed=0).scales
    for direction, mined in pairs.mine(mapped, scales, 5).items():
        np.testing.assert_array_equal(mined.pairs_M2, pairs.mine(encoders, scales, 5)[direction].pairs_M2)


def test_fixed_thresholds_count_distinct_pairs(encoders: dict[str, np.ndarray]) -> None:
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    limits = [(0.7, 0.5), (0.3, -0.3), (0.999999, -1.0)]
    mined = pairs.mine(encoders, scales, 5, fixed={("clip", "dino"): limits}, tile=33)
    first_NN, second_NN = cosine_similarities(encoders["clip"]), cosine_similarities(encoders["dino"])
    expected = [int(np.triu((first_NN > above) & (second_NN < below), 1).sum()) for above, below in limits]
    assert list(mined["clip", "dino"].num_fixed) == expected and expected[1] > expected[2] == 0
    assert mined["dino", "clip"].num_fixed == ()


def test_a_search_can_be_stopped_between_tiles(encoders: dict[str, np.ndarray]) -> None:
    compared: list[int] = []
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    pairs.mine(encoders, scales, 5, tile=30, after_tile=compared.append)
    assert len(compared) == 6 and sum(compared) == num_distinct_pairs(N)

    def stop(num_pairs: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pairs.mine(encoders, scales, 5, tile=30, after_tile=stop)


def test_encoders_of_other_pictures_are_refused(encoders: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="expected one number of pictures for all"):
        pairs.thresholds(encoders | {"dino": encoders["dino"][:-1]}, QUANTILE, seed=0)


def test_the_base_rate_is_the_agreement_of_all_pairs() -> None:
    labels_N = np.array([0, 0, 1, 2, 2, 2, -1])
    every_pair = np.array([(i, j) for j in range(7) for i in range(j)])
    agreeing, known = pairs.agreement(every_pair, labels_N)
    assert (agreeing, known) == (4, 15)
    assert pairs.base_rate(labels_N) == pytest.approx(4 / 15)
    assert pairs.base_rate(np.array([-1, 3])) == 0
