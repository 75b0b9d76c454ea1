"""The order of samples: a pure function of (shard sizes, seed), the same for every arm and every number of ranks.

The shards are dealt to S canonical streams. Each stream passes over its own samples once per epoch, in an order that
is shuffled between shards and within each. A global batch takes batch_size / S samples from every stream; with W
ranks, rank r owns the S / W streams from r S / W on, so that the ranks' batches are the global batch cut in W pieces.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HASHED_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Visit:
    """One stay of a stream in a shard: the samples that it takes from there, in order."""

    epoch: int
    shard: int
    samples: list[int]


class SampleOrder:
    """Says which sample comes when.

    Args:
        shard_sizes: Samples per shard, in the manifest's order.
        seed: Decides the shuffles.
        batch_size: Global batch.
        num_streams: Canonical streams S.

    Raises:
        ValueError: There are fewer shards than streams, an empty stream, or S does not divide the batch.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, batch_size: int, num_streams: int) -> None:
        if batch_size % num_streams:
            raise ValueError(
                f"batch_size={batch_size} is no multiple of num_streams={num_streams}: change one of them."
            )
        if len(shard_sizes) < num_streams:
            raise ValueError(
                f"num_streams={num_streams} is more than the {len(shard_sizes)} shards of the data: "
                "use fewer streams, or build more and smaller shards."
            )
        self.seed, self.num_streams = seed, num_streams
        self.per_stream = batch_size // num_streams
        starts = [0, *itertools.accumulate(shard_sizes)]
        shards = [range(start, start + size) for start, size in zip(starts, shard_sizes, strict=False)]
        self.streams = [list(enumerate(shards))[stream::num_streams] for stream in range(num_streams)]
        self.lengths = [sum(len(shard) for _, shard in stream) for stream in self.streams]
        if not all(self.lengths):
            raise ValueError(f"num_streams={num_streams} leaves a stream without samples: use fewer streams.")

    def owned(self, rank: int, world_size: int) -> range:
        """Returns the streams that a rank reads.

        Raises:
            ValueError: The number of ranks doesn't divide the number of streams.
        """
        if self.num_streams % world_size:
            raise ValueError(
                f"num_streams={self.num_streams} is no multiple of the {world_size} ranks: "
                "run as many ranks as divide it."
            )
        share = self.num_streams // world_size
        return range(rank * share, (rank + 1) * share)

    def batches(self, start_step: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[list[tuple[int, int]]]:
        """Yields a rank's batches from step `start_step` on, without end, each as (sample id, epoch) pairs."""
        streams = [self._stream(s, start_step * self.per_stream) for s in self.owned(rank, world_size)]
        while True:
            yield [pair for stream in streams for pair in itertools.islice(stream, self.per_stream)]

    def digest(self, num_steps: int) -> str:
        """Returns the sha256 of the order of the first `num_steps` batches, at most a million samples of it."""
        num_steps = min(num_steps, max(1, HASHED_SAMPLES // (self.per_stream * self.num_streams)))
        sha256 = hashlib.sha256()
        for batch in itertools.islice(self.batches(), num_steps):
            sha256.update(",".join(f"{sample}:{epoch}" for sample, epoch in batch).encode() + b"\n")
        return sha256.hexdigest()

    def visits(self, stream: int, position: int = 0) -> Iterator[Visit]:
        """Yields a stream's visits to its shards, without end, from the sample at `position` on."""
        first_epoch, skipped = divmod(position, self.lengths[stream])
        for epoch in itertools.count(first_epoch):
            for number, samples in self._epoch(stream, epoch):
                if skipped < len(samples):
                    yield Visit(epoch, number, samples[skipped:])
                skipped = max(0, skipped - len(samples))

    def _stream(self, stream: int, position: int) -> Iterator[tuple[int, int]]:
        return ((sample, visit.epoch) for visit in self.visits(stream, position) for sample in visit.samples)

    def _epoch(self, stream: int, epoch: int) -> list[tuple[int, list[int]]]:
        shuffle = random.Random(f"ceteris order {self.seed} {epoch} {stream}").shuffle
        shards = [(number, list(shard)) for number, shard in self.streams[stream]]
        shuffle(shards)
        for _, samples in shards:
            shuffle(samples)
        return shards
