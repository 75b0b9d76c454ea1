"""A vision-language model survives its files, and is refused where its tower is another one by now."""

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.core.data.conversation import TEMPLATES
from components.core.models.language_model import load_language_model, read_language_model, tiny_language_model
from components.core.models.projector import Projector
from components.core.models.trunk import Trunk, weights_sha256
from components.core.models.vision_tower import own_tower
from components.core.models.vlm import VisionLanguageModel
from components.core.models.vlm_files import read_vlm, save_vlm
from components.runtime.storage import LocalFolder
from tests.core.models.small_llava import pair, random_pictures

CPU = torch.device("cpu")


class FarFolder:
    """A folder that is not on this machine's disk, as far as its attributes say; it counts what is read at once."""

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self.uri = "s3://bucket/vlm"
        self.largest = 0

    def open(self, name: str) -> Any:
        folder = self

        class File(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                data = super().read(size)
                folder.largest = max(folder.largest, len(data))
                return data

        return File(self._folder.read(name))

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def names(self, prefix: str = "") -> list[str]:
        return self._folder.names(prefix)


def small(kind: str, folder: Path) -> VisionLanguageModel:
    if kind == "external":
        made = pair(folder)
        return VisionLanguageModel(made.tower, made.projector, made.language_model, TEMPLATES["vicuna_v1"])
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    words = tiny_language_model(["red green"], width=24, depth=1, num_heads=2, seed=0)
    projector = Projector(in_width=16, out_width=24, seed=1)
    return VisionLanguageModel(own_tower(trunk, {"arm": "dino", "seed": 3}), projector, words, TEMPLATES["bare"])


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["own", "external"])
def test_a_model_survives_its_files(tmp_path: Path, kind: str) -> None:
    vlm, folder = small(kind, tmp_path / "made"), LocalFolder(tmp_path / "saved")
    names = save_vlm(folder, vlm)
    assert sorted(names) == folder.names()
    assert {"projector.safetensors", "vlm.json", "language_model/model.safetensors"} <= set(names)
    assert ("encoder.safetensors" in names) == (kind == "own")
    again = read_vlm(folder, CPU)
    assert again.template == vlm.template and again.tower.facts == vlm.tower.facts
    assert weights_sha256(again) == weights_sha256(vlm)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    pictures = random_pictures(2)
    asked = (["red", "What is it? red"], [("red", "green", "red", "x")] * 2)
    assert torch.equal(again.features(pictures), vlm.features(pictures))
    assert again.choose_letters(again.features(pictures), *asked) == vlm.choose_letters(vlm.features(pictures), *asked)


def test_another_tower_under_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "saved")
    save_vlm(folder, small("external", tmp_path / "made"))
    weights = tmp_path / "made" / "vision" / "model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not the one that this model was trained with \\(weights_sha256"):
        read_vlm(folder, CPU)


def test_other_pixels_under_the_same_name_are_refused(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "saved")
    save_vlm(folder, small("external", tmp_path / "made"))
    path = tmp_path / "made" / "vision" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(ValueError, match="mean is"):
        read_vlm(folder, CPU)


def test_a_language_model_on_disk_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path / "saved")
    save_vlm(folder, small("own", tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert read_language_model(folder, "language_model").width == 24
    with pytest.raises(FileNotFoundError):
        read_language_model(FarFolder(folder), "language_model")


def test_a_language_model_elsewhere_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path / "saved")
    save_vlm(folder, small("external", tmp_path / "made"))
    far = FarFolder(folder)
    monkeypatch.setattr(shutil, "COPY_BUFSIZE", 4096)
    again = read_language_model(far, "language_model")
    assert weights_sha256(again.model) == weights_sha256(read_language_model(folder, "language_model").model)
    assert 0 < far.largest <= 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_language_model_has_the_type_that_is_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    vlm, folder = small("external", tmp_path / "made"), LocalFolder(tmp_path / "saved")
    vlm.language_model.half()  # as published models are
    save_vlm(folder, vlm)
    model = load_language_model(str(folder.path / "language_model"), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_pickled_language_models_are_refused(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "saved")
    save_vlm(folder, small("own", tmp_path))
    path = folder.path / "language_model" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    with pytest.raises(ValueError, match="can't be loaded"):
        read_language_model(folder, "language_model")
