# B batch, C channels (RGB), H height, W width, P patches, N tokens, D width, E joint embedding.
"""Encoders of other libraries by name: vision transformers of timm, open_clip and transformers.

`timm:<name or path>`, `open_clip:<model>[@<pretrained tag or path>]`, `hf:<name or path>`. Each prepares pictures as
its own configuration says (size, crop, interpolation, mean and standard deviation), and gives its CLS token, or where
it reads none (no such token, attention pooling, open_clip's average pooling) the vector that it pools itself, and the
mean of its patch tokens, without CLS, distillation tokens and registers. Weights come from safetensors only.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from components.core.models.frozen_encoder import (
    CLS,
    PATCH_MEAN,
    POOLED,
    FrozenEncoder,
    Pixels,
    Text,
    Vectors,
    block_index,
    describe,
    on_device,
    one_by_one,
    timm_tokens,
)
from components.core.models.torchvision_cpu import allow_torchvision_import

TIMM, OPEN_CLIP, HUGGING_FACE = "timm:", "open_clip:", "hf:"
VISION_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}  # of models that also have a text tower


def load_external(name: str, layer: int, device: torch.device) -> FrozenEncoder:
    """Returns an encoder by its name, in evaluation mode.

    Args:
        name: With the library in front.
        layer: Block whose output is taken, as in `frozen_encoder`.
        device: Where to compute.

    Raises:
        ValueError: It is no vision transformer, has no such block, or its weights aren't safetensors.
        Exception: What the library raises for a name that it doesn't know or can't fetch.
    """
    allow_torchvision_import()
    library, _, rest = name.partition(":")
    loaders = {TIMM: _timm, OPEN_CLIP: _open_clip, HUGGING_FACE: _hugging_face}
    return loaders[f"{library}:"](rest, layer, device)


@contextlib.contextmanager
def safetensors_only() -> Iterator[None]:
    """Makes a library's fallback to pickled weights a refusal while it loads a model."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("its weights are pickled, which can run any code: give a model with safetensors")

    kept = torch.load, torch.jit.load
    torch.load = torch.jit.load = refuse
    try:
        yield
    finally:
        torch.load, torch.jit.load = kept


def _timm(name: str, layer: int, device: torch.device) -> FrozenEncoder:
    import timm

    data: Any = timm.data
    model: Any
    with safetensors_only():
        model = timm.create_model(_local(name), pretrained=True, num_classes=0)
    _check_timm(model, layer)
    settings = data.resolve_model_data_config(model)
    token, encode = _timm_encoder(model, layer)
    facts = describe(model, [settings, model.pretrained_cfg["architecture"]])
    model.to(device).eval().requires_grad_(False)
    return FrozenEncoder(
        prepare=one_by_one(data.create_transform(**settings, is_training=False)),
        encode=encode,
        text=None,
        vision=model,
        pixels=_pixels(settings["mean"], settings["std"], settings["interpolation"]),
        token=token,
        facts={"library": "timm", "version": timm.__version__} | facts,
    )


def _check_timm(model: Any, layer: int) -> None:
    if not hasattr(model, "blocks") or not hasattr(model, "num_prefix_tokens"):
        raise ValueError(f"{type(model).__name__} gives no patch tokens: give a vision transformer")
    block_index(len(model.blocks), layer)


def _timm_encoder(
    model: Any, layer: int, join: Callable[[Tensor], Tensor] | None = None
) -> tuple[str, Callable[[Tensor], Vectors]]:
    """Returns what stands in `cls`, and the function from pictures to vectors.

    Args:
        model: The transformer.
        layer: Block whose output is taken.
        join: From the model's own pooled vector to the space shared with text.
    """
    has_cls = getattr(model, "cls_token", None) is not None and getattr(model, "attn_pool", None) is None
    token = CLS if has_cls else POOLED if layer == -1 else PATCH_MEAN

    def encode(pictures_BCHW: Tensor) -> Vectors:
        prefix, patches_BPD, final = timm_tokens(model, pictures_BCHW, layer)
        pooled_BD = model.forward_head(final, pre_logits=True)
        own_BD = prefix[:, 0] if token == CLS else pooled_BD if token == POOLED else patches_BPD.mean(dim=1)
        return Vectors(own_BD, patches_BPD, None if join is None else F.normalize(join(pooled_BD), dim=1))

    return token, encode


def _open_clip(name: str, layer: int, device: torch.device) -> FrozenEncoder:
    import open_clip

    model_name, _, pretrained = name.partition("@")
    model_name = _local(model_name)
    if not pretrained and "local-dir:" not in model_name and "hf-hub:" not in model_name:
        raise ValueError(f"{model_name} has no weights of its own: give one of its pretrained tags as {model_name}@tag")
    with safetensors_only():
        model, prepare = open_clip.create_model_from_pretrained(model_name, pretrained or None)
    token, encode = _open_clip_encoder(model, layer)
    settings = model.visual.preprocess_cfg
    facts = describe(model, settings)
    model.to(device).eval().requires_grad_(False)
    return FrozenEncoder(
        prepare=one_by_one(prepare),
        encode=encode,
        text=Text(on_device(model.encode_text, device), open_clip.get_tokenizer(model_name)),
        vision=model.visual,
        pixels=_pixels(settings["mean"], settings["std"], settings["interpolation"]),
        token=token,
        facts={"library": "open_clip", "version": open_clip.__version__} | facts,
    )


def _open_clip_encoder(model: Any, layer: int) -> tuple[str, Callable[[Tensor], Vectors]]:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    if isinstance(visual, TimmModel):
        _check_timm(visual.trunk, layer)
        return _timm_encoder(visual.trunk, layer, lambda pooled_BD: visual.head(visual.trunk.head(pooled_BD)))
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        raise ValueError(f"{type(visual).__name__} gives no CLS or patch tokens: give a vision transformer")
    index = block_index(len(visual.transformer.resblocks), layer)
    token = CLS if visual.pool_type == "tok" else POOLED if layer == -1 else PATCH_MEAN

    def encode(pictures_BCHW: Tensor) -> Vectors:
        last_BND, [taken_BND] = visual.transformer.forward_intermediates(visual._embeds(pictures_BCHW), indices=[index])
        pooled_BD, _ = visual._pool(last_BND)
        patches_BPD = visual.ln_post(last_BND[:, 1:]) if layer == -1 else taken_BND[:, 1:]
        own_BD = pooled_BD if layer == -1 else taken_BND[:, 0] if token == CLS else patches_BPD.mean(dim=1)
        return Vectors(own_BD, patches_BPD, F.normalize(pooled_BD @ visual.proj, dim=1))

    return token, encode


def _hugging_face(name: str, layer: int, device: torch.device) -> FrozenEncoder:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    model = _hugging_face_model(name)
    block_index(model.config.num_hidden_layers, layer)

    def prepare(picture: Image.Image) -> Tensor:
        return processor(picture, return_tensors="pt")["pixel_values"][0]

    token, encode = _hugging_face_encoder(model, layer, prepare(Image.new("RGB", (64, 64)))[None])
    configuration = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    facts = describe(model, [configuration, processor.to_dict()])
    model.to(device)
    return FrozenEncoder(
        prepare=one_by_one(prepare),
        encode=encode,
        text=None,
        vision=model,
        pixels=_hugging_face_pixels(processor),
        token=token,
        facts={"library": "transformers", "version": transformers.__version__} | facts,
    )


def _hugging_face_pixels(processor: Any) -> Pixels:
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return _pixels(mean, std, Image.Resampling(processor.resample).name)


def _hugging_face_model(name: str) -> Any:
    """Returns the vision tower, and refuses one with weights that nobody trained."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    tower = VISION_TOWERS.get(config.model_type)
    if tower is None and not hasattr(config, "patch_size"):
        raise ValueError(f"{config.model_type} gives no patch tokens: give a vision transformer")
    chosen = getattr(transformers, tower or "AutoModel")
    model, loading = chosen.from_pretrained(name, use_safetensors=True, dtype="float32", output_loading_info=True)
    missing = sorted(loading["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None  # transformers adds one with random weights where the checkpoint has none
    elif missing:
        raise ValueError(f"its weights lack {missing[0]}: give a complete model")
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def _hugging_face_encoder(model: Any, layer: int, trial_BCHW: Tensor) -> tuple[str, Callable[[Tensor], Vectors]]:
    """Returns what stands in `cls`, and the function from pictures to vectors, after a trial on one picture."""
    height, width = trial_BCHW.shape[2:]
    size = model.config.patch_size
    patch_height, patch_width = (size, size) if isinstance(size, int) else size
    num_patches = (height // patch_height) * (width // patch_width)
    out = model(pixel_values=trial_BCHW)
    num_prefix = out.last_hidden_state.shape[1] - num_patches
    if out.last_hidden_state.ndim != 3 or num_prefix < 0:
        raise ValueError(f"{type(model).__name__} gives no token per patch: give a vision transformer")
    has_pooled = layer == -1 and out.get("pooler_output") is not None
    token = CLS if num_prefix else POOLED if has_pooled else PATCH_MEAN
    norms_here = model.config.model_type == "clip_vision_model"  # its `last_hidden_state` comes before the final norm

    def encode(pictures_BCHW: Tensor) -> Vectors:
        out = model(pixel_values=pictures_BCHW, output_hidden_states=layer != -1)
        tokens_BND = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
        if norms_here and layer == -1:
            tokens_BND = model.post_layernorm(tokens_BND)
        patches_BPD = tokens_BND[:, num_prefix:]
        own = {CLS: tokens_BND[:, 0], POOLED: out.get("pooler_output"), PATCH_MEAN: patches_BPD.mean(dim=1)}
        return Vectors(own[token], patches_BPD, None)

    return token, encode


def _pixels(mean: Sequence[float], std: Sequence[float], resampling: str) -> Pixels:
    return Pixels(tuple(mean), tuple(std), Image.Resampling[resampling.upper()])


def _local(name: str) -> str:
    """Returns a folder as timm and open_clip want it named; other names as they are."""
    return f"local-dir:{name}" if Path(name).is_dir() else name
