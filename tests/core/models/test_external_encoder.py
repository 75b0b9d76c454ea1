"""Encoders of other libraries say what those libraries themselves say of the same pictures, to 1e-5."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.core.models.external_encoder import load_external
from components.core.models.frozen_encoder import FrozenEncoder, Vectors
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.extract_features.params import LIBRARIES
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

TOLERANCE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    allow_torchvision_import()


@torch.inference_mode()
def encoded(encoder: FrozenEncoder) -> tuple[Tensor, Vectors]:
    prepared = encoder.prepare(pictures())
    return prepared, encoder.encode(prepared)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("shape", "token"),
    [
        ({}, "cls"),
        ({"reg_tokens": 4}, "cls"),
        ({"class_token": False, "global_pool": "avg"}, "pooled"),
        ({"class_token": False, "global_pool": "map"}, "pooled"),
    ],
)
def test_a_timm_encoder_gives_timms_own_tokens(tmp_path: Path, shape: dict[str, Any], token: str) -> None:
    import timm

    model = save_timm(tmp_path / "model", **shape)
    encoder = load_external(f"timm:{tmp_path / 'model'}", -1, CPU)
    prepared, found = encoded(encoder)
    transform = timm.data.create_transform(
        input_size=(3, SIZE, SIZE), crop_pct=0.9, interpolation="bicubic", mean=MEAN, std=STD
    )
    assert torch.equal(prepared, torch.stack([transform(picture) for picture in pictures()]))
    assert encoder.token == token and found.joint_BE is None and encoder.text is None
    tokens_BND = model.forward_features(prepared)
    torch.testing.assert_close(found.cls_BD, model(prepared), **TOLERANCE)
    torch.testing.assert_close(found.patch_mean, tokens_BND[:, -NUM_PATCHES:].mean(dim=1), **TOLERANCE)
    before = load_external(f"timm:{tmp_path / 'model'}", -2, CPU)
    _, below = encoded(before)
    [(patches, *prefix)] = [
        taken if isinstance(taken, tuple) else (taken,)
        for taken in model.get_intermediate_layers(prepared, n=[1], return_prefix_tokens=True)
    ]
    torch.testing.assert_close(below.patch_mean, patches.mean(dim=1), **TOLERANCE)
    torch.testing.assert_close(below.cls_BD, prefix[0][:, 0] if prefix else patches.mean(dim=1), **TOLERANCE)
    assert before.token == ("cls" if token == "cls" else "patch_mean")


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "token"),
    [("native", "cls"), ("native, average", "pooled"), ("timm", "cls"), ("timm, attention", "pooled")],
)
def test_an_open_clip_encoder_gives_open_clips_own_embeddings(tmp_path: Path, kind: str, token: str) -> None:
    import open_clip

    model = save_open_clip(tmp_path / "model", OPEN_CLIP_VISION[kind])
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'model'}")
    encoder = load_external(f"open_clip:{tmp_path / 'model'}", -1, CPU)
    prepared, found = encoded(encoder)
    assert torch.equal(prepared, torch.stack([transform(picture) for picture in pictures()]))
    assert encoder.token == token and encoder.text is not None
    assert found.joint_BE is not None
    torch.testing.assert_close(found.joint_BE, model.encode_image(prepared, normalize=True), **TOLERANCE)
    _, below = encoded(load_external(f"open_clip:{tmp_path / 'model'}", -2, CPU))
    torch.testing.assert_close(below.joint_BE, found.joint_BE)
    texts = ["a red ball", "two boxes"]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")(texts)
    torch.testing.assert_close(encoder.text.tower(encoder.text.tokenizer(texts)), model.encode_text(tokens))
    if kind == "native":
        own = model.visual
        own.proj = None
        torch.testing.assert_close(found.cls_BD, own(prepared), **TOLERANCE)
        own.output_tokens = True
        torch.testing.assert_close(found.patch_mean, own(prepared)[1].mean(dim=1), **TOLERANCE)
        taken = own.forward_intermediates(prepared, indices=[1], output_fmt="NLC", output_extra_tokens=True)
        torch.testing.assert_close(below.cls_BD, taken["image_intermediates_prefix"][0][:, 0], **TOLERANCE)
        torch.testing.assert_close(below.patch_mean, taken["image_intermediates"][0].mean(dim=1), **TOLERANCE)
    elif kind == "timm":
        torch.testing.assert_close(found.cls_BD, model.visual.trunk(prepared), **TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize(
    "kind",
    ["vit", "vit without pooler", "dinov2", "registers", "clip vision", "clip", "siglip vision", "siglip"],
)
def test_an_encoder_of_transformers_gives_transformers_own_states(tmp_path: Path, kind: str) -> None:
    import transformers

    model = save_hugging_face(tmp_path / "model", kind)
    name = f"hf:{tmp_path / 'model'}"
    encoder = load_external(name, -1, CPU)
    prepared, found = encoded(encoder)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert torch.equal(prepared, torch.cat([processor(p, return_tensors="pt").pixel_values for p in pictures()]))
    out = model(pixel_values=prepared, output_hidden_states=True)
    is_siglip = "siglip" in kind
    if is_siglip or "clip" in kind or "dino" in kind:
        torch.testing.assert_close(found.cls_BD, out.pooler_output, **TOLERANCE)
    else:
        torch.testing.assert_close(found.cls_BD, out.last_hidden_state[:, 0], **TOLERANCE)
    last = model.post_layernorm(out.last_hidden_state) if kind in ("clip", "clip vision") else out.last_hidden_state
    torch.testing.assert_close(found.patch_mean, last[:, -NUM_PATCHES:].mean(dim=1), **TOLERANCE)
    assert encoder.token == ("pooled" if is_siglip else "cls")
    before = load_external(name, -2, CPU)
    _, below = encoded(before)
    patch_mean_BD = out.hidden_states[-2][:, -NUM_PATCHES:].mean(dim=1)
    torch.testing.assert_close(below.patch_mean, patch_mean_BD, **TOLERANCE)
    torch.testing.assert_close(below.cls_BD, patch_mean_BD if is_siglip else out.hidden_states[-2][:, 0], **TOLERANCE)
    assert before.token == ("patch_mean" if is_siglip else "cls")
    assert load_external(name, -1, CPU).facts == encoder.facts, "nothing of it is random"


def test_batch_size_changes_nothing_beyond_1e_5(tmp_path: Path) -> None:
    for name, save in (("hf", lambda f: save_hugging_face(f, "dinov2")), ("timm", save_timm)):
        save(tmp_path / name)
        encoder = load_external(f"{name}:{tmp_path / name}", -1, CPU)
        prepared, together = encoded(encoder)
        with torch.inference_mode():
            alone = torch.cat([encoder.encode(picture[None]).cls_BD for picture in prepared])
        torch.testing.assert_close(alone, together.cls_BD, rtol=0, atol=1e-5)


def test_the_facts_tell_weights_and_preprocessing_apart(tmp_path: Path) -> None:
    save_timm(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = 1.0
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    one, two = (load_external(f"timm:{tmp_path / name}", -1, CPU).facts for name in ("one", "two"))
    assert one["weights_sha256"] == two["weights_sha256"] and one["config_sha256"] != two["config_sha256"]
    assert one["library"] == "timm" and one["version"]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = save_timm(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled"):
        load_external(f"timm:{folder}", -1, CPU)
    model = save_open_clip(tmp_path / "clip", OPEN_CLIP_VISION["native"])
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "clip" / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled"):
        load_external(f"open_clip:{tmp_path / 'clip'}", -1, CPU)
    assert torch.load.__module__ == "torch.serialization"


def test_a_model_without_patch_tokens_or_weights_is_refused(tmp_path: Path) -> None:
    import timm
    import transformers

    with pytest.raises(ValueError, match="give one of its pretrained tags"):
        load_external("open_clip:ViT-B-32", -1, CPU)
    save_timm(tmp_path / "timm")
    with pytest.raises(ValueError, match="layer -4 is none of the 3 blocks"):
        load_external(f"timm:{tmp_path / 'timm'}", -4, CPU)
    folder = tmp_path / "resnet"
    folder.mkdir()
    model = timm.create_model("resnet10t", num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 0}))
    with pytest.raises(ValueError, match="gives no patch tokens"):
        load_external(f"timm:{folder}", -1, CPU)
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "image_size": 32, "patch_size": 4}
    transformers.SwinModel(transformers.SwinConfig(**swin)).save_pretrained(tmp_path / "swin")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "swin")
    with pytest.raises(ValueError, match="no token per patch"):
        load_external(f"hf:{tmp_path / 'swin'}", -1, CPU)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_hugging_face(tmp_path / "model", "dinov2")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack layernorm\.weight"):
        load_external(f"hf:{tmp_path / 'model'}", -1, CPU)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_that_the_stage_accepts_is_known_here(library: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError, RuntimeError)):
        load_external(f"{library}:{tmp_path / 'nothing'}@here", -1, CPU)
