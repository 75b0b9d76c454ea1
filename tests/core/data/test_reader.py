"""Shards are read back exactly once, in order, whatever the number of ranks, and after a kill."""

import collections
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy
import pytest
from PIL import Image

from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.data.shard_samples import decode
from components.core.data.tar import write_shard

SIZES = [5, 7, 6, 6, 8, 4, 6, 6, 5, 7, 6, 6]
NUM_SAMPLES = sum(SIZES)
NUM_STREAMS = 4
BATCH_SIZE = 8


class Manifest:
    def __init__(self, files: dict, summary: dict) -> None:
        self.files, self.summary = files, summary


class Shards:
    """A folder in memory that remembers what was read."""

    def __init__(self, extension: str = "png") -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []
        ids = itertools.count()
        for number, size in enumerate(SIZES):
            samples = [sample(next(ids), extension) for _ in range(size)]
            self.objects[f"shards/{number:05d}.tar"] = write_shard(samples)

    def read_verified(self, name: str, sha256: str) -> bytes:
        self.reads.append(name)
        if hashlib.sha256(self.objects[name]).hexdigest() != sha256:
            raise ValueError(f"{name} is damaged")
        return self.objects[name]

    def manifest(self) -> Manifest:
        files = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in self.objects.items()}
        shards = [{"name": name, "samples": size} for name, size in zip(self.objects, SIZES, strict=True)]
        return Manifest(files, {"shards": shards})


def sample(number: int, extension: str) -> tuple[str, dict[str, bytes]]:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number % 3, 9), (number, 255 - number, 7)).save(
        buffer, {"png": "PNG", "jpg": "JPEG"}[extension]
    )
    return f"{number:04d}", {extension: buffer.getvalue(), "txt": f"number {number}".encode(), "json": b"{}"}


def reader(shards: Shards, *, rank: int = 0, world_size: int = 1, cache_bytes: int = 0, num_threads: int = 2):
    order = SampleOrder(SIZES, seed=3, batch_size=BATCH_SIZE, num_streams=NUM_STREAMS)
    return ShardReader(
        shards,
        shards.manifest(),
        order,
        cache_bytes,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads,
    )


def ledger(read: ShardReader, num_steps: int, start_step: int = 0) -> list[list[tuple[int, int, str]]]:
    """Returns (id, epoch, caption) of each sample of each batch."""
    batches = read.batches(start_step)
    found = [
        list(zip(batch.ids_B.tolist(), batch.epochs_B.tolist(), batch.captions, strict=True))
        for batch in itertools.islice(batches, num_steps)
    ]
    batches.close()
    return found


STEPS_OF_TWO_EPOCHS = (
    2 * max(sum(SIZES[stream::NUM_STREAMS]) for stream in range(NUM_STREAMS)) // (BATCH_SIZE // NUM_STREAMS)
)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_sample_comes_once_an_epoch_and_the_global_batches_are_the_same(world_size: int) -> None:
    shards = Shards()
    whole = ledger(reader(shards), STEPS_OF_TWO_EPOCHS)
    ranks = [ledger(reader(shards, rank=r, world_size=world_size), STEPS_OF_TWO_EPOCHS) for r in range(world_size)]
    assert all(len({len(batch) for batch in rank}) == 1 for rank in ranks)
    assert [[s for rank in ranks for s in rank[step]] for step in range(STEPS_OF_TWO_EPOCHS)] == whole
    seen = collections.Counter((number, epoch) for batch in whole for number, epoch, _ in batch)
    for epoch in (0, 1):
        assert {number: seen[number, epoch] for number in range(NUM_SAMPLES)} == dict.fromkeys(range(NUM_SAMPLES), 1)
    assert all(caption == f"number {number}" for batch in whole for number, _, caption in batch)


@pytest.mark.parametrize("cache_bytes", [0, 2000, 10**9])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_neither_cache_nor_threads_change_a_batch(cache_bytes: int, num_threads: int) -> None:
    shards = Shards()
    expected, found = (
        itertools.islice(r.batches(), STEPS_OF_TWO_EPOCHS)
        for r in (reader(shards), reader(shards, cache_bytes=cache_bytes, num_threads=num_threads))
    )
    for one, other in zip(expected, found, strict=True):
        assert one.captions == other.captions
        assert (one.images_BCHW == other.images_BCHW).all() and (one.sizes_B2 == other.sizes_B2).all()


def _read_and_note(path: str, start_step: int) -> None:
    """Appends each batch's ids to a file, as a training would its steps, until it is killed."""
    with Path(path).open("a", buffering=1) as file:
        for batch in reader(Shards()).batches(start_step):
            file.write(json.dumps(batch.ids_B.tolist()) + "\n")
            threading.Event().wait(0.005)


def test_after_kills_and_resumptions_the_sequence_is_the_same(tmp_path: Path) -> None:
    expected = [[number for number, _, _ in batch] for batch in ledger(reader(Shards()), 40)]
    path = tmp_path / "ledger"
    path.touch()
    num_kills = 0
    while (done := path.read_text().count("\n")) < 40:
        process = multiprocessing.get_context("fork").Process(target=_read_and_note, args=(str(path), done))
        process.start()
        while process.is_alive() and path.read_text().count("\n") < min(done + 7, 40):
            threading.Event().wait(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        num_kills += 1
        whole_lines = path.read_text().rpartition("\n")[0]
        path.write_text(whole_lines + "\n" if whole_lines else "")
    assert num_kills >= 3
    assert [json.loads(line) for line in path.read_text().splitlines()][:40] == expected


def test_resuming_reads_only_the_shards_that_are_still_wanted() -> None:
    shards = Shards()
    read = reader(shards)
    position = 11
    batches = read.batches(start_step=position // (BATCH_SIZE // NUM_STREAMS))
    next(batches)
    batches.close()
    visited = {
        f"shards/{visit.shard:05d}.tar"
        for stream in range(NUM_STREAMS)
        for visit in itertools.islice(read.order.visits(stream, 10), 3)
    }
    consumed = set(shards.objects) - visited
    assert consumed and not consumed & set(shards.reads)


def test_decoded_pictures_are_not_read_again() -> None:
    shards = Shards()
    ledger(reader(shards, cache_bytes=10**9), 4 * STEPS_OF_TWO_EPOCHS)
    assert max(collections.Counter(shards.reads).values()) <= 2


def test_a_damaged_shard_ends_the_batches_with_its_name() -> None:
    shards = Shards()
    read = reader(shards)
    shards.objects["shards/00001.tar"] += b"\0"
    with pytest.raises(ValueError, match=r"00001.tar is damaged"):
        ledger(read, STEPS_OF_TWO_EPOCHS)


def test_a_lost_shard_is_replaced_by_the_next_and_counted() -> None:
    whole, broken = Shards(), Shards()
    manifest = broken.manifest()
    del broken.objects["shards/00001.tar"], broken.objects["shards/00002.tar"]
    order = SampleOrder(SIZES, seed=3, batch_size=BATCH_SIZE, num_streams=NUM_STREAMS)
    read = ShardReader(broken, manifest, order, 0, replaces_lost=True)
    found = list(itertools.islice(read.batches(), STEPS_OF_TWO_EPOCHS))
    expected = itertools.islice(reader(whole).batches(), STEPS_OF_TWO_EPOCHS)
    lost, substitute = range(5, 18), range(18, 24)
    num_replaced = 0
    for mine, theirs in zip(found, expected, strict=True):
        for id, wanted, caption in zip(mine.ids_B.tolist(), theirs.ids_B.tolist(), mine.captions, strict=True):
            assert id in substitute if wanted in lost else id == wanted
            assert caption == sample(id, "png")[1]["txt"].decode()
            num_replaced += wanted in lost
    assert sorted(read.lost) == ["shards/00001.tar", "shards/00002.tar"]
    assert read.take_num_replaced() == num_replaced > 0
    assert read.take_num_replaced() == 0


def test_where_nothing_can_be_read_the_batches_end() -> None:
    shards = Shards()
    manifest = shards.manifest()
    shards.objects.clear()
    order = SampleOrder(SIZES, seed=0, batch_size=BATCH_SIZE, num_streams=NUM_STREAMS)
    with pytest.raises(KeyError):
        next(ShardReader(shards, manifest, order, 0, replaces_lost=True).batches())


def test_ranks_that_do_not_divide_the_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="num_streams=4 is no multiple of the 3 ranks"):
        reader(Shards(), world_size=3)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    batches = reader(Shards()).batches()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_large_jpeg_is_decoded_at_a_fraction_that_leaves_the_wanted_side() -> None:
    gradient = numpy.add.outer(numpy.linspace(0, 150, 400), numpy.linspace(0, 100, 600))
    picture = Image.fromarray(numpy.stack([gradient] * 3, axis=2).astype(numpy.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    assert decode(buffer.getvalue()).size == (600, 400)
    small = decode(buffer.getvalue(), 150)
    assert small.size == (300, 200)
    expected = numpy.asarray(picture.resize((300, 200), Image.Resampling.BOX), dtype=float)
    assert numpy.abs(numpy.asarray(small, dtype=float) - expected).max() <= 4
    assert decode(buffer.getvalue(), 300).size == (600, 400)
