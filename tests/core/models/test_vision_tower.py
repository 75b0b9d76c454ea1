"""Towers of every kind give the patch tokens that leave their second-to-last block, and nothing of them trains."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.models.vision_tower import VisionTower, external_tower, own_tower
from tests.core.models.small_encoders import (
    MEAN,
    NUM_PATCHES,
    OPEN_CLIP_VISION,
    SIZE,
    STD,
    pictures,
    save_hugging_face,
    save_open_clip,
    save_timm,
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    allow_torchvision_import()


def seen(tower: VisionTower) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens of some pictures, and the pictures as the transformer gets them."""
    pictures_BCSS = torch.from_numpy(numpy.stack([tower.prepare(picture) for picture in pictures()]))
    normalised = (pictures_BCSS.float() / 255 - torch.tensor(tower.facts["mean"]).view(3, 1, 1)) / torch.tensor(
        tower.facts["std"]
    ).view(3, 1, 1)
    return tower(pictures_BCSS), normalised


def test_the_studys_own_tower_is_the_trunks_penultimate_patches() -> None:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=3, num_heads=2, seed=0).eval()
    tower = own_tower(trunk, {"arm": "clip"})
    pictures_BCSS = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    found = tower(pictures_BCSS)
    assert torch.equal(found, trunk.tokens(pictures_BCSS.float() / 255).penultimate_BND)
    assert found.shape[1:] == (tower.num_tokens, tower.width) == (4, 16) and tower.image_size_px == 16
    assert tower.facts["encoder"] == {"arm": "clip"}


@pytest.mark.parametrize("shape", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "map"}])
def test_a_timm_tower_gives_timms_own_tokens(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = save_timm(tmp_path / "model", **shape)
    found, normalised = seen(external_tower(f"timm:{tmp_path / 'model'}"))
    with torch.no_grad():
        [expected] = model.get_intermediate_layers(normalised, n=[len(model.blocks) - 2])
    torch.testing.assert_close(found, expected)
    assert found.shape[1] == NUM_PATCHES


@pytest.mark.parametrize("kind", ["native", "native, average", "timm"])
def test_an_open_clip_tower_gives_open_clips_own_tokens(tmp_path: Path, kind: str) -> None:
    model = save_open_clip(tmp_path / "model", OPEN_CLIP_VISION[kind])
    found, normalised = seen(external_tower(f"open_clip:{tmp_path / 'model'}"))
    visual = model.visual
    with torch.no_grad():
        if kind == "timm":
            [expected] = visual.trunk.get_intermediate_layers(normalised, n=[len(visual.trunk.blocks) - 2])
        else:
            expected = visual.forward_intermediates(normalised, indices=[1], output_fmt="NLC")["image_intermediates"][0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers", "clip", "siglip", "siglip vision"])
def test_a_tower_of_transformers_gives_its_hidden_states(tmp_path: Path, kind: str) -> None:
    model = save_hugging_face(tmp_path / "model", kind)
    found, normalised = seen(external_tower(f"hf:{tmp_path / 'model'}"))
    with torch.no_grad():
        states = model(pixel_values=normalised, output_hidden_states=True).hidden_states
    assert len(states) == 4, "what goes into the first of three blocks, and what leaves each"
    torch.testing.assert_close(found, states[2][:, -NUM_PATCHES:])


def test_pictures_are_prepared_as_transformers_prepares_them_for_llava(tmp_path: Path) -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    save_hugging_face(tmp_path / "model", "clip")
    tower = external_tower(f"hf:{tmp_path / 'model'}")
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    theirs = LlavaImageProcessorPil(do_pad=True, image_mean=MEAN, image_std=STD, **size)
    for picture in [*pictures(), Image.new("RGB", (9, 4), "white"), Image.new("RGB", (33, 100), "red")]:
        expected = theirs(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert numpy.array_equal(tower.prepare(picture), expected)
        normalised = torch.from_numpy(theirs(picture, return_tensors="np")["pixel_values"])
        torch.testing.assert_close(tower.normalised(torch.from_numpy(tower.prepare(picture))[None]), normalised)


def test_the_corner_of_a_long_picture_has_that_models_mean_colour(tmp_path: Path) -> None:
    save_timm(tmp_path / "model")
    tower = external_tower(f"timm:{tmp_path / 'model'}")
    prepared = tower.prepare(Image.new("RGB", (64, 32), "white"))
    assert prepared.dtype == numpy.uint8 and prepared.shape == (3, SIZE, SIZE)
    assert prepared[:, 0, 0].tolist() == [int(255 * channel) for channel in MEAN]
    assert prepared[:, SIZE // 2, 0].tolist() == [255] * 3


def test_nothing_of_a_tower_trains() -> None:
    tower = own_tower(Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0), {})
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).requires_grad


def test_a_model_with_other_preprocessing_is_refused(tmp_path: Path) -> None:
    save_hugging_face(tmp_path / "model", "vit")
    path = tmp_path / "model" / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"rescale_factor": 1 / 127.5}))
    with pytest.raises(ValueError, match="more than resizing"):
        external_tower(f"hf:{tmp_path / 'model'}")
    save_timm(tmp_path / "wide", img_size=(16, 32))
    path = tmp_path / "wide" / "config.json"
    settings = json.loads(path.read_text())
    settings["pretrained_cfg"]["input_size"] = [3, 16, 32]
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="give a model that takes squares"):
        external_tower(f"timm:{tmp_path / 'wide'}")
