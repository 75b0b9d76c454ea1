"""The arms: which objective a name stands for, and what is not equal between them."""

from collections.abc import Iterable
from typing import Any

from components.core.data.augment import View
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Objective
from components.core.training.flops import clip_training_flops, dino_training_flops
from components.pretrain.params import Params

JITTER = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2}  # P: main_dino.py


def build_objective(params: Params, trunk: Trunk, captions: Iterable[str]) -> Objective:
    """Returns the objective of `params.arm` around the common trunk."""
    return _clip(params, trunk, captions) if params.arm == "clip" else _dino(params, trunk)


def _clip(params: Params, trunk: Trunk, captions: Iterable[str]) -> ClipObjective:
    tokenizer = build_tokenizer(params.text_tokenizer, captions, context_length=params.text_context)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size,
        context_length=params.text_context,
        width=params.text_width,
        depth=params.text_depth,
        num_heads=params.text_heads,
        embedding_dim=params.clip_embed_dim,
        seed=params.seed,
    )
    view = View(size_px=params.image_size_px, scale_low=params.clip_crop_scale_min, scale_high=1.0)
    return ClipObjective(trunk, tower, tokenizer, view=view, seed=params.seed, weight_decay=params.clip_weight_decay)


def _dino(params: Params, trunk: Trunk) -> DinoObjective:
    return DinoObjective(
        trunk,
        num_steps=params.num_steps,
        seed=params.seed,
        global_views=(_dino_view(params, blur=1.0, solarise=0.0), _dino_view(params, blur=0.1, solarise=0.2)),
        local_view=_dino_view(params, blur=0.5, solarise=0.0, is_local=True),
        num_local=params.dino_num_local_crops,
        out_dim=params.dino_out_dim,
        hidden=params.dino_head_hidden,
        bottleneck=params.dino_head_bottleneck,
        student_temperature=params.dino_student_temperature,
        teacher_temperature_start=params.dino_teacher_temperature_start,
        teacher_temperature=params.dino_teacher_temperature_end,
        teacher_warmup_steps=params.dino_teacher_warmup_steps,
        momentum_start=params.dino_teacher_momentum,
        centre_momentum=params.dino_centre_momentum,
        freeze_steps=params.dino_freeze_last_layer_steps,
        weight_decay_start=params.dino_weight_decay_start,
        weight_decay_end=params.dino_weight_decay_end,
    )


def _dino_view(params: Params, *, blur: float, solarise: float, is_local: bool = False) -> View:
    """Returns one of DINO's views; blur and solarise probabilities are main_dino.py's."""
    return View(
        size_px=params.dino_local_size_px if is_local else params.image_size_px,
        scale_low=params.dino_local_scale_min if is_local else params.dino_global_scale_min,
        scale_high=params.dino_local_scale_max if is_local else 1.0,
        flip=params.dino_flip_probability,
        hue=params.dino_hue,
        grey=params.dino_grey_probability,
        blur=blur,
        solarise=solarise,
        **JITTER,
    )


def differences(params: Params) -> dict[str, Any]:
    """Returns what belongs to the arm's objective and can't be equal: views, decay, FLOP per sample."""
    trunk = {
        "image_size_px": params.image_size_px,
        "patch_size_px": params.patch_size_px,
        "width": params.width,
        "depth": params.depth,
    }
    if params.arm == "clip":
        return {
            "supervision": "captions",
            "views_per_sample": f"1 x {params.image_size_px} px",
            "augmentation": f"crop of {params.clip_crop_scale_min:g} to 1 of the area",
            "weight_decay": f"{params.clip_weight_decay:g}",
            "train_flops_per_sample": clip_training_flops(
                **trunk,
                context_length=params.text_context,
                text_width=params.text_width,
                text_depth=params.text_depth,
            ),
        }
    return {
        "supervision": "none",
        "views_per_sample": (
            f"2 x {params.image_size_px} px, {params.dino_num_local_crops} x {params.dino_local_size_px} px"
        ),
        "augmentation": (
            f"crops of {params.dino_local_scale_min:g} to {params.dino_local_scale_max:g} and "
            f"{params.dino_global_scale_min:g} to 1 of the area, flip, colour jitter, grey, blur, solarise"
        ),
        "weight_decay": f"{params.dino_weight_decay_start:g} to {params.dino_weight_decay_end:g}",
        "train_flops_per_sample": dino_training_flops(
            **trunk,
            local_size_px=params.dino_local_size_px,
            num_local=params.dino_num_local_crops,
            hidden=params.dino_head_hidden,
            bottleneck=params.dino_head_bottleneck,
            out_dim=params.dino_out_dim,
        ),
    }
