"""The bytes read from storage until the first batch after the middle of an epoch: ours, and webdataset's.

webdataset has no cursor: it comes to the same sample by reading all before it. The bytes are counted, not timed.
"""

import hashlib
import itertools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import webdataset
from webdataset.gopen import gopen_schemes

from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.data.tar import write_shard
from components.runtime.storage import LocalFolder
from tests.bench.measure import NotEqual, print_row
from tests.bench.photographs import Camera

NUM_SHARDS, PER_SHARD = 1024, 20
BATCH, NUM_STREAMS = 64, 16  # as many streams as pretrain deals its shards to
MIDDLE = NUM_SHARDS * PER_SHARD // BATCH // 2


class Counted(LocalFolder):
    """A folder that counts what is read from it."""

    num_bytes = 0

    def read(self, name: str) -> bytes:
        """Reads an object."""
        data = super().read(name)
        self.num_bytes += len(data)
        return data


def rows() -> None:
    """Prints the row, once the batch after resuming is the batch that came without."""
    with tempfile.TemporaryDirectory() as path:
        manifest = _write_shards(Path(path))
        our_bytes, batch = _resume(Path(path), manifest, MIDDLE, 1)
        all_bytes, same = _resume(Path(path), manifest, 0, MIDDLE + 1)
        if not torch.equal(batch.ids_B, same.ids_B) or not torch.equal(batch.images_BCHW, same.images_BCHW):
            raise NotEqual("the batch after resuming differs from the one without")
        peer_bytes = _read_again(sorted(Path(path).glob("*.tar")), MIDDLE * BATCH + 1)
    print_row(
        "resume in mid-epoch",
        "webdataset, reading to the sample",
        f"{our_bytes / peer_bytes:.3f}x",
        "(counted)",
        f"bytes, {our_bytes / 1e6:.1f} against {peer_bytes / 1e6:.1f} MB; {NUM_SHARDS} shards, {NUM_STREAMS} streams; "
        f"{all_bytes / 1e6:.1f} MB by ours without a cursor",
    )


def _write_shards(folder: Path) -> Any:
    camera = Camera(96, 64)
    pictures = [camera.jpeg(number) for number in range(PER_SHARD)]
    files = {}
    for number in range(NUM_SHARDS):
        keys = (f"{number:05d}{n:03d}" for n in range(PER_SHARD))
        data = write_shard([(key, {"jpg": pictures[n], "txt": key.encode()}) for n, key in enumerate(keys)])
        (folder / f"{number:05d}.tar").write_bytes(data)
        files[f"{number:05d}.tar"] = {"sha256": hashlib.sha256(data).hexdigest()}
    return SimpleNamespace(files=files, summary={"shards": [{"name": n, "samples": PER_SHARD} for n in files]})


def _resume(path: Path, manifest: Any, start_step: int, num_batches: int) -> tuple[int, Any]:
    """Returns the bytes read until the last of the batches is there, and that batch."""
    folder = Counted(path)
    order = SampleOrder([PER_SHARD] * NUM_SHARDS, seed=0, batch_size=BATCH, num_streams=NUM_STREAMS)
    batches = ShardReader(folder, manifest, order, 0).batches(start_step)
    batch = next(itertools.islice(batches, num_batches - 1, None))
    num_bytes = folder.num_bytes
    batches.close()
    return num_bytes, batch


def _read_again(shards: list[Path], num_samples: int) -> int:
    """Returns the bytes that webdataset reads to come to a sample."""
    opened: list[_CountedFile] = []

    def open_counted(url: str, *_: Any, **__: Any) -> _CountedFile:
        opened.append(_CountedFile(Path(url.removeprefix("counted:"))))
        return opened[-1]

    gopen_schemes["counted"] = open_counted
    urls = [f"counted:{shard}" for shard in shards]
    sample = next(itertools.islice(webdataset.WebDataset(urls, shardshuffle=False), num_samples - 1, None))
    expected = f"{(num_samples - 1) // PER_SHARD:05d}{(num_samples - 1) % PER_SHARD:03d}"
    if sample["__key__"] != expected:
        raise NotEqual(f"webdataset came to {sample['__key__']}, not to {expected}")
    return sum(file.num_bytes for file in opened)


class _CountedFile:
    """A stream that counts what is read of it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.num_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.num_bytes += len(data)
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "_CountedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
