"""The batches of a training, in their canonical order: shards fetched ahead, pictures decoded by threads.

Threads, not processes: Pillow decodes outside the interpreter's lock, and two threads decode as many pictures a second
as two processes, which would have to copy each decoded picture to the parent (`make bench` shows both).
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy
import torch
from numpy.typing import NDArray

from components.core.data.batch import Batch, stack_images
from components.core.data.order import SampleOrder, Visit
from components.core.data.shard_samples import (
    ShardsManifest,
    VerifyingFolder,
    decode,
    picture_of,
    read_one_shard,
    shard_ids,
)

BATCHES_AHEAD = 2
END_WAIT_S = 5.0
MOST_LOST = 3  # shards in a row: where the fourth can't be read either, it is not the shards


class Stored(NamedTuple):
    """A sample as it lies in its shard."""

    picture: bytes
    caption: str


class Taken(NamedTuple):
    """A sample's turn: without its bytes where it is decoded already."""

    sample: int
    epoch: int
    stored: Stored | None
    is_replaced: bool = False


class Shard(NamedTuple):
    """A shard's samples, and the number of the first."""

    first: int
    samples: list[Stored]


class Decoded(NamedTuple):
    """A sample whose picture is (H, W, 3) uint8."""

    pixels: NDArray[numpy.uint8]
    caption: str


Ready = queue.Queue[tuple[Batch, int] | BaseException]  # batches, and how many of their samples are replaced


class ShardReader:
    """A rank's share of the batches, in `SampleOrder`; resuming at a step reads nothing that was consumed before.

    Each stream holds the shard that it is in, and the one that it visits next is fetched meanwhile. Pictures are kept
    decoded as long as `cache_bytes` suffices, and decoded again in each epoch beyond it.

    Args:
        folder, manifest: The shards.
        order: Which sample comes when.
        cache_bytes: Most memory for decoded pictures.
        rank, world_size: Which share of the global batch this process reads.
        num_threads: Threads that fetch, and as many that decode.
        decode_short_side_px: Larger JPEGs are decoded at a fraction; see `shard_samples.decode`.
        replaces_lost: A shard that can't be read, or is damaged, is replaced by the next one in the manifest that can
            be: all batches keep their sizes, on all ranks. Otherwise its error ends the batches.

    Raises:
        ValueError: The number of ranks doesn't divide the number of streams.
    """

    def __init__(
        self,
        folder: VerifyingFolder,
        manifest: ShardsManifest,
        order: SampleOrder,
        cache_bytes: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
        decode_short_side_px: int = 0,
        replaces_lost: bool = False,
    ) -> None:
        self.folder, self.manifest, self.order, self.cache_bytes = folder, manifest, order, cache_bytes
        self.streams = order.owned(rank, world_size)
        self.num_threads, self.decode_short_side_px = num_threads, decode_short_side_px
        self.replaces_lost, self.lost = replaces_lost, dict[str, str]()  # shard: why
        self._num_replaced = 0
        listed = shard_ids(manifest)
        self.names, self.starts = [name for name, _ in listed], [ids.start for _, ids in listed]
        self._decoded: dict[int, Decoded] = {}
        self._decoded_bytes = 0

    def captions(self) -> Iterator[str]:
        """Yields the caption of every sample in the manifest's order."""
        for number in range(len(self.names)):
            for stored in self._read(number).samples:
                yield stored.caption

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the rank's batches from step `start_step` on, without end.

        Raises:
            Exception: What the folder raises for a shard that is not there or differs from its manifest.
        """
        ready: Ready = queue.Queue(BATCHES_AHEAD)
        stop = threading.Event()
        maker = threading.Thread(target=self._make, args=(start_step, ready, stop), daemon=True, name="batches")
        maker.start()
        try:
            while True:
                found = ready.get()
                if isinstance(found, BaseException):
                    raise found
                batch, num_replaced = found
                self._num_replaced += num_replaced
                yield batch
        finally:
            stop.set()
            maker.join(END_WAIT_S)

    def take_num_replaced(self) -> int:
        """Returns how many samples of the batches since the last call stand in the place of lost ones."""
        taken, self._num_replaced = self._num_replaced, 0
        return taken

    def _make(self, start_step: int, ready: Ready, stop: threading.Event) -> None:
        """Puts batches, or the error that ends them, into the queue until it is told to stop."""
        with ThreadPoolExecutor(self.num_threads) as fetchers, ThreadPoolExecutor(self.num_threads) as decoders:
            try:
                position = start_step * self.order.per_stream
                streams = [self._stream(stream, position, fetchers) for stream in self.streams]
                while not stop.is_set():
                    taken = [sample for s in streams for sample in itertools.islice(s, self.order.per_stream)]
                    num_replaced = sum(sample.is_replaced for sample in taken)
                    _put(ready, (self._batch(taken, decoders), num_replaced), stop)
            except BaseException as error:
                _put(ready, error, stop)

    def _stream(self, stream: int, position: int, fetchers: ThreadPoolExecutor) -> Iterator[Taken]:
        """Yields the samples of a stream."""
        visits = self.order.visits(stream, position)
        visit = next(visits)
        shard = self._fetch(visit, fetchers)
        for following in visits:
            next_shard = self._fetch(following, fetchers, held=shard if following.shard == visit.shard else None)
            found, first = shard.result() if shard else None, self.starts[visit.shard]
            for sample in visit.samples:
                if found is None:
                    yield Taken(sample, visit.epoch, None)
                else:
                    place = (sample - first) % len(found.samples)
                    yield Taken(found.first + place, visit.epoch, found.samples[place], found.first != first)
            visit, shard = following, next_shard

    def _fetch(
        self, visit: Visit, fetchers: ThreadPoolExecutor, held: Future[Shard] | None = None
    ) -> Future[Shard] | None:
        """Begins to fetch a visit's shard, unless it is held or all that is wanted of it is decoded."""
        if all(sample in self._decoded for sample in visit.samples):
            return None
        return held or fetchers.submit(self._read, visit.shard)

    def _read(self, number: int) -> Shard:
        """Returns a shard, or the next that can be read where lost ones are replaced."""
        for place in range(number, number + MOST_LOST + 1):
            shard = place % len(self.names)
            name = self.names[shard]
            try:
                samples = read_one_shard(self.folder, self.manifest, name)
                stored = [Stored(picture_of(members), members["txt"].decode()) for _, members in samples]
                return Shard(self.starts[shard], stored)
            except Exception as error:
                if not self.replaces_lost or place == number + MOST_LOST:
                    raise
                self.lost[name] = str(error)
        raise AssertionError("the last shard is returned or raises")

    def _batch(self, taken: list[Taken], decoders: ThreadPoolExecutor) -> Batch:
        found = [self._decoded.get(of.sample) for of in taken]
        missing = [of.stored for of, known in zip(taken, found, strict=True) if known is None]
        decoded = decoders.map(self._decode, missing, chunksize=8)
        samples = []
        for of, known in zip(taken, found, strict=True):
            if known is None:
                known = next(decoded)
                self._keep(of.sample, known)
            samples.append(known)
        images_BCHW, sizes_B2 = stack_images([sample.pixels for sample in samples])
        return Batch(
            images_BCHW=images_BCHW,
            sizes_B2=sizes_B2,
            ids_B=torch.tensor([of.sample for of in taken], dtype=torch.int64),
            epochs_B=torch.tensor([of.epoch for of in taken], dtype=torch.int64),
            captions=[sample.caption for sample in samples],
        )

    def _decode(self, stored: Stored | None) -> Decoded:
        assert stored is not None, "a sample that isn't kept decoded comes with its bytes"
        return Decoded(numpy.asarray(decode(stored.picture, self.decode_short_side_px)), stored.caption)

    def _keep(self, sample: int, decoded: Decoded) -> None:
        if self._decoded_bytes + decoded.pixels.nbytes <= self.cache_bytes:
            self._decoded[sample] = decoded
            self._decoded_bytes += decoded.pixels.nbytes


def _put(ready: Ready, item: tuple[Batch, int] | BaseException, stop: threading.Event) -> None:
    """Waits for a free place, unless nobody wants the item any more."""
    is_in = False
    while not is_in and not stop.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=0.1)
            is_in = True
