"""The recipes: what the paper's preset must hold, whatever the defaults for a laptop become."""

import pytest

from pipelines.design import ARMS, Design
from pipelines.knobs import problems, value
from pipelines.presets import PRESETS

PAPER = {  # STUDY.md 3
    "pretrain": {
        "image_size_px": 224,
        "patch_size_px": 16,
        "width": 768,
        "depth": 12,
        "num_heads": 12,
        "learning_rate": 1e-3,
        "num_samples_seen": 200_000_000,
        "batch_size": 8192,
        "warmup_steps": 1000,
        "beta2": 0.95,
        "clip_norm": 1.0,
        "clip_weight_decay": 0.2,
        "clip_crop_scale_min": 0.9,
        "text_tokenizer": "open_clip",
        "text_context": 77,
        "text_width": 512,
        "text_depth": 12,
        "text_heads": 8,
        "dino_out_dim": 65_536,
        "dino_head_hidden": 2048,
        "dino_head_bottleneck": 256,
        "dino_num_local_crops": 8,
        "dino_local_size_px": 96,
        "dino_global_scale_min": 0.4,
        "dino_local_scale_min": 0.05,
        "dino_grey_probability": 0.2,
        "dino_student_temperature": 0.1,
        "dino_teacher_temperature_start": 0.04,
        "dino_teacher_temperature_end": 0.07,
        "dino_teacher_momentum": 0.996,
        "dino_centre_momentum": 0.9,
        "dino_weight_decay_start": 0.04,
        "dino_weight_decay_end": 0.4,
    },
    "evaluate": {"probe_epochs": 50, "probe_batch_size": 2048, "knn_temperature": 0.07},
    "train_vlm": {
        "align_learning_rate": 1e-3,
        "align_batch_size": 256,
        "tune_learning_rate": 2e-5,
        "tune_batch_size": 128,
        "warmup_fraction": 0.03,
        "max_length": 2048,
    },
}


@pytest.mark.parametrize("stage", PAPER)
def test_the_papers_preset_is_the_papers_recipe(stage: str) -> None:
    knobs = PRESETS["paper"].knobs
    assert {name: value(knobs, stage, name) for name in PAPER[stage]} == PAPER[stage]


def test_a_last_layer_is_frozen_for_an_epoch_and_temperatures_warm_up_within_the_run() -> None:
    knobs = PRESETS["paper"].knobs
    batch = value(knobs, "pretrain", "batch_size")
    steps_per_epoch = value(knobs, "build_shards/pretrain", "num_samples") / batch
    assert value(knobs, "pretrain", "dino_freeze_last_layer_steps") == pytest.approx(steps_per_epoch, abs=1)
    assert value(knobs, "pretrain", "dino_teacher_warmup_steps") < value(knobs, "pretrain", "num_samples_seen") / batch


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_is_for_and_costs_and_should_score(name: str) -> None:
    preset = PRESETS[name]
    assert all(text.endswith(".") and len(text) > 10 for text in (preset.about, preset.cost, preset.score))
    assert {task.partition("/")[0] for task in Design().tasks} == preset.hardware.keys()
    assert problems(preset.knobs, Design(arms=ARMS), "synthetic", 0) == []
