"""The pairs that a greedy choice takes, found in one pass with bounded memory.

The greedy choice goes through all pairs by falling gap, and passes over a pair with a picture that is taken already.
To know its first m pairs, 2 (m - 1) (2 m - 1) + 1 pairs in memory suffice, whatever comes:

- At most 2 (m - 1) pictures are taken before the m-th choice. So a pair with a picture that has 2 m - 1 better pairs
  is never among the first m: one of those better pairs is still free when it is looked at.
- Without such pairs a picture has at most 2 m - 1, and the pictures taken spoil at most 2 (m - 1) (2 m - 1). So one
  of the best 2 (m - 1) (2 m - 1) + 1 is free at each choice, and what comes behind them is never needed.
"""

# P pairs, M chosen pairs

import numpy as np

NOTHING = np.zeros(0, np.int32)


class BestPairs:
    """Collects pairs in any order; `chosen` is the same for each order.

    Args:
        num_pairs: How many pairs are chosen at most.
    """

    def __init__(self, num_pairs: int) -> None:
        self._num_pairs = num_pairs
        self._degree = 2 * num_pairs - 1
        self._size = 2 * (num_pairs - 1) * self._degree + 1
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # gaps, first and second pictures
        self._num_waiting = 0
        self.floor = -np.inf  # pairs with a smaller gap are of no use

    def add(self, gaps_P: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> None:
        """Adds pairs of rows, the lower one first, each of them once."""
        is_useful_P = gaps_P >= self.floor
        if not is_useful_P.any():
            return
        first_P, second_P = first_P[is_useful_P].astype(np.int32), second_P[is_useful_P].astype(np.int32)
        self._parts.append((gaps_P[is_useful_P], first_P, second_P))
        self._num_waiting += len(self._parts[-1][0])
        if self._num_waiting >= self._size:
            self._settle()

    def chosen(self) -> np.ndarray:
        """Returns the greedy choice, [M, 2], the widest gap first; ties go to the lower rows."""
        if self._num_waiting:
            self._settle()
        taken: set[int] = set()
        pairs: list[tuple[int, int]] = []
        _, *columns = self._parts[0] if self._parts else (NOTHING, NOTHING, NOTHING)
        for first, second in zip(*(column_P.tolist() for column_P in columns), strict=True):
            if len(pairs) < self._num_pairs and first not in taken and second not in taken:
                taken |= {first, second}
                pairs.append((first, second))
        return np.array(pairs, np.int64).reshape(-1, 2)

    def _settle(self) -> None:
        """Sorts what is there, and drops what the choice can't reach."""
        gaps_P, first_P, second_P = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order_P = np.lexsort((second_P, first_P, -gaps_P))
        ends_Q = np.stack([first_P[order_P], second_P[order_P]], axis=1).ravel()
        is_reached_P = (_occurrence(ends_Q).reshape(-1, 2) < self._degree).all(axis=1)
        kept_P = order_P[is_reached_P][: self._size]
        self._parts, self._num_waiting = [(gaps_P[kept_P], first_P[kept_P], second_P[kept_P])], 0
        if len(kept_P) == self._size:
            self.floor = float(gaps_P[kept_P[-1]])


def _occurrence(values_Q: np.ndarray) -> np.ndarray:
    """Returns how often each value stood further left, [Q]."""
    order_Q = np.argsort(values_Q, kind="stable")
    ordered_Q = values_Q[order_Q]
    place_Q = np.arange(len(values_Q))
    is_first_Q = np.ones(len(values_Q), bool)
    is_first_Q[1:] = ordered_Q[1:] != ordered_Q[:-1]
    found_Q = np.empty(len(values_Q), np.int64)
    found_Q[order_Q] = place_Q - np.maximum.accumulate(np.where(is_first_Q, place_Q, 0))
    return found_Q
