"""The trunk as files that timm loads: `timm.create_model("local-dir:<folder>", pretrained=True)`."""

import json

from safetensors.torch import save

from components.core.models.trunk import PIXEL_MEAN, PIXEL_STD, Trunk

ARCHITECTURE = "vit_base_patch16_224"  # an entry of timm's registry; `model_args` give the shape that is meant


def timm_files(trunk: Trunk) -> dict[str, bytes]:
    """Returns the files by name; the model gives the CLS token after the final norm, as the trunk does.

    Pictures come normalised: the trunk's own mean and standard deviation are in `pretrained_cfg`.
    """
    size_px = trunk.image_size_px
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": trunk.width,
        "global_pool": "token",
        "model_args": {
            "img_size": size_px,
            "patch_size": trunk.patch_size_px,
            "embed_dim": trunk.width,
            "depth": trunk.depth,
            "num_heads": trunk.num_heads,
            "dynamic_img_size": True,
        },
        "pretrained_cfg": {
            "input_size": [3, size_px, size_px],
            "fixed_input_size": False,  # other multiples of the patch get an interpolated position embedding
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trunk.vit.state_dict().items()}
    return {"config.json": json.dumps(config, indent=1).encode(), "model.safetensors": save(weights)}
