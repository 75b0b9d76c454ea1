"""Finds pictures that look the same by their perceptual hashes."""

import itertools

BITS = 64


class NearDuplicates:
    """Hashes of 64 bits, searched by Hamming distance.

    Two hashes that differ in at most d bits agree on one of d + 1 bands (the pigeonhole principle), so only hashes
    that share a band are compared.

    Args:
        max_distance: The most bits in which two hashes of the same picture differ.
    """

    def __init__(self, max_distance: int) -> None:
        self.max_distance = max_distance
        edges = [BITS * band // (max_distance + 1) for band in range(max_distance + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in itertools.pairwise(edges)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._bands]

    def add(self, value: int) -> None:
        """Remembers a hash."""
        for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True):
            buckets.setdefault(value >> shift & mask, []).append(value)

    def has_near(self, value: int) -> bool:
        """Returns whether a remembered hash differs in at most `max_distance` bits."""
        return any(
            (value ^ other).bit_count() <= self.max_distance
            for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True)
            for other in buckets.get(value >> shift & mask, ())
        )
