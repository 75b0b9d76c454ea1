"""The numbers behind the pairs: what mined pairs share, what each encoder follows, and how alike the encoders are."""

# N pictures, S of them in a subset

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.analyze_embeddings.encoders import Encoders
from components.core.evaluation import pairs, projection, similarity
from components.core.evaluation.cosine_sums import class_similarity, cosine_moments
from components.core.evaluation.intervals import wilson
from components.core.evaluation.pairs import Direction, MinedPairs, Scale
from components.core.evaluation.retrieval import retrieve
from components.core.evaluation.rsa import References

NEIGHBOURS = 10  # k of the mutual k-NN, as in Huh et al.
NUM_PERMUTATIONS = 100
NUM_RESAMPLES = 200
CONFIDENCE = 0.95  # of the intervals of RSA
MAX_QUERIES = 1000
DIGITS = 6
AUTHORS = "the authors' code, their pairs"  # STUDY.md 3
AUTHORS_OTHER = "the authors' code, other files"
FIXED_THRESHOLDS: dict[Direction, tuple[tuple[float, float, str], ...]] = {
    ("clip", "dino"): ((0.7, 0.5, AUTHORS), (0.85, 0.3, AUTHORS_OTHER), (0.95, 0.15, AUTHORS_OTHER)),
    ("dino", "clip"): ((0.8, 0.5, AUTHORS), (0.85, 0.3, AUTHORS_OTHER), (0.95, 0.15, AUTHORS_OTHER)),
}


def describe_direction(
    direction: Direction, mined: MinedPairs, labels: Mapping[str, np.ndarray], scales: Mapping[str, Scale]
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
    fixed = zip(FIXED_THRESHOLDS.get(direction, ()), mined.num_fixed, strict=True)
    return {
        "alike": alike,
        "unlike": unlike,
        "num_candidates": mined.num_candidates,
        "num_pairs": len(mined.pairs_M2),
        "above": round(scales[alike].high, DIGITS),
        "below": round(scales[unlike].low, DIGITS),
        "factors": factors,
        "fixed": [{"above": a, "below": b, "num_pairs": count, "source": source} for (a, b, source), count in fixed],
    }


def describe_factors(encoders: Encoders, seed: int) -> dict[str, dict[str, Any]]:
    """Returns, per factor and arm, how alike pictures of one class are, and how well they find each other.

    Numbers are means over the arm's replicates. A factor without two classes, or without two pictures of one class, is
    left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in encoders.arms:
        of_encoders = [_factors(rows_ND, encoders.labels, seed) for rows_ND in encoders.of_arm(arm)]
        for factor, values in of_encoders[0].items():
            found.setdefault(factor, {})[arm] = rounded(
                {n: float(np.mean([of[factor][n] for of in of_encoders])) for n in values}
            )
    return found


def _factors(rows_ND: np.ndarray, labels: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    spread = cosine_moments(rows_ND).spread
    retrieved = retrieve(rows_ND, labels, MAX_QUERIES, seed)
    found: dict[str, dict[str, float]] = {}
    for factor, labels_N in labels.items():
        of, similar = retrieved.get(factor), class_similarity(rows_ND, labels_N, spread)
        if of and similar:
            found[factor] = similar | {
                "retrieval_at_1": of.at_1,
                "mean_average_precision": of.mean_average_precision,
                "chance_at_1": of.chance_at_1,
                "chance_average_precision": of.chance_average_precision,
            }
    return found


def describe_agreement(encoders: Encoders, seed: int) -> list[dict[str, Any]]:
    """Returns how alike each two arms see the pictures, and each arm's replicates among themselves.

    RSA, linear CKA, debiased CKA and mutual k-NN are means over pairs of encoders, each beside its value under
    shuffles of the pictures.

    Args:
        encoders: Of the subset of pictures that is compared.
        seed: Seed of the shuffles.
    """
    k = min(NEIGHBOURS, len(encoders.ids_N) - 1)
    matrices = {arm: [_matrices(rows_ND, k) for rows_ND in encoders.of_arm(arm)] for arm in encoders.arms}
    num_replicates = len(encoders.replicates)
    found = []
    for first, second in itertools.combinations_with_replacement(encoders.arms, 2):
        if first == second and num_replicates == 1:
            continue
        values = {}
        for name in matrices[first][0]:
            left, right = ([of[name] for of in matrices[arm]] for arm in (first, second))
            if first == second:
                measured = similarity.within(left, NUM_PERMUTATIONS, seed)
            else:
                measured = similarity.between(left, right, NUM_PERMUTATIONS, seed)
            values[name] = rounded(vars(measured))
        num_pairs = num_replicates * (num_replicates - 1) // 2 if first == second else num_replicates**2
        about = {"arms": [first, second], "num_encoder_pairs": num_pairs, "k": k, "rsa_pictures": len(encoders.ids_N)}
        found.append(about | values)
    return found


def _matrices(rows_ND: np.ndarray, k: int) -> dict[str, np.ndarray]:
    cosines_NN = similarity.cosine_similarities(rows_ND)
    found = {
        "rsa": similarity.rank_matrix(cosines_NN),
        "cka": similarity.cka_matrix(rows_ND),
        "mutual_knn": similarity.neighbour_matrix(cosines_NN, k),
    }
    if len(rows_ND) > 3:
        found["cka_debiased"] = similarity.debiased_cka_matrix(rows_ND)
    return found


def describe_rsa(encoders: Encoders, references: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, Any]]:
    """Returns, per arm and reference, what the arm's similarities have in common with the reference.

    Args:
        encoders: Of the subset of pictures that the references are for.
        references: Similarities [S, S] by name.
        seed: Seed of the resamples.
    """
    if not references:
        return {arm: {} for arm in encoders.arms}
    compared = References(references, NUM_RESAMPLES, seed, CONFIDENCE)
    found = {}
    for arm in encoders.arms:
        cosines = [similarity.cosine_similarities(rows_ND) for rows_ND in encoders.of_arm(arm)]
        found[arm] = {name: _rounded_rsa(vars(result)) for name, result in compared.compare(cosines).items()}
    return found


def _rounded_rsa(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _round(value) if isinstance(value, list) else round(value, DIGITS) for name, value in values.items()}


def describe_effective_rank(encoders: Encoders) -> dict[str, list[float]]:
    """Returns the effective rank of each arm's replicates."""
    return {arm: _round([similarity.effective_rank(rows) for rows in encoders.of_arm(arm)]) for arm in encoders.arms}


def describe_projection(encoders: Encoders) -> dict[str, Any]:
    """Returns the pictures as points in the plane of each arm's first replicate, with their labels."""
    points = {arm: projection.project(rows_ND).T for arm, rows_ND in encoders.first().items()}
    return {
        "schema": 1,
        "method": projection.METHOD,
        "arms": {arm: {"x": _round(x_N), "y": _round(y_N)} for arm, (x_N, y_N) in points.items()},
        "labels": {factor: labels_N.tolist() for factor, labels_N in encoders.labels.items()},
        "classes": encoders.classes,
        "ids": encoders.ids_N.tolist(),
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the numbers with as many digits as the last bits of a sum leave alone."""
    return {name: round(float(value), DIGITS) for name, value in values.items()}


def _round(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
