"""What a training costs, by arithmetic: without PyTorch, so that a plan can be made anywhere."""

from components.core.training.flops import (
    clip_lm_training_flops,
    clip_training_flops,
    dino_training_flops,
    slip_training_flops,
)
from components.pretrain.params import Params


def training_flops(params: Params, *, language_model_flops: int = 0) -> int:
    """Returns the training FLOP of one sample.

    Args:
        params: The arm's.
        language_model_flops: Of the text, for `clip_lm`; 0 leaves it out, because only the model itself tells its size.
    """
    trunk = {name: getattr(params, name) for name in ("image_size_px", "patch_size_px", "width", "depth")}
    if params.arm == "clip_lm":
        return clip_lm_training_flops(**trunk, text_training_flops=language_model_flops)
    clip = clip_training_flops(
        **trunk, context_length=params.text_context, text_width=params.text_width, text_depth=params.text_depth
    )
    dino = dino_training_flops(
        **trunk,
        local_size_px=params.dino_local_size_px,
        num_local=params.dino_num_local_crops,
        hidden=params.dino_head_hidden,
        bottleneck=params.dino_head_bottleneck,
        out_dim=params.dino_out_dim,
    )
    if params.arm == "slip":
        return slip_training_flops(clip_flops=clip, dino_flops=dino)
    return dino if params.arm == "dino" else clip
