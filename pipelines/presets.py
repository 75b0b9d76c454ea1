"""Recipes of the study: what each is for, costs and should score, and the numbers that differ from the defaults.

Marks of numbers from the paper's side (STUDY.md): P stated by the authors, S by a secondary source, I inferred.
"""

import dataclasses
from collections.abc import Mapping

from components.runtime.errors import BadInput
from components.runtime.params import unknown_name
from pipelines.knobs import Knobs
from pipelines.placement import GPU_CLUSTER, LAPTOP, ONE_GPU_NODE, Hardware


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One recipe.

    Attributes:
        about: What it is for.
        cost: What a run takes.
        score: The number that it should reach.
        knobs: The numbers that differ from the stages' defaults, by stage or task.
        hardware: What each stage asks of a cluster.
    """

    about: str
    cost: str
    score: str
    knobs: Knobs
    hardware: Mapping[str, Hardware]


PRESETS = {
    "smoke": Preset(
        about="Every stage once, on data too small to learn from.",
        cost="Under two minutes on two CPU cores.",
        score="None: only that every stage writes its manifest, and the report its page.",
        hardware=LAPTOP,
        knobs={
            "build_shards": {"samples_per_shard": 64},
            "build_shards/pretrain": {"num_samples": 256},
            "build_shards/probe": {"num_samples": 400},
            "build_shards/instruct": {"num_samples": 128},
            "build_shards/benchmark": {"num_samples": 64},
            "pretrain": {
                "num_samples_seen": 640,
                "probe_every_steps": 5,
                "warmup_steps": 2,
                "width": 48,
                "depth": 2,
                "text_depth": 1,
                "text_width": 48,
                "dino_out_dim": 64,
                "dino_num_local_crops": 2,
                "dino_teacher_warmup_steps": 5,
                "dino_freeze_last_layer_steps": 2,
                "checkpoint_every_steps": 5,
                "log_every_steps": 1,
            },
            "evaluate": {"probe_epochs": 5},
            "analyze_embeddings": {"num_pairs": 4, "max_pictures": 200, "pair_quantile": 0.8},
            "train_vlm": {
                "tiny_width": 32,
                "text_steps": 5,
                "align_steps": 5,
                "align_batch_size": 16,
                "tune_steps": 5,
                "tune_batch_size": 16,
                "log_every_steps": 1,
            },
        },
    ),
    "laptop": Preset(
        about="The study's direction in the synthetic world: what each encoder sees, as numbers.",
        cost="About seven minutes on two CPU cores, ten at most.",
        score="Linear probe, CLIP and DINO: word 100, 16 to 21; style 55 to 68, 69 to 78; object 44 to 81, 62 to 67.",
        hardware=LAPTOP,
        knobs={
            "build_shards/pretrain": {"num_samples": 8_000},
            "build_shards/probe": {"num_samples": 4_000},
            "build_shards/instruct": {"num_samples": 2_000},
            "build_shards/benchmark": {"num_samples": 500},
            "build_shards": {"image_size_px": 40},
            "pretrain": {
                "num_samples_seen": 64_000,
                "probe_every_steps": 100,
                "image_size_px": 40,
                "width": 64,
                "num_heads": 2,
                "warmup_steps": 30,
                "checkpoint_every_steps": 200,
                "log_every_steps": 10,
                "clip_crop_scale_min": 1.0,  # a crop of 0.9 moves letters by 2 px of 6: read late, or not at all
                "clip_embed_dim": 64,
                "text_context": 12,
                "text_width": 64,
                "text_heads": 2,
                "dino_num_local_crops": 2,
                "dino_head_bottleneck": 256,
                "dino_global_scale_min": 0.6,
                "dino_local_scale_min": 0.25,
                "dino_local_scale_max": 0.5,
                "dino_hue": 0.28,
                "dino_grey_probability": 0.35,
                "dino_teacher_temperature_start": 0.02,
                "dino_teacher_temperature_end": 0.02,
                "dino_teacher_momentum": 0.96,
                "dino_centre_momentum": 0.1,
                "dino_freeze_last_layer_steps": 300,
            },
            "analyze_embeddings": {"pair_quantile": 0.95},
            "train_vlm": {
                "tiny_width": 64,
                "tiny_depth": 1,
                "text_steps": 450,
                "text_batch_size": 32,
                "align_steps": 100,
                "align_learning_rate": 3e-3,
                "tune_steps": 1_500,
                "tune_learning_rate": 3e-3,
                "tune_batch_size": 32,
                "questions_per_picture": 4,
            },
        },
    ),
    "small": Preset(
        about="ViT-S/16 at 224 px on one GPU, on pictures of your own or a slice of DataComp.",
        cost="By arithmetic: half an H100-hour for CLIP, 1.6 for DINO, 0.2 for each language model.",
        score="Not measured yet.",
        hardware=ONE_GPU_NODE,
        knobs={
            "build_shards": {"image_size_px": 256, "samples_per_shard": 5_000, "num_workers": 16},
            "build_shards/pretrain": {"num_samples": 1_000_000},
            "build_shards/probe": {"num_samples": 50_000},
            "build_shards/instruct": {"num_samples": 100_000},
            "build_shards/benchmark": {"num_samples": 9_018},
            "pretrain": {
                "image_size_px": 224,
                "patch_size_px": 16,
                "width": 384,
                "depth": 12,
                "num_heads": 6,
                "num_samples_seen": 20_000_000,
                "batch_size": 1024,
                "num_streams": 64,
                "cache_gib": 0.0,
                "num_reader_threads": 12,
                "warmup_steps": 1_000,
                "checkpoint_every_steps": 1_000,
                "log_every_steps": 50,
                "clip_embed_dim": 384,
                "text_tokenizer": "open_clip",
                "text_context": 77,
                "text_width": 384,
                "text_depth": 12,
                "text_heads": 6,
                "lm_name": "FacebookAI/roberta-base",
                "lm_pooling": "cls",
                "lm_trainable_layers": 4,
                "dino_out_dim": 16_384,
                "dino_head_hidden": 2_048,
                "dino_head_bottleneck": 256,
                "dino_num_local_crops": 8,
                "dino_local_size_px": 96,
                "dino_teacher_warmup_steps": 3_000,
                "dino_freeze_last_layer_steps": 1_000,
            },
            "evaluate": {"probe_batch_size": 2_048},
            "train_vlm": {
                "language_model": "HuggingFaceTB/SmolLM2-360M-Instruct",
                "align_steps": 1_000,
                "tune_steps": 3_000,
                "tune_learning_rate": 2e-5,
                "tune_batch_size": 32,
                "max_length": 1_024,
                "num_reader_threads": 12,
            },
        },
    ),
    "paper": Preset(
        about="The paper's scale: ViT-B/16 at 224 px on 10 million pictures of DataComp, 200 million samples seen.",
        cost="By arithmetic: 16 H100-hours for CLIP, 57 for DINO, at most 63 for each language model.",
        score="ImageNet linear probe CLIP 65.8, DINO 66.4 (S), each within 2 points; OCR groups CLIP ahead.",
        hardware=GPU_CLUSTER,
        knobs={
            "build_shards": {"image_size_px": 256, "samples_per_shard": 10_000, "num_workers": 32},
            "build_shards/pretrain": {"num_samples": 10_000_000},  # P: 10M pictures of DataComp
            "build_shards/probe": {"num_samples": 1_331_167},  # ImageNet-1k: 1,281,167 to train, 50,000 to test
            "build_shards/instruct": {"num_samples": 665_000},  # LLaVA-1.5's second stage
            "build_shards/benchmark": {"num_samples": 9_018},  # VMCBench: dev 1,000 and test 8,018
            "pretrain": {
                "image_size_px": 224,  # P: ViT-B/16
                "patch_size_px": 16,  # P
                "width": 768,  # P: ViT-B
                "depth": 12,  # P: ViT-B
                "num_heads": 12,  # P: ViT-B
                "num_samples_seen": 200_000_000,  # S: 20 epochs
                "batch_size": 8_192,  # I
                "num_streams": 64,
                "cache_gib": 0.0,
                "num_reader_threads": 12,
                "warmup_steps": 1_000,  # I
                "checkpoint_every_steps": 500,
                "log_every_steps": 50,
                "clip_embed_dim": 512,  # I: open_clip's ViT-B-16
                "text_tokenizer": "open_clip",  # I
                "text_context": 77,  # I: open_clip's ViT-B-16
                "text_width": 512,  # I: open_clip's ViT-B-16
                "text_depth": 12,  # I: open_clip's ViT-B-16
                "text_heads": 8,  # I: open_clip's ViT-B-16
                "lm_name": "FacebookAI/roberta-base",  # P: RoBERTa; I: its base size
                "lm_pooling": "cls",  # I
                "lm_trainable_layers": 10,  # P: the last 10, or the last 4
                "dino_out_dim": 65_536,  # I: main_dino.py
                "dino_head_hidden": 2_048,  # I: main_dino.py
                "dino_head_bottleneck": 256,  # I: main_dino.py
                "dino_num_local_crops": 8,  # I: main_dino.py
                "dino_local_size_px": 96,  # I: main_dino.py
                "dino_teacher_warmup_steps": 2_400,  # I: a tenth of the run; the stock 10 epochs would be half of it
                "dino_freeze_last_layer_steps": 1_220,  # I: main_dino.py's first epoch
            },
            "evaluate": {"probe_batch_size": 2_048},  # P: the authors' public code
            "train_vlm": {
                "language_model": "lmsys/vicuna-7b-v1.5",  # P: LLaVA-1.5; I: its 7B size
                "align_steps": 2_180,  # I: LLaVA-1.5: 558K captions in batches of 256
                "align_batch_size": 256,  # I: LLaVA-1.5
                "tune_steps": 5_195,  # I: LLaVA-1.5: 665K conversations in batches of 128
                "tune_learning_rate": 2e-5,  # I: LLaVA-1.5
                "tune_batch_size": 128,  # I: LLaVA-1.5
                "max_length": 2_048,  # I: LLaVA-1.5
                "parallel": "fsdp",
                "checkpoint_activations": True,
                "num_reader_threads": 16,
            },
        },
    ),
}


def preset(name: str) -> Preset:
    """Returns the recipe of that name.

    Raises:
        BadInput: There is none; the text offers the nearest.
    """
    if name not in PRESETS:
        raise BadInput(unknown_name(f"--preset={name}", [f"--preset={known}" for known in PRESETS]))
    return PRESETS[name]
