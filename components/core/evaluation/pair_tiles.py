"""Cosines of all distinct pairs of pictures in tiles, so that no matrix of all pairs is ever in memory.

Only tiles on or above the diagonal are made: a pair is met once, the lower row first. The features may be
memory-mapped; rows are brought to unit length a block at a time.
"""

# N pictures, D features, R and C rows and columns of a tile, P pairs

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

TILE = 1024  # 4 MB of float32 per encoder, which stays in a core's share of the cache
NO_PAIR = -2.0  # stands where a tile's entry is no distinct pair, or met elsewhere: below every cosine
SAMPLE_CHUNK = 2**16


@dataclasses.dataclass(frozen=True)
class Tile:
    """The cosines of every encoder between one block of rows and another.

    Attributes:
        first_row: The picture of the tile's first row.
        first_column: The picture of the tile's first column, at least `first_row`.
        cosines: float32 [R, C] per encoder; valid until the next tile is made. Those of tiles on the diagonal are
            `NO_PAIR` on and below it.
        num_pairs: How many pairs the tile holds.
    """

    first_row: int
    first_column: int
    cosines: dict[str, np.ndarray]
    num_pairs: int

    def pictures(self, flat_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the two pictures of each entry, the entries numbered row by row."""
        rows_P, columns_P = np.divmod(flat_P, next(iter(self.cosines.values())).shape[1])
        return rows_P + self.first_row, columns_P + self.first_column


def tiles(encoders: Mapping[str, np.ndarray], size: int = TILE) -> Iterator[Tile]:
    """Yields every distinct pair of pictures in one tile.

    Args:
        encoders: float32 features [N, D] per encoder, of the same pictures; none is zero.
        size: Rows and columns of a tile; changes nothing but the last bits of a cosine.
    """
    n = num_rows(encoders)
    buffers = {name: np.empty(size * size, np.float32) for name in encoders}
    for top in range(0, n, size):
        blocks = {name: unit_rows(rows_ND[top : top + size]) for name, rows_ND in encoders.items()}
        for left in range(top, n, size):
            cosines = {}
            for name, rows_ND in encoders.items():
                columns_CD = blocks[name] if left == top else unit_rows(rows_ND[left : left + size])
                shape = len(blocks[name]), len(columns_CD)
                cosines[name] = buffers[name][: shape[0] * shape[1]].reshape(shape)
                np.matmul(blocks[name], columns_CD.T, out=cosines[name])
                if left == top:
                    cosines[name][np.tril_indices(shape[0])] = NO_PAIR
            num_rows_here, num_columns = shape
            is_diagonal = left == top
            num_pairs = num_rows_here * (num_rows_here - 1) // 2 if is_diagonal else num_rows_here * num_columns
            yield Tile(top, left, cosines, num_pairs)


def num_rows(encoders: Mapping[str, np.ndarray]) -> int:
    """Returns the number of pictures.

    Raises:
        ValueError: There are no encoders, or not all of them saw equally many.
    """
    counts = {name: len(rows_ND) for name, rows_ND in encoders.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"pictures per encoder: {counts}; expected one number of pictures for all.")
    return next(iter(counts.values()))


def num_distinct_pairs(n: int) -> int:
    """Returns how many pairs `n` pictures form."""
    return n * (n - 1) // 2


def unit_rows(rows_ND: np.ndarray) -> np.ndarray:
    """Returns rows of length one, float32, in memory."""
    rows_ND = np.asarray(rows_ND, np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def cosines_of_pairs(rows_ND: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """Returns the cosine of each pair of rows, float32 [P]."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs_P2), SAMPLE_CHUNK):
        first_PD, second_PD = (unit_rows(rows_ND[ends]) for ends in pairs_P2[start : start + SAMPLE_CHUNK].T)
        found.append(np.einsum("pd,pd->p", first_PD, second_PD))
    return np.concatenate(found)


def random_pairs(n: int, num_pairs: int, seed: int) -> np.ndarray:
    """Returns pairs of two different pictures of `n`, drawn with replacement, int64 [P, 2]."""
    generator = np.random.default_rng(seed)
    first_P, second_P = generator.integers(n, size=num_pairs), generator.integers(n - 1, size=num_pairs)
    return np.stack([first_P, second_P + (second_P >= first_P)], axis=1)
