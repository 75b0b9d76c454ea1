"""The arms: which objective a name stands for, and what is not equal between them."""

from collections.abc import Iterable
from typing import Any

from components.core.data.augment import View
from components.core.data.tokenizer import Tokenizer, build_tokenizer
from components.core.models.encoder import TextSide
from components.core.models.language_tower import LanguageTower, build_language_tower, layers_of
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Objective
from components.core.objectives.slip import SlipObjective
from components.core.training.flops import language_model_training_flops
from components.pretrain.cost import training_flops
from components.pretrain.params import Params

JITTER = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2}  # P: main_dino.py
NUM_GLOBAL_CROPS = 2


def build_objective(params: Params, trunk: Trunk, captions: Iterable[str]) -> Objective:
    """Returns the objective of `params.arm` around the common trunk.

    Raises:
        ValueError: The language model can't be loaded or used.
    """
    if params.arm == "dino":
        return _dino(params, trunk)
    if params.arm == "slip":
        num_views = NUM_GLOBAL_CROPS + params.dino_num_local_crops
        clip = _clip(params, trunk, captions, view_index=num_views)
        return SlipObjective(clip, _dino(params, trunk), ssl_scale=params.slip_ssl_scale)
    return _clip(params, trunk, captions, view_index=0)


def text_side(objective: Objective) -> TextSide | None:
    """Returns what a language arm has beside its trunk; None for an arm without."""
    clip = objective.clip if isinstance(objective, SlipObjective) else objective
    if not isinstance(clip, ClipObjective):
        return None
    bias = getattr(clip.pair_loss, "logit_bias", None)
    return TextSide(clip.text_tower, clip.tokenizer, clip.projection_DE, clip.logit_scale, bias)


def _clip(params: Params, trunk: Trunk, captions: Iterable[str], view_index: int) -> ClipObjective:
    tower, tokenizer = _text(params, captions)
    return ClipObjective(
        trunk,
        tower,
        tokenizer,
        view=View(size_px=params.image_size_px, scale_low=params.clip_crop_scale_min, scale_high=1.0),
        seed=params.own_seed,
        weight_decay=params.clip_weight_decay,
        pair_loss="sigmoid" if params.arm == "siglip" else "softmax",
        view_index=view_index,
    )


def _text(params: Params, captions: Iterable[str]) -> tuple[TextTower | LanguageTower, Tokenizer]:
    if params.arm == "clip_lm":
        return build_language_tower(
            params.lm_name,
            captions,
            revision=params.lm_revision,
            pooling=params.lm_pooling,
            num_trainable_layers=params.lm_trainable_layers,
            embedding_dim=params.clip_embed_dim,
            context_length=params.text_context,
            seed=params.own_seed,
        )
    tokenizer = build_tokenizer(params.text_tokenizer, captions, context_length=params.text_context)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size,
        context_length=params.text_context,
        width=params.text_width,
        depth=params.text_depth,
        num_heads=params.text_heads,
        embedding_dim=params.clip_embed_dim,
        seed=params.own_seed,
    )
    return tower, tokenizer


def _dino(params: Params, trunk: Trunk) -> DinoObjective:
    return DinoObjective(
        trunk,
        num_steps=params.num_steps,
        seed=params.own_seed,
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


def differences(params: Params, side: TextSide | None) -> dict[str, Any]:
    """Returns what belongs to the arm's objective and can't be equal: views, decay, FLOP per sample."""
    language = {
        "supervision": "captions",
        "views_per_sample": f"1 x {params.image_size_px} px",
        "augmentation": f"crop of {params.clip_crop_scale_min:g} to 1 of the area",
        "weight_decay": f"{params.clip_weight_decay:g}",
    }
    crops = f"{params.dino_num_local_crops} x {params.dino_local_size_px} px"
    images = {
        "supervision": "none",
        "views_per_sample": f"{NUM_GLOBAL_CROPS} x {params.image_size_px} px, {crops}",
        "augmentation": (
            f"crops of {params.dino_local_scale_min:g} to {params.dino_local_scale_max:g} and "
            f"{params.dino_global_scale_min:g} to 1 of the area, flip, colour jitter, grey, blur, solarise"
        ),
        "weight_decay": f"{params.dino_weight_decay_start:g} to {params.dino_weight_decay_end:g}",
    }
    both = {
        "supervision": "captions, and the pictures themselves",
        "views_per_sample": f"{language['views_per_sample']}; {images['views_per_sample']}",
        "augmentation": f"{language['augmentation']}; {images['augmentation']}",
        "weight_decay": language["weight_decay"],
    }
    of_arm = {"dino": images, "slip": both}.get(params.arm, language)
    tower = side.tower if side else None
    language_model_flops = _language_model_flops(tower) if isinstance(tower, LanguageTower) else 0
    return of_arm | {"train_flops_per_sample": training_flops(params, language_model_flops=language_model_flops)}


def _language_model_flops(tower: LanguageTower) -> int:
    """Returns the FLOP of the longest caption."""
    matrices = (weight for weight in layers_of(tower.model)[0].parameters() if weight.ndim == 2)
    return language_model_training_flops(
        num_tokens=tower.context_length,
        width=tower.width,
        depth=tower.depth,
        layer_parameters=sum(weight.numel() for weight in matrices),
        num_trainable_layers=tower.num_trainable_layers,
    )
