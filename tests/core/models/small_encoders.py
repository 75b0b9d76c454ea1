"""Small encoders of other libraries, saved as those save them; all have 32 x 32 pixels and 16 patches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

SIZE, PATCH, NUM_PATCHES = 32, 8, 16
HF_SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
HF_PICTURES = {"image_size": SIZE, "patch_size": PATCH}
MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.2, 0.1]

OPEN_CLIP_VISION = {
    "native": {"image_size": SIZE, "patch_size": PATCH, "width": 16, "layers": 3, "head_width": 8},
    "native, average": {"image_size": SIZE, "patch_size": PATCH, "width": 16, "layers": 3, "head_width": 8}
    | {"pool_type": "avg", "final_ln_after_pool": True},
    "timm": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224},
    "timm, attention": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"}
    | {"image_size": 224},
}


def pictures() -> list[Image.Image]:
    """Returns pictures of other sizes and aspects than the models take."""
    generator = numpy.random.default_rng(0)
    sizes = [(40, 60), (64, 48), (32, 32)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=numpy.uint8)) for size in sizes]


def shaken(module: torch.nn.Module) -> Any:
    """Returns the module with biases and norms that are not the ones of the start, in which a mistake wouldn't show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def save_timm(folder: Path, **changed: Any) -> Any:
    """Returns a small vision transformer, saved as timm saves it."""
    import timm

    shape = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 16, "depth": 3, "num_heads": 2} | changed
    model = shaken(timm.create_model("vit_base_patch16_224", num_classes=0, **shape))
    preprocessing = {"input_size": [3, SIZE, SIZE], "crop_pct": 0.9, "interpolation": "bicubic"}
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "model_args": shape,
        "pretrained_cfg": preprocessing
        | {"mean": MEAN, "std": STD, "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


def save_open_clip(folder: Path, vision: dict[str, Any]) -> Any:
    """Returns a small open_clip model, saved as open_clip saves it."""
    import open_clip

    embed_dim = 192 if vision.get("timm_proj") == "none" else 12
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    config = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bilinear"}})
    )
    model = shaken(open_clip.create_model(f"local-dir:{folder}"))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def hf_models() -> dict[str, Callable[[], Any]]:
    """Returns how each small model of transformers is made."""
    import transformers as t

    vision = HF_SHAPE | HF_PICTURES
    text = HF_SHAPE | {"vocab_size": 20, "max_position_embeddings": 8, "projection_dim": 8}
    return {
        "vit": lambda: t.ViTModel(t.ViTConfig(**vision)),
        "vit without pooler": lambda: t.ViTModel(t.ViTConfig(**vision), add_pooling_layer=False),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**vision, mlp_ratio=2)),
        "registers": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**vision, mlp_ratio=2)),
        "clip vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**vision, projection_dim=8)),
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision | {"projection_dim": 8})),
        "siglip vision": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**vision)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision)),
    }


def save_hugging_face(folder: Path, kind: str) -> Any:
    """Returns a small model of transformers, saved as transformers saves it, with its preprocessing."""
    import transformers

    model = shaken(hf_models()[kind]())
    model.save_pretrained(folder)
    processors = {"clip": transformers.CLIPImageProcessor, "siglip": transformers.SiglipImageProcessor}
    processor = processors.get(kind.partition(" ")[0], transformers.ViTImageProcessor)
    size = {"shortest_edge": SIZE} if "clip" in kind and "sig" not in kind else {"height": SIZE, "width": SIZE}
    more = {"crop_size": {"height": SIZE, "width": SIZE}} if "shortest_edge" in size else {}
    processor(size=size, image_mean=MEAN, image_std=STD, **more).save_pretrained(folder)
    return getattr(model, "vision_model", model)
