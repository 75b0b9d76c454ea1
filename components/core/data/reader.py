"""Reads shards back: one pass over the samples, or the batches of a training in their canonical order.

A manifest's `summary["shards"]` lists the shards with their number of samples, and `files` their sha256, which is
checked at every read. `folder` is anything with `read(name) -> bytes`.
"""

import bisect
import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from PIL import Image

from components.core.data.batch import Batch, stack_images
from components.core.data.order import SampleOrder
from components.core.data.tar import IMAGE_EXTENSIONS, read_shard


class ByteFolder(Protocol):
    """A place that gives bytes for names."""

    uri: str

    def read(self, name: str) -> bytes: ...


class ShardsManifest(Protocol):
    """The part of a manifest that a reader needs."""

    @property
    def files(self) -> dict[str, dict[str, Any]]: ...

    @property
    def summary(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sample:
    """One picture with what is known of it.

    Attributes:
        id: Its index in the manifest, counted over all shards.
        labels: Class index per factor.
        split: `train` or `test`.
        conversations: Questions with options, for instruction tuning.
    """

    id: int
    key: str
    image: Image.Image
    caption: str
    labels: dict[str, int]
    split: str
    conversations: list[dict[str, str]]


def read_samples(folder: ByteFolder, manifest: ShardsManifest) -> Iterator[Sample]:
    """Yields every sample once, in the manifest's order.

    Raises:
        ValueError: A shard is damaged, or differs from its manifest.
    """
    ids = itertools.count()
    for shard in manifest.summary["shards"]:
        for key, members in _read_checked(folder, manifest, shard["name"]):
            facts = json.loads(members["json"])
            yield Sample(
                id=next(ids),
                key=key,
                image=decode(members),
                caption=members["txt"].decode(),
                labels=facts.get("labels", {}),
                split=facts.get("split", "train"),
                conversations=facts.get("conversations", []),
            )


def decode(members: dict[str, bytes]) -> Image.Image:
    """Returns the RGB picture among a sample's members."""
    data = next(members[extension] for extension in IMAGE_EXTENSIONS if extension in members)
    return Image.open(io.BytesIO(data)).convert("RGB")


class ShardReader:
    """The batches of a training, in `SampleOrder`; pictures are decoded once, as long as the memory suffices.

    Args:
        folder, manifest: The shards.
        order: Which sample comes when.
        cache_bytes: Most memory for decoded pictures; beyond it they are read again in each epoch.
    """

    def __init__(self, folder: ByteFolder, manifest: ShardsManifest, order: SampleOrder, cache_bytes: int) -> None:
        self.folder, self.manifest, self.order, self.cache_bytes = folder, manifest, order, cache_bytes
        self.names = [shard["name"] for shard in manifest.summary["shards"]]
        self.starts = [0, *itertools.accumulate(shard["samples"] for shard in manifest.summary["shards"])]
        self._decoded: dict[int, tuple[torch.Tensor, str]] = {}
        self._decoded_bytes = 0
        self._open_shards: dict[int, tuple[int, list[dict[str, bytes]]]] = {}

    def captions(self) -> Iterator[str]:
        """Yields every caption once, in the manifest's order."""
        for name in self.names:
            for _, members in _read_checked(self.folder, self.manifest, name):
                yield members["txt"].decode()

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields batches from step `start_step` on, without end, and without reading the ones before."""
        for pairs in self.order.batches(start_step):
            samples = [self._sample(sample) for sample, _ in pairs]
            images_BCHW, sizes_B2 = stack_images([image for image, _ in samples])
            yield Batch(
                images_BCHW=images_BCHW,
                sizes_B2=sizes_B2,
                ids_B=torch.tensor([sample for sample, _ in pairs], dtype=torch.int64),
                epochs_B=torch.tensor([epoch for _, epoch in pairs], dtype=torch.int64),
                captions=[caption for _, caption in samples],
            )

    def _sample(self, sample: int) -> tuple[torch.Tensor, str]:
        if sample in self._decoded:
            return self._decoded[sample]
        shard = bisect.bisect_right(self.starts, sample) - 1
        members = self._shard(shard)[sample - self.starts[shard]]
        image_CHW = torch.from_numpy(numpy.asarray(decode(members)).transpose(2, 0, 1).copy())
        if self._decoded_bytes + image_CHW.numel() <= self.cache_bytes:
            self._decoded[sample] = (image_CHW, members["txt"].decode())
            self._decoded_bytes += image_CHW.numel()
        return image_CHW, members["txt"].decode()

    def _shard(self, shard: int) -> list[dict[str, bytes]]:
        """Returns a shard's samples, keeping one open shard per stream."""
        stream = shard % self.order.num_streams
        if self._open_shards.get(stream, (-1, []))[0] != shard:
            samples = [members for _, members in _read_checked(self.folder, self.manifest, self.names[shard])]
            self._open_shards[stream] = (shard, samples)
        return self._open_shards[stream][1]


def _read_checked(folder: ByteFolder, manifest: ShardsManifest, name: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    data = folder.read(name)
    found, expected = hashlib.sha256(data).hexdigest(), manifest.files[name]["sha256"]
    if found != expected:
        raise ValueError(f"{folder.uri}/{name} differs from its manifest (sha256 {found[:12]}, not {expected[:12]}).")
    return read_shard(data)
