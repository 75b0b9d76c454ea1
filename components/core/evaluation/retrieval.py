"""Retrieval among the pictures themselves: each picture asks for the others of its class, by cosine.

Recall@1 is the share of pictures whose nearest other picture is of their class; average precision is the mean, over
the pictures of the class, of the precision at their rank. Pictures that are alone in their class don't ask.
"""

# N pictures, D features, Q pictures that ask

import dataclasses
from collections.abc import Mapping

import numpy as np

from components.core.evaluation.pair_tiles import unit_rows

CHUNK_CELLS = 2**22  # cosines that are sorted at once


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """How well an encoder finds pictures of the same class.

    Attributes:
        at_1: Recall@1, in [0, 1].
        mean_average_precision: In [0, 1].
        chance_at_1: What an encoder that knows nothing reaches.
        chance_average_precision: The same of the mean average precision.
        num_queries: How many pictures asked.
    """

    at_1: float
    mean_average_precision: float
    chance_at_1: float
    chance_average_precision: float
    num_queries: int


def retrieve(
    rows_ND: np.ndarray, labels: Mapping[str, np.ndarray], max_queries: int, seed: int
) -> dict[str, Retrieval]:
    """Returns retrieval per factor; each ranking of the pictures is computed once for all of them.

    Factors without two pictures of one class are left out, and so are pictures without a label.

    Args:
        rows_ND: Features.
        labels: Class index per factor [N], negative for none.
        max_queries: At most so many pictures ask, drawn at random; all pictures are asked for.
        seed: Seed of the draw.
    """
    n = len(rows_ND)
    queries_Q = np.sort(np.random.default_rng(seed).permutation(n)[:max_queries])
    unit_ND = unit_rows(rows_ND)
    found: dict[str, list[np.ndarray]] = {factor: [] for factor in labels}
    for chunk_Q in np.array_split(queries_Q, max(1, -(-len(queries_Q) * n // CHUNK_CELLS))):
        cosines_QN = unit_ND[chunk_Q] @ unit_ND.T
        cosines_QN[np.arange(len(chunk_Q)), chunk_Q] = np.inf  # first in the ranking, which then starts behind it
        order_QN = np.argsort(-cosines_QN, axis=1, kind="stable")[:, 1:]
        for factor, labels_N in labels.items():
            found[factor].append(_per_query(labels_N[order_QN], labels_N[chunk_Q], labels_N))
    return {factor: _mean(np.concatenate(parts)) for factor, parts in found.items() if any(len(p) for p in parts)}


def _mean(values_Q4: np.ndarray) -> Retrieval:
    at_1, precision, chance_at_1, chance_precision = values_Q4.mean(axis=0).tolist()
    return Retrieval(at_1, precision, chance_at_1, chance_precision, len(values_Q4))


def chance_average_precision(num_relevant: np.ndarray, num_others: int) -> np.ndarray:
    """Returns the expected average precision of a random ranking.

    The picture at rank k is relevant with probability R / n, and k - 1 others stand before it, of which
    (R - 1) / (n - 1) are relevant: the sum over k is (H + (R - 1) / (n - 1) (n - H)) / n, H the n-th harmonic number.

    Args:
        num_relevant: R, how many of the others are wanted, at least 1.
        num_others: n, how many others are ranked.
    """
    harmonic = float((1 / np.arange(1, num_others + 1)).sum())
    density = (num_relevant - 1) / max(1, num_others - 1)
    return (harmonic + density * (num_others - harmonic)) / num_others


def _per_query(found_QN: np.ndarray, wanted_Q: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns recall@1, average precision and both chances of each query that has something to find, [Q, 4]."""
    counts = np.bincount(labels_N[labels_N >= 0], minlength=1)
    num_relevant_Q = np.where(wanted_Q >= 0, counts[wanted_Q] - 1, 0)
    asks_Q = num_relevant_Q > 0
    found_QN, num_relevant_Q = found_QN[asks_Q], num_relevant_Q[asks_Q]
    is_known_QN = found_QN >= 0
    is_right_QN = found_QN == wanted_Q[asks_Q, None]
    rank_QN = np.cumsum(is_known_QN, axis=1, dtype=np.int32)
    query_H, place_H = np.nonzero(is_right_QN)  # hits
    num_hits_H = np.cumsum(is_right_QN, axis=1, dtype=np.int32)[query_H, place_H]
    precision_Q = np.bincount(query_H, num_hits_H / rank_QN[query_H, place_H], minlength=len(found_QN))
    first_QN = is_right_QN & (rank_QN == 1)  # unlabelled pictures have the rank of the one before them
    num_others = int(counts.sum()) - 1
    columns = [
        first_QN.any(axis=1),
        precision_Q / num_relevant_Q,
        num_relevant_Q / max(1, num_others),
        chance_average_precision(num_relevant_Q, max(1, num_others)),
    ]
    return np.stack(columns, axis=1).astype(np.float64)
