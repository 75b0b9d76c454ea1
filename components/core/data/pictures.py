"""A folder of the user's own pictures: captions lie beside them, the topmost folder is the class."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from components.core.data.ingest import (
    CAPTION_SUFFIX,
    PICTURE_SUFFIXES,
    Reject,
    clean_caption,
    decode_picture,
    encode_png,
    shrink,
)

CLASS_FACTOR = "category"


class Files(Protocol):
    """A place that gives bytes for names."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """A picture's file name, its caption's (empty: none) and its class (empty: none)."""

    name: str
    caption_name: str
    category: str


@dataclass(frozen=True)
class Limits:
    """What `ingest` accepts; see build_shards' parameters."""

    image_size_px: int
    min_side_px: int
    max_aspect: float
    max_pixels: int
    needs_caption: bool


@dataclass(frozen=True)
class Picture:
    """An accepted picture: PNG bytes, and the sha256 of its pixels."""

    name: str
    png: bytes
    caption: str
    category: str
    sha256: str

    @property
    def key(self) -> str:
        """The sample's name in a shard: the beginning of its hash, which is a valid member name."""
        return self.sha256[:20]


@dataclass(frozen=True)
class Rejected:
    """A picture that was left out, and the reason under which it is counted."""

    name: str
    reason: str


def list_entries(names: Iterable[str]) -> list[Entry]:
    """Returns the pictures among file names, sorted, each with its caption and class."""
    found = set(names)
    entries = []
    for name in sorted(found):
        path = PurePosixPath(name)
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        caption_name = str(path.with_suffix(CAPTION_SUFFIX))
        category = path.parts[0] if len(path.parts) > 1 else ""
        entries.append(Entry(name, caption_name if caption_name in found else "", category))
    return entries


def ingest(entry: Entry, files: Files, limits: Limits) -> Picture | Rejected:
    """Returns the picture, upright, in RGB and no larger than needed, or why it is left out."""
    try:
        if limits.needs_caption and not entry.caption_name:
            raise Reject("caption_missing")
        caption = clean_caption(files.read(entry.caption_name)) if entry.caption_name else ""
        picture = decode_picture(
            files.read(entry.name),
            min_side_px=limits.min_side_px,
            max_aspect=limits.max_aspect,
            max_pixels=limits.max_pixels,
        )
    except Reject as reject:
        return Rejected(entry.name, reject.reason)
    picture = shrink(picture, limits.image_size_px)
    sha256 = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
    return Picture(entry.name, encode_png(picture), caption, entry.category, sha256)


def drop_duplicates(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Rejected]]:
    """Returns the pictures with distinct pixels, the first by name of each, and the others."""
    kept: dict[str, Picture] = {}
    dropped = []
    for picture in sorted(pictures, key=lambda p: p.name):
        if picture.sha256 in kept:
            dropped.append(Rejected(picture.name, "duplicate"))
        else:
            kept[picture.sha256] = picture
    return list(kept.values()), dropped


def is_test(picture: Picture, *, test_fraction: float, seed: int) -> bool:
    """Returns whether a picture belongs to the test split: a pure function of its pixels and the seed."""
    number = int(hashlib.sha256(f"{seed} {picture.sha256}".encode()).hexdigest()[:12], 16)
    return number / 16**12 < test_fraction
