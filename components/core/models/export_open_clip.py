# D width, N patches, E embedding.
"""Both towers as files that open_clip loads: `open_clip.create_model_and_transforms("local-dir:<folder>")`.

The image tower is open_clip's own vision transformer without the norm before its blocks, and with the trunk's epsilon.
Its patch projection has no bias; ours is added to each patch's position embedding, which gives the same sum. A word
vocabulary goes along as a `tokenizer.json`, for `open_clip.get_tokenizer`, which needs transformers to read it.
"""

import json
from typing import Any

from safetensors.torch import save
from torch import Tensor

from components.core.data.language_tokenizer import END, word_tokenizer_json
from components.core.data.tokenizer import PAD, START, UNKNOWN, WordTokenizer
from components.core.models.encoder import TextSide
from components.core.models.text_tower import TextTower
from components.core.models.trunk import PIXEL_MEAN, PIXEL_STD, Trunk

BLOCK_NAMES = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
}


def open_clip_files(trunk: Trunk, side: TextSide) -> dict[str, bytes]:
    """Returns the files by name, of an arm whose text tower is CLIP's."""
    tower = side.tower
    assert isinstance(tower, TextTower), "open_clip's own text tower is what these files describe"
    weights = {f"visual.{name}": tensor for name, tensor in _image_weights(trunk).items()}
    weights |= {f"text.{name}": tensor for name, tensor in tower.transformer.state_dict().items()}
    weights |= {"visual.proj": side.projection_DE, "logit_scale": side.logit_scale}
    model = _config(trunk, tower)
    if side.logit_bias is not None:
        weights["logit_bias"] = side.logit_bias
        model["init_logit_bias"] = float(side.logit_bias.detach())
    files = {}
    if isinstance(side.tokenizer, WordTokenizer):
        model["text_cfg"]["hf_tokenizer_name"] = "."  # with a local folder, open_clip looks there
        files = _tokenizer_files(side.tokenizer)
    preprocessing = {
        "mean": list(PIXEL_MEAN),
        "std": list(PIXEL_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": model, "preprocess_cfg": preprocessing}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    files |= {
        "open_clip_config.json": json.dumps(config, indent=1).encode(),
        "open_clip_model.safetensors": save(plain),
    }
    return files


def _config(trunk: Trunk, tower: TextTower) -> dict[str, Any]:
    return {
        "embed_dim": tower.embedding_dim,
        "vision_cfg": {
            "image_size": trunk.image_size_px,
            "patch_size": trunk.patch_size_px,
            "width": trunk.width,
            "layers": trunk.depth,
            "head_width": trunk.width // trunk.num_heads,
            "no_ln_pre": True,
            "norm_kwargs": {"eps": trunk.vit.norm.eps},
        },
        "text_cfg": {
            "context_length": tower.context_length,
            "vocab_size": tower.transformer.vocab_size,
            "width": tower.width,
            "heads": tower.transformer.heads,
            "layers": tower.depth,
        },
        "custom_text": True,  # the text tower as a module of its own, whose names are ours
    }


def _image_weights(trunk: Trunk) -> dict[str, Tensor]:
    ours = trunk.vit.state_dict()
    positions_ND = ours["pos_embed"][0].clone()
    positions_ND[1:] += ours["patch_embed.proj.bias"]
    theirs = {
        "conv1.weight": ours["patch_embed.proj.weight"],
        "class_embedding": ours["cls_token"][0, 0],
        "positional_embedding": positions_ND,
        "ln_post.weight": ours["norm.weight"],
        "ln_post.bias": ours["norm.bias"],
    }
    for number in range(trunk.depth):
        for name, renamed in BLOCK_NAMES.items():
            theirs[f"transformer.resblocks.{number}.{renamed}"] = ours[f"blocks.{number}.{name}"]
    return theirs


def _tokenizer_files(tokenizer: WordTokenizer) -> dict[str, bytes]:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "bos_token": START,
        "eos_token": END,
    }
    return {
        "tokenizer.json": word_tokenizer_json(tokenizer).encode(),
        "tokenizer_config.json": json.dumps(config, indent=1).encode(),
    }
