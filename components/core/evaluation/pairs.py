"""Pairs of pictures that one encoder finds alike and another does not (STUDY.md 3, the paper's Figure 2).

Fixed thresholds don't carry over between encoders, whose cosines spread differently; here a pair is alike above a
quantile of that encoder's own similarities, and unlike below the quantile as far from the other end.
"""

# N pictures, P distinct pairs, M mined pairs

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class MinedPairs:
    """The pairs of one direction, the most telling first.

    Attributes:
        pairs_M2: Rows of the two pictures, the lower one first; no picture occurs twice.
        num_candidates: Pairs within both thresholds, before each picture was used once.
        high: What the first encoder's similarity exceeds.
        low: What the second encoder's similarity stays below.
    """

    pairs_M2: np.ndarray
    num_candidates: int
    high: float
    low: float


def mine(alike_NN: np.ndarray, unlike_NN: np.ndarray, quantile: float) -> MinedPairs:
    """Returns the pairs that one encoder finds alike and another does not.

    Pairs are taken greedily in the order of the gap between both similarities, each in standard deviations of its
    encoder; a pair with a picture that is taken already is passed over. Ties go to the lower rows.

    Args:
        alike_NN: Similarities of the encoder that finds them alike.
        unlike_NN: Similarities of the encoder that does not.
        quantile: Alike is above this quantile of `alike_NN`, unlike below 1 minus it of `unlike_NN`.
    """
    upper = np.triu_indices(len(alike_NN), 1)
    alike_P, unlike_P = alike_NN[upper].astype(np.float64), unlike_NN[upper].astype(np.float64)
    high, low = float(np.quantile(alike_P, quantile)), float(np.quantile(unlike_P, 1 - quantile))
    chosen = np.flatnonzero((alike_P > high) & (unlike_P < low))
    gaps = _standardised(alike_P)[chosen] - _standardised(unlike_P)[chosen]
    taken: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for index in chosen[np.argsort(-gaps, kind="stable")]:
        i, j = int(upper[0][index]), int(upper[1][index])
        if i not in taken and j not in taken:
            taken |= {i, j}
            pairs.append((i, j))
    return MinedPairs(np.array(pairs, dtype=np.int64).reshape(-1, 2), len(chosen), high, low)


def mine_directions(similarities: Mapping[str, np.ndarray], quantile: float) -> dict[tuple[str, str], MinedPairs]:
    """Returns the mined pairs for every ordered pair of encoders: (finds them alike, does not)."""
    return {
        (first, second): mine(similarities[first], similarities[second], quantile)
        for first in similarities
        for second in similarities
        if first != second
    }


def count_fixed(alike_NN: np.ndarray, unlike_NN: np.ndarray, above: float, below: float) -> int:
    """Returns how many distinct pairs lie above a fixed similarity of one encoder and below one of another."""
    return int(np.triu((alike_NN > above) & (unlike_NN < below), 1).sum())


def agreement(pairs_M2: np.ndarray, labels_N: np.ndarray) -> tuple[int, int]:
    """Returns how many pairs have equal labels, and how many have labels (negative: none) at all."""
    labels_M2 = labels_N[pairs_M2]
    is_known_M = (labels_M2 >= 0).all(axis=1)
    return int(((labels_M2[:, 0] == labels_M2[:, 1]) & is_known_M).sum()), int(is_known_M.sum())


def base_rate(labels_N: np.ndarray) -> float:
    """Returns the share of all pairs of labelled pictures that have equal labels; 0 where there is no pair."""
    counts = np.bincount(labels_N[labels_N >= 0]).astype(np.float64)
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else 0.0


def _standardised(values_P: np.ndarray) -> np.ndarray:
    spread = values_P.std()
    return (values_P - values_P.mean()) / (spread if spread > 0 else 1.0)
