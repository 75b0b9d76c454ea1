"""One pass over the samples of shards, in the manifest's order; every shard's sha256 is checked as it is read.

A manifest's `summary["shards"]` lists the shards with their number of samples, and `files` their sha256. `folder` is
anything with `read_verified(name, sha256) -> bytes`.
"""

import io
import itertools
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from components.core.data.tar import IMAGE_EXTENSIONS, read_shard


class VerifyingFolder(Protocol):
    """A place that gives bytes for names, and refuses those whose sha256 is another."""

    def read_verified(self, name: str, sha256: str) -> bytes: ...


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


def read_samples(folder: VerifyingFolder, manifest: ShardsManifest) -> Iterator[Sample]:
    """Yields every sample once, in the manifest's order.

    Raises:
        Exception: What the folder raises for a shard that differs from its manifest.
    """
    ids = itertools.count()
    for shard in manifest.summary["shards"]:
        for key, members in read_one_shard(folder, manifest, shard["name"]):
            yield sample_of(next(ids), key, members)


def read_chosen(folder: VerifyingFolder, manifest: ShardsManifest, ids: Collection[int]) -> Iterator[Sample]:
    """Yields the samples with these ids; no other is decoded, and no shard read that holds none of them.

    Raises:
        Exception: What the folder raises for a shard that differs from its manifest.
    """
    wanted = set(ids)
    for name, numbers in shard_ids(manifest):
        if wanted.isdisjoint(numbers):
            continue
        for number, (key, members) in zip(numbers, read_one_shard(folder, manifest, name), strict=True):
            if number in wanted:
                yield sample_of(number, key, members)


def shard_ids(manifest: ShardsManifest) -> list[tuple[str, range]]:
    """Returns the name of each shard and the ids of its samples, in the manifest's order."""
    listed = [(shard["name"], shard["samples"]) for shard in manifest.summary["shards"]]
    ends = itertools.accumulate(size for _, size in listed)
    return [(name, range(end - size, end)) for (name, size), end in zip(listed, ends, strict=True)]


def sample_of(number: int, key: str, members: dict[str, bytes]) -> Sample:
    """Returns a sample, its picture decoded, from its members in a shard."""
    facts = json.loads(members["json"])
    return Sample(
        id=number,
        key=key,
        image=decode(picture_of(members)),
        caption=members["txt"].decode(),
        labels=facts.get("labels", {}),
        split=facts.get("split", "train"),
        conversations=facts.get("conversations", []),
    )


def read_one_shard(
    folder: VerifyingFolder, manifest: ShardsManifest, name: str
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Returns the samples of one shard."""
    return read_shard(folder.read_verified(name, manifest.files[name]["sha256"]))


def picture_of(members: dict[str, bytes]) -> bytes:
    """Returns the picture among a sample's members."""
    return next(members[extension] for extension in IMAGE_EXTENSIONS if extension in members)


def decode(picture: bytes, short_side_px: int = 0) -> Image.Image:
    """Returns an RGB picture.

    Args:
        picture: The file's bytes.
        short_side_px: A JPEG at least twice this size is decoded at 1/2, 1/4 or 1/8 by scaled DCT, which leaves at
            least this short side; 0 decodes it whole.
    """
    image = Image.open(io.BytesIO(picture))
    if short_side_px:
        width, height = image.size
        short = min(width, height)
        image.draft("RGB", (-(-width * short_side_px // short), -(-height * short_side_px // short)))
    return image.convert("RGB")
