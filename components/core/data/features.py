# N pictures, D features, C classes, E joint embedding.
"""Features as files: one part per shard of pictures, and the embeddings of the classes beside them.

A part holds every picture of its shard, in the shard's order: `ids`, `is_test`, `labels/<factor>` (-1: none), `cls`,
`patch_mean` and, for an encoder with a text tower, `joint` (unit vectors). Pictures whose features are of no use stay
in the part; whoever reads counts them and leaves them out, all tokens alike, so that every number is over the same
pictures.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from components.core.data.shard_samples import ShardsManifest, VerifyingFolder

CLASSES_NAME = "classes.safetensors"
MAX_UNUSABLE_SHARE = 0.001
TOKENS = ("cls", "patch_mean")
VECTORS = (*TOKENS, "joint")
SPLITS = ("train", "test")
KEY = "key"

Split = Literal["train", "test"]
Token = Literal["cls", "patch_mean"]


class RangeFolder(Protocol):
    """A place that gives bytes of a name from one place to another."""

    def read_range(self, name: str, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class Features:
    """The usable features of one split.

    Attributes:
        ids_N: int64 sample ids, ascending.
        rows_ND: float32, the token that was asked for; finite, and none is zero.
        labels: int64 class index per factor, [N]; -1 where a picture has none.
        joint_NE: Unit vectors in the space shared with text; None for an encoder without a text tower.
        num_unusable: Pictures left out, because a vector of theirs is zero or not finite.
    """

    ids_N: Tensor
    rows_ND: Tensor
    labels: dict[str, Tensor]
    joint_NE: Tensor | None
    num_unusable: int


def part_name(shard: str) -> str:
    """Returns the name of the part with a shard's features."""
    return f"features/{shard.rpartition('/')[2].removesuffix('.tar')}.safetensors"


def encode_part(tensors: dict[str, Tensor], key: str) -> bytes:
    """Returns a part as bytes; `key` says what it was computed from."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={KEY: key})


def part_key(folder: RangeFolder, name: str) -> str:
    """Returns the key of a part that was written, from its first bytes; empty where it has none.

    Raises:
        FileNotFoundError: There is no such part.
    """
    length = int.from_bytes(folder.read_range(name, 0, 8), "little")
    try:
        return json.loads(folder.read_range(name, 8, 8 + length)).get("__metadata__", {}).get(KEY, "")
    except ValueError:
        return ""


def is_usable(tensors: dict[str, Tensor]) -> Tensor:
    """Returns which pictures of a part have only finite vectors, none of them zero, [N]."""
    found = [tensors[name] for name in VECTORS if name in tensors]
    return torch.stack([rows.isfinite().all(dim=1) & (rows != 0).any(dim=1) for rows in found]).all(dim=0)


def refuse_unusable(num_unusable: int, total: int, whose: str) -> None:
    """Refuses features of which more than 0.1 % are of no use.

    Raises:
        ValueError: They are more.
    """
    if num_unusable > MAX_UNUSABLE_SHARE * total:
        raise ValueError(
            f"{num_unusable} of {total} pictures have features of {whose} that are zero or not finite, more than "
            f"{MAX_UNUSABLE_SHARE:.1%}: the encoder is broken; look at its training curve"
        )


def read(folder: VerifyingFolder, manifest: ShardsManifest, split: Split, token: Token = "cls") -> Features:
    """Returns the usable features of a split; only the token that is asked for is kept in memory.

    Args:
        folder: What extract_features wrote.
        manifest: Its manifest.
        split: `train` or `test`.
        token: Which of an encoder's answers become the rows.

    Raises:
        ValueError: Over 0.1 % of the split's pictures have features that are zero or not finite.
    """
    factors = manifest.summary["factors"]
    names = [token, "ids", *(f"labels/{factor}" for factor in factors)]
    parts: list[dict[str, Tensor]] = []
    num_unusable = total = 0
    for part in manifest.summary["parts"]:
        tensors = load(folder.read_verified(part, manifest.files[part]["sha256"]))
        is_wanted_N = tensors["is_test"] == (split == "test")
        is_kept_N = is_wanted_N & is_usable(tensors)
        total += int(is_wanted_N.sum())
        num_unusable += int((is_wanted_N & ~is_kept_N).sum())
        parts.append({name: tensors[name][is_kept_N] for name in (*names, "joint") if name in tensors})
    refuse_unusable(num_unusable, total, manifest.summary["arm"])
    return Features(
        ids_N=_joined(parts, "ids"),
        rows_ND=_joined(parts, token),
        labels={factor: _joined(parts, f"labels/{factor}") for factor in factors},
        joint_NE=_joined(parts, "joint") if "joint" in parts[0] else None,
        num_unusable=num_unusable,
    )


def read_classes(folder: VerifyingFolder, manifest: ShardsManifest) -> dict[str, Tensor]:
    """Returns one unit vector per class, [C, E], for each factor with prompts; none without a text tower."""
    if CLASSES_NAME not in manifest.files:
        return {}
    tensors = load(folder.read_verified(CLASSES_NAME, manifest.files[CLASSES_NAME]["sha256"]))
    return {name.removeprefix("classes/"): rows_CE for name, rows_CE in tensors.items()}


def _joined(parts: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    """Returns one tensor out of all parts, which give theirs up."""
    return torch.cat([part.pop(name) for part in parts])
