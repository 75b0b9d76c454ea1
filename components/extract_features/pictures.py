# B batch, C channels (RGB), H height, W width.
"""Pictures of shards in batches as an encoder takes them, fetched and decoded by threads while it works."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from components.core.data.shard_samples import ShardsManifest, VerifyingFolder, read_one_shard, sample_of, shard_ids

PIECE = 16  # pictures that one thread prepares at a time

Item = TypeVar("Item")
Result = TypeVar("Result")
Stored = tuple[int, tuple[str, dict[str, bytes]]]  # id, key, members


@dataclass(frozen=True)
class Shard:
    """A shard whose features are wanted.

    Attributes:
        name: Its name in the manifest.
        first_id: Of its first picture.
        num_samples: Pictures in it.
    """

    name: str
    first_id: int
    num_samples: int


@dataclass(frozen=True)
class Pictures:
    """Pictures as the encoder takes them.

    Attributes:
        pixels_BCHW: float32.
        known: `ids`, `is_test` and `labels/<factor>`, one each [B].
    """

    pixels_BCHW: Tensor
    known: dict[str, Tensor]


def shards_of(manifest: ShardsManifest) -> list[Shard]:
    """Returns the shards in the manifest's order, which is the order of the ids."""
    return [Shard(name, ids.start, len(ids)) for name, ids in shard_ids(manifest)]


def read_batches(
    folder: VerifyingFolder,
    manifest: ShardsManifest,
    shards: Sequence[Shard],
    prepare: Callable[[Sequence[Image.Image]], Tensor],
    *,
    batch_size: int,
    num_threads: int,
) -> Generator[tuple[Shard, Pictures], None, None]:
    """Yields the pictures of shards in order, each batch of one shard, so that a shard is the same wherever one begins.

    In memory are the bytes of two shards, and two prepared batches.

    Args:
        folder: Where the shards lie.
        manifest: Their manifest.
        shards: Which ones.
        prepare: From decoded pictures to what the encoder takes.
        batch_size: Pictures in a batch; fewer in a shard's last one.
        num_threads: Threads that fetch and decode.
    """
    factors = list(manifest.summary["factors"])

    def fetch(shard: Shard) -> list[Sequence[Stored]]:
        stored = list(enumerate(read_one_shard(folder, manifest, shard.name), start=shard.first_id))
        return [piece for batch in _cut(stored, batch_size) for piece in _cut(batch, PIECE)]

    def make(piece: Sequence[Stored]) -> Pictures:
        samples = [sample_of(number, *members) for number, members in piece]
        known = {"ids": [s.id for s in samples], "is_test": [s.split == "test" for s in samples]}
        known |= {f"labels/{factor}": [s.labels.get(factor, -1) for s in samples] for factor in factors}
        pixels_BCHW = prepare([sample.image for sample in samples])
        return Pictures(pixels_BCHW, {name: torch.tensor(values) for name, values in known.items()})

    pool = ThreadPoolExecutor(num_threads)
    pieces = itertools.chain.from_iterable(_ahead(pool, fetch, shards, 1))
    made = _ahead(pool, make, pieces, num_ahead=-(-batch_size // PIECE) + num_threads)
    try:
        for shard in shards:
            for batch in _cut(range(shard.num_samples), batch_size):
                yield shard, _joined([next(made) for _ in _cut(batch, PIECE)])
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int
) -> Iterator[Result]:
    """Yields the function of each item in order; of the following ones, `num_ahead` are begun before they are due."""
    begun: deque[Future[Result]] = deque()
    for item in items:
        begun.append(pool.submit(function, item))
        if len(begun) > num_ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _joined(pieces: list[Pictures]) -> Pictures:
    known = {name: torch.cat([piece.known[name] for piece in pieces]) for name in pieces[0].known}
    return Pictures(torch.cat([piece.pixels_BCHW for piece in pieces]), known)
