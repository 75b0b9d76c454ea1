"""Features as files: what was written is what is read, and what is of no use is counted and left out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from components.core.data import features
from components.runtime.storage import LocalFolder

SIZES = (1400, 1000, 3)  # pictures per shard; the last has no test picture
FACTORS = {"word": ["ball", "box"], "colour": ["red", "blue", "green"]}


@dataclass
class Manifest:
    """The part of a manifest that the reader needs."""

    files: dict[str, dict[str, Any]]
    summary: dict[str, Any]


def whole(num: int = sum(SIZES)) -> dict[str, Tensor]:
    """Returns the features of all pictures, every third one for testing."""
    generator = torch.Generator().manual_seed(0)
    return {
        "ids": torch.arange(num),
        "is_test": (torch.arange(num) % 3 == 0) & (torch.arange(num) < 2400),
        "cls": torch.randn(num, 4, generator=generator),
        "patch_mean": torch.randn(num, 4, generator=generator),
        "joint": torch.nn.functional.normalize(torch.randn(num, 2, generator=generator), dim=1),
        "labels/word": torch.arange(num) % 3 - 1,
        "labels/colour": torch.arange(num) % 3,
    }


def write(folder: LocalFolder, tensors: dict[str, Tensor], **others: bytes) -> Manifest:
    """Writes parts, and what else is given by name, as extract_features does."""
    parts = []
    for number, piece in enumerate(zip(*(t.split(SIZES) for t in tensors.values()), strict=True)):
        parts.append(features.part_name(f"shards/{number:05d}.tar"))
        folder.write(parts[-1], features.encode_part(dict(zip(tensors, piece, strict=True)), f"key {number}"))
    for name, data in others.items():
        folder.write(f"{name}.safetensors", data)
    files = {name: {"sha256": hashlib.sha256(folder.read(name)).hexdigest()} for name in folder.names()}
    return Manifest(files, {"arm": "clip", "factors": FACTORS, "parts": parts})


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


@pytest.mark.parametrize("token", features.TOKENS)
@pytest.mark.parametrize("split", features.SPLITS)
def test_what_was_written_is_read_in_the_order_of_the_ids(
    folder: LocalFolder, split: features.Split, token: features.Token
) -> None:
    tensors = whole()
    found = features.read(folder, write(folder, tensors), split, token)
    chosen = tensors["is_test"] == (split == "test")
    assert found.num_unusable == 0 and found.joint_NE is not None
    assert torch.equal(found.ids_N, tensors["ids"][chosen]) and found.ids_N.dtype == torch.int64
    assert torch.equal(found.rows_ND, tensors[token][chosen])
    assert torch.equal(found.joint_NE, tensors["joint"][chosen])
    assert {name: labels.tolist() for name, labels in found.labels.items()} == {
        factor: tensors[f"labels/{factor}"][chosen].tolist() for factor in FACTORS
    }


def test_an_encoder_without_text_has_neither_joint_vectors_nor_classes(folder: LocalFolder) -> None:
    manifest = write(folder, {name: tensor for name, tensor in whole().items() if name != "joint"})
    assert features.read(folder, manifest, "test").joint_NE is None
    assert features.read_classes(folder, manifest) == {}


def test_the_classes_come_by_factor(folder: LocalFolder) -> None:
    manifest = write(folder, whole(), classes=save({"classes/word": torch.eye(2)}))
    assert {name: rows.tolist() for name, rows in features.read_classes(folder, manifest).items()} == {
        "word": [[1, 0], [0, 1]]
    }


@pytest.mark.parametrize("name", ["cls", "patch_mean", "joint"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_useless_vector_takes_its_picture_out_of_every_token(folder: LocalFolder, name: str, value: float) -> None:
    tensors = whole()
    tensors[name][1] = value  # picture 1 is for training
    manifest = write(folder, tensors)
    for token in features.TOKENS:
        found = features.read(folder, manifest, "train", token)
        assert found.num_unusable == 1 and 1 not in found.ids_N and bool(found.rows_ND.isfinite().all())
        assert len(found.ids_N) == len(found.rows_ND) == len(found.labels["word"]) == 1602
        assert features.read(folder, manifest, "test", token).num_unusable == 0


def test_more_than_a_thousandth_of_useless_vectors_is_refused(folder: LocalFolder) -> None:
    tensors = whole()
    tensors["cls"][0, 2] = float("nan")  # one of 800 test pictures
    with pytest.raises(ValueError, match=r"1 of 800 pictures have features of clip that are zero or not finite"):
        features.read(folder, write(folder, tensors), "test")


def test_a_damaged_part_is_not_read(folder: LocalFolder) -> None:
    manifest = write(folder, whole())
    data = bytearray(folder.read(manifest.summary["parts"][1]))
    data[-1] ^= 1
    folder.write(manifest.summary["parts"][1], bytes(data))
    with pytest.raises(RuntimeError, match="damaged"):
        features.read(folder, manifest, "test")


def test_the_key_of_a_part_is_read_from_its_first_bytes(folder: LocalFolder) -> None:
    names = write(folder, whole()).summary["parts"]
    assert [features.part_key(folder, name) for name in names] == ["key 0", "key 1", "key 2"]
    folder.write("features/other.safetensors", save({"cls": torch.zeros(1)}))
    folder.write("features/broken.safetensors", b"\x05\0\0\0\0\0\0\0{...}")
    assert [features.part_key(folder, f"features/{name}.safetensors") for name in ("other", "broken")] == ["", ""]
    with pytest.raises(FileNotFoundError):
        features.part_key(folder, "features/none.safetensors")
