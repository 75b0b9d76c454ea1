"""Exports: each library loads its folder and says what the trunk says, from the raw picture on."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from components.core.data.augment import whole_view
from components.core.data.batch import stack_images
from components.core.data.tokenizer import build_tokenizer
from components.core.models.encoder import TextSide
from components.core.models.export import export_encoder
from components.core.models.language_tower import build_language_tower
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.runtime.storage import open_folder

SIZE = 32
CAPTIONS = ["a red ball on the left", "two blue boxes; it's raining", "the word STOP"]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32, another order of sums


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    allow_torchvision_import()


@pytest.fixture
def trunk() -> Trunk:
    trunk = Trunk(image_size_px=SIZE, patch_size_px=8, width=24, depth=3, num_heads=2, seed=0)
    _shake(trunk)  # at the start biases are 0 and norms 1, and a mistake in one would not show
    return trunk.eval()


def _shake(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def _side(tokenizer_name: str = "words", logit_bias: torch.Tensor | None = None) -> TextSide:
    tokenizer = build_tokenizer(tokenizer_name, CAPTIONS, context_length=12)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=12, width=16, depth=2, num_heads=4, embedding_dim=8, seed=0
    )
    _shake(tower)
    projection_DE = torch.randn(24, 8, generator=torch.Generator().manual_seed(2))
    return TextSide(tower.eval(), tokenizer, projection_DE, torch.tensor(2.5), logit_bias)


def _picture(height: int, width: int) -> Image.Image:
    """Returns a smooth picture with a sharp edge."""
    rows, columns = numpy.mgrid[0:height, 0:width]
    waves = [127 + 120 * numpy.sin(rows / 7 + channel) * numpy.cos(columns / 5) for channel in range(3)]
    pixels = numpy.stack(waves, axis=2).astype(numpy.uint8)
    pixels[: height // 3, : width // 4] = (250, 10, 30)
    return Image.fromarray(pixels)


def _whole(picture: Image.Image) -> torch.Tensor:
    return whole_view(*stack_images([numpy.asarray(picture)]), SIZE)


def _export(tmp_path: Path, trunk: Trunk, side: TextSide | None) -> list[str]:
    return export_encoder(open_folder(str(tmp_path)), trunk, side)


def _epsilons(module: torch.nn.Module) -> set[float]:
    return {norm.eps for norm in module.modules() if isinstance(norm, torch.nn.LayerNorm)}


def _cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return F.cosine_similarity(ours, theirs).min().item()


@torch.inference_mode()
def test_timm_loads_the_trunk_with_its_preprocessing(tmp_path: Path, trunk: Trunk) -> None:
    import timm

    _export(tmp_path, trunk, None)
    theirs = timm.create_model(f"local-dir:{tmp_path}/export/timm", pretrained=True).eval()
    assert _epsilons(theirs) == _epsilons(trunk)
    data = timm.data.resolve_model_data_config(theirs)
    images = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(theirs((images - mean) / std), trunk(images), **TOLERANCE)
    small = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(theirs((small - mean) / std), trunk(small), **TOLERANCE)
    picture = _picture(64, 64)
    transform = timm.data.create_transform(**data, is_training=False)
    assert _cosine(theirs(transform(picture)[None]), trunk(_whole(picture))) > 0.9999


@torch.inference_mode()
def test_transformers_loads_the_trunk_with_its_preprocessing(tmp_path: Path, trunk: Trunk) -> None:
    from transformers import AutoImageProcessor, AutoModel, ViTModel

    _export(tmp_path, trunk, None)
    folder = tmp_path / "export/huggingface"
    theirs, loading = ViTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert _epsilons(theirs) == _epsilons(trunk)
    assert isinstance(AutoModel.from_pretrained(folder), ViTModel)
    processor = AutoImageProcessor.from_pretrained(folder)
    images = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    output = theirs((images - mean) / std, output_hidden_states=True)
    tokens = trunk.tokens(images)
    torch.testing.assert_close(output.pooler_output, tokens.cls_BD, **TOLERANCE)
    torch.testing.assert_close(output.last_hidden_state[:, 1:], tokens.patches_BND, **TOLERANCE)
    torch.testing.assert_close(output.hidden_states[-2][:, 1:], tokens.penultimate_BND, **TOLERANCE)
    for picture in (_picture(64, 64), _picture(64, 96)):
        pixels = processor(picture, return_tensors="pt").pixel_values
        assert _cosine(theirs(pixels).pooler_output, trunk(_whole(picture))) > 0.999


@torch.inference_mode()
def test_open_clip_loads_both_towers_the_preprocessing_and_the_words(tmp_path: Path, trunk: Trunk) -> None:
    import open_clip

    side = _side(logit_bias=torch.tensor(-9.0))
    _export(tmp_path, trunk, side)
    name = f"local-dir:{tmp_path}/export/open_clip"
    theirs, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    theirs.eval()
    assert (_epsilons(theirs.visual), _epsilons(theirs.text)) == (_epsilons(trunk), _epsilons(side.tower))
    images = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(theirs.visual.preprocess_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    ours = trunk(images) @ side.projection_DE
    torch.testing.assert_close(theirs.encode_image((images - mean) / std), ours, **TOLERANCE)
    texts = [*CAPTIONS, "an unseen zebra", "", "a " * 40]
    tokens = side.tokenizer(texts)
    assert tokenizer(texts).tolist() == tokens.tolist()
    torch.testing.assert_close(theirs.encode_text(tokenizer(texts)), side.tower(tokens), **TOLERANCE)
    assert (theirs.logit_scale.item(), theirs.logit_bias.item()) == (2.5, -9.0)
    for picture in (_picture(64, 64), _picture(64, 96)):
        ours = trunk(_whole(picture)) @ side.projection_DE
        assert _cosine(theirs.encode_image(transform(picture)[None]), ours) > 0.999


@torch.inference_mode()
def test_open_clips_own_vocabulary_is_found_by_itself(tmp_path: Path, trunk: Trunk) -> None:
    import open_clip

    side = _side("open_clip")
    _export(tmp_path, trunk, side)
    name = f"local-dir:{tmp_path}/export/open_clip"
    assert open_clip.get_tokenizer(name)(CAPTIONS).tolist() == side.tokenizer(CAPTIONS).tolist()
    theirs = open_clip.create_model(name).eval()
    tokens = side.tokenizer(CAPTIONS)
    torch.testing.assert_close(theirs.encode_text(tokens), side.tower(tokens), **TOLERANCE)
    assert theirs.logit_bias is None


def test_only_arms_with_clips_text_tower_are_written_for_open_clip(tmp_path: Path, trunk: Trunk) -> None:
    options: dict[str, Any] = {"revision": "main", "pooling": "last", "num_trainable_layers": 1, "seed": 0}
    tower, tokenizer = build_language_tower("tiny", CAPTIONS, embedding_dim=8, context_length=12, **options)
    for side in (None, TextSide(tower, tokenizer, torch.zeros(24, 8), torch.tensor(1.0))):
        names = _export(tmp_path, trunk, side)
        assert {Path(name).parts[1] for name in names} == {"timm", "huggingface"}
        assert all((tmp_path / name).is_file() for name in names)


def test_a_file_says_nothing_of_the_place_where_it_was_written(tmp_path: Path, trunk: Trunk) -> None:
    for name in _export(tmp_path, trunk, _side()):
        if name.endswith(".json"):
            text = (tmp_path / name).read_text()
            json.loads(text)
            assert str(tmp_path) not in text
