"""The numbers behind the pairs: what mined pairs share, and how alike the encoders are as a whole."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.analyze_embeddings.features import TestFeatures
from components.core.evaluation import pairs, similarity
from components.core.evaluation.intervals import wilson
from components.core.evaluation.pairs import MinedPairs

NEIGHBOURS = 10  # k of the mutual k-NN, as in Huh et al.
NUM_PERMUTATIONS = 100
RSA_PICTURES = 1000  # RSA ranks all pairs of pictures at once: half a million of them here
FIXED_THRESHOLDS = {("clip", "dino"): (0.7, 0.5), ("dino", "clip"): (0.8, 0.5)}  # STUDY.md 3, the authors' code
DIGITS = 6


def describe_direction(
    direction: tuple[str, str], mined: MinedPairs, labels: Mapping[str, np.ndarray], cosines: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns, per factor, the share of mined pairs that agree in it beside that of all pairs."""
    factors = {}
    for factor, labels_N in labels.items():
        agreeing, known = pairs.agreement(mined.pairs_M2, labels_N)
        if known:
            low, high = wilson(agreeing, known)
            shares = {"share": agreeing / known, "low": low, "high": high}
            factors[factor] = rounded(shares | {"base_rate": pairs.base_rate(labels_N)}) | {"n": known}
    alike, unlike = direction
    found: dict[str, Any] = {
        "alike": alike,
        "unlike": unlike,
        "num_candidates": mined.num_candidates,
        "num_pairs": len(mined.pairs_M2),
        "above": round(mined.high, DIGITS),
        "below": round(mined.low, DIGITS),
        "factors": factors,
    }
    if direction in FIXED_THRESHOLDS:
        above, below = FIXED_THRESHOLDS[direction]
        count = pairs.count_fixed(cosines[alike], cosines[unlike], above, below)
        found["fixed"] = {"above": above, "below": below, "num_pairs": count}
    return found


def describe_agreement(features: TestFeatures, cosines: Mapping[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Returns RSA, linear CKA and mutual k-NN of each pair of arms, each beside its value under permutations."""
    subset_N = np.random.default_rng(seed).permutation(len(features.ids_N))[:RSA_PICTURES]
    neighbours = min(NEIGHBOURS, len(features.ids_N) - 1)
    found = []
    for first, second in itertools.combinations(cosines, 2):
        small_first, small_second = (cosines[arm][np.ix_(subset_N, subset_N)] for arm in (first, second))
        measures = {
            "rsa": similarity.calibrated_rsa(small_first, small_second, NUM_PERMUTATIONS, seed),
            "cka": similarity.calibrated_cka(features.cls[first], features.cls[second], NUM_PERMUTATIONS, seed),
            "mutual_knn": similarity.calibrated_knn(
                cosines[first], cosines[second], neighbours, NUM_PERMUTATIONS, seed
            ),
        }
        values = {name: rounded(vars(measure)) for name, measure in measures.items()}
        found.append({"arms": [first, second], "k": neighbours, "rsa_pictures": len(subset_N)} | values)
    return found


def describe_factors(features: TestFeatures, cosines: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Returns, per factor and arm, how alike pictures of one class are against those of different classes."""
    return {
        factor: {arm: rounded(similarity.class_similarity(cosines_NN, labels_N)) for arm, cosines_NN in cosines.items()}
        for factor, labels_N in features.labels.items()
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the numbers with as many digits as the last bits of a sum leave alone."""
    return {name: round(float(value), DIGITS) for name, value in values.items()}
