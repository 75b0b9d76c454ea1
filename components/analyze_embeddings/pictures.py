"""The pictures behind the features: those that repeat others, those that are shown, and what they look like."""

# N pictures, D features, G pictures with one hash

from collections.abc import Iterator, Mapping

import numpy as np

from components.core.data.sample_table import SAMPLES_NAME, read_sample_table
from components.core.evaluation.similarity import cosine_similarities
from components.runtime.errors import BadInput
from components.runtime.stage import Stage

SAME = 0.9999  # cosine
MAX_GROUP = 2000  # pictures that are compared with each other at once


def is_first(stage: Stage, ids_N: np.ndarray, encoders: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns which pictures repeat none before them, [N].

    A picture repeats another one that has equal pixels, or an equal perceptual hash and in every encoder a cosine
    above 0.9999. Neither the hash alone nor the encoders alone would do: a hash knows no colour, and to encoders
    that have learned little everything is alike.

    Args:
        stage: Whose shards say the hashes.
        ids_N: Sample ids.
        encoders: Features [N, D] per encoder.

    Raises:
        BadInput: The shards don't say the hashes of these pictures.
    """
    if SAMPLES_NAME not in stage.inputs["shards"].files:
        raise BadInput(f"--shards holds no {SAMPLES_NAME}: build these shards again with this version.")
    table = read_sample_table(stage.folder("shards"), ["sha256", "dhash"])
    if ids_N.max() >= len(table):
        raise BadInput(f"--shards: {SAMPLES_NAME} lists {len(table)} samples, --features more: build the shards again.")
    pixels_N, looks_N = (np.array(table[name].take(ids_N).to_pylist()) for name in ("sha256", "dhash"))
    is_first_N = np.zeros(len(ids_N), bool)
    is_first_N[np.unique(pixels_N, return_index=True)[1]] = True
    for rows_G in _groups(looks_N, np.flatnonzero(is_first_N)):
        is_same_GG = np.ones((len(rows_G), len(rows_G)), bool)
        for rows_ND in encoders.values():
            is_same_GG &= cosine_similarities(rows_ND[rows_G]) > SAME
        is_kept_G = np.ones(len(rows_G), bool)
        for place in range(1, len(rows_G)):
            is_kept_G[place] = not (is_same_GG[place, :place] & is_kept_G[:place]).any()
        is_first_N[rows_G[~is_kept_G]] = False
    return is_first_N


def _groups(values_N: np.ndarray, rows_M: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows that have a value in common, ascending, at most `MAX_GROUP` at a time."""
    values_M = values_N[rows_M]
    order_M = np.argsort(values_M, kind="stable")
    edges = np.flatnonzero(np.diff(values_M[order_M])) + 1
    for places in np.split(order_M, edges):
        for start in range(0, len(places) if len(places) > 1 else 0, MAX_GROUP):
            yield rows_M[places[start : start + MAX_GROUP]]
