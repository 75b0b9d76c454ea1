"""Features and shards as extract_features and build_shards leave them, made so that the answers are known."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from components.core.data import features
from components.runtime.storage import LocalFolder
from tests.manifests import commit

WIDTH, NUM_TRAIN, NUM_TEST = 16, 400, 150
CLASSES = {"object": ["owl", "box", "hat", "key"], "colour": ["red", "green", "blue"]}

Write = Callable[..., str]


def pictures(classes: dict[str, list[str]], num_pictures: int, seed: int) -> dict[str, Tensor]:
    """Returns what a part holds: vectors with a direction for each class, and noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.Generator().manual_seed(99)
    tensors: dict[str, Tensor] = {"ids": torch.arange(num_pictures)}
    vectors = torch.randn(num_pictures, WIDTH, generator=generator)
    for factor, names in classes.items():
        labels = torch.randint(0, len(names), (num_pictures,), generator=generator)
        tensors[f"labels/{factor}"] = labels
        vectors = vectors + torch.randn(len(names), WIDTH, generator=directions)[labels]
    tensors["cls"], tensors["patch_mean"] = vectors, torch.randn(num_pictures, WIDTH, generator=generator)
    tensors["joint"] = torch.nn.functional.normalize(vectors[:, :8], dim=1)
    return tensors


@pytest.fixture
def write_features(tmp_path: Path) -> Write:
    """Returns a function that writes features in two parts, and returns the folder's address.

    The first pictures are the train split; `change` gets the tensors before they are written.
    """

    def write(
        name: str,
        *,
        classes: dict[str, list[str]] = CLASSES,
        num_train: int = NUM_TRAIN,
        num_test: int = NUM_TEST,
        change: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
        summary: dict[str, Any] | None = None,
        inputs: dict[str, str] | None = None,
    ) -> str:
        tensors = pictures(classes, num_train + num_test, seed=0)
        tensors["is_test"] = tensors["ids"] >= num_train
        change(tensors)
        folder = LocalFolder(tmp_path / name)
        parts = []
        for number, rows in enumerate(torch.arange(len(tensors["ids"])).chunk(2)):
            parts.append(features.part_name(f"shards/{number:05d}.tar"))
            folder.write(parts[-1], features.encode_part({k: of[rows] for k, of in tensors.items()}, key="made"))
        first = next(iter(classes))
        texts = torch.randn(len(classes[first]), 8, generator=torch.Generator().manual_seed(5))
        folder.write(features.CLASSES_NAME, save({f"classes/{first}": torch.nn.functional.normalize(texts, dim=1)}))
        about = {"arm": "clip", "replicate": 1, "layer": -1, "factors": classes, "shards": "d" * 64, "parts": parts}
        commit(folder, "FeaturesManifest", "extract_features", summary=about | (summary or {}), inputs=inputs or {})
        return folder.uri

    return write


@pytest.fixture
def write_shards(tmp_path: Path) -> Callable[[str, Sequence[bytes]], tuple[str, str]]:
    """Returns a function that writes the hashes of shards, and returns address and digest."""

    def write(name: str, hashes: Sequence[bytes]) -> tuple[str, str]:
        folder = LocalFolder(tmp_path / name)
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"sha256": pyarrow.array(hashes, pyarrow.binary())}), buffer)
        folder.write("samples.parquet", buffer.getvalue())
        return folder.uri, commit(folder, "ShardsManifest", "build_shards", params={"name": name}).digest

    return write
