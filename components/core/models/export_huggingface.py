"""The trunk as files that transformers loads: `ViTModel.from_pretrained("<folder>")`.

The weights have the names under which ViT checkpoints lie on the hub, which every version of transformers reads. The
pooler is the identity, so that `pooler_output` is the CLS token after the final norm, and not what random weights make
of it.
"""

import json

import torch
from safetensors.torch import save
from torch import Tensor

from components.core.models.trunk import PIXEL_MEAN, PIXEL_STD, Trunk

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
LAYER_NAMES = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def huggingface_files(trunk: Trunk) -> dict[str, bytes]:
    """Returns configuration, weights, and the preprocessing with the trunk's own mean and standard deviation."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _weights(trunk).items()}
    return {
        "config.json": json.dumps(_config(trunk), indent=1).encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        "preprocessor_config.json": json.dumps(_preprocessing(trunk.image_size_px), indent=1).encode(),
    }


def _config(trunk: Trunk) -> dict[str, object]:
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "image_size": trunk.image_size_px,
        "patch_size": trunk.patch_size_px,
        "num_channels": 3,
        "hidden_size": trunk.width,
        "intermediate_size": len(trunk.vit.state_dict()["blocks.0.mlp.fc1.bias"]),
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.num_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": trunk.vit.norm.eps,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pooler_output_size": trunk.width,
        "pooler_act": "linear",
    }


def _preprocessing(size_px: int) -> dict[str, object]:
    """Returns CLIP's, which cuts the centred square as the study does; ViT's own squeezes the picture."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size_px},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size_px, "width": size_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
    }


def _weights(trunk: Trunk) -> dict[str, Tensor]:
    ours = trunk.vit.state_dict()
    theirs = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.position_embeddings": ours["pos_embed"],
        "pooler.dense.weight": torch.eye(trunk.width),
        "pooler.dense.bias": torch.zeros(trunk.width),
    }
    for kind in ("weight", "bias"):
        theirs[f"embeddings.patch_embeddings.projection.{kind}"] = ours[f"patch_embed.proj.{kind}"]
        theirs[f"layernorm.{kind}"] = ours[f"norm.{kind}"]
        for number in range(trunk.depth):
            block, layer = f"blocks.{number}", f"encoder.layer.{number}"
            for name, renamed in LAYER_NAMES.items():
                theirs[f"{layer}.{renamed}.{kind}"] = ours[f"{block}.{name}.{kind}"]
            thirds = ours[f"{block}.attn.qkv.{kind}"].chunk(3)
            for name, third in zip(("query", "key", "value"), thirds, strict=True):
                theirs[f"{layer}.attention.attention.{name}.{kind}"] = third
    return theirs
