"""train_vlm: a frozen encoder learns to speak through a projector and a causal language model."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor

from components.core.data.conversation import TEMPLATES
from components.core.data.dialogue import Dialogue, DialogueBatch, DialogueBatches, dialogue, texts
from components.core.data.shard_samples import Sample, read_samples
from components.core.models.encoder import architecture, device, device_name, load_encoder
from components.core.models.language_model import (
    TINY,
    LanguageModel,
    load_language_model,
    tiny_language_model,
)
from components.core.models.projector import Projector
from components.core.models.trunk import weights_sha256
from components.core.models.vision_tower import VisionTower, own_tower
from components.core.models.vlm import VisionLanguageModel
from components.core.models.vlm_files import save_vlm
from components.core.objectives.objective import Objective
from components.core.objectives.vlm import AlignObjective, TextObjective, TuneObjective
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Curve, Diverged, Interrupted, LoopConfig, train
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.stage import Outcome, Stage
from components.train_vlm.params import Params

CURVE = "curve.json"
BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-8
MAX_NONFINITE_STEPS = 10
PICTURES_AT_ONCE = 256


def run(params: Params, stage: Stage) -> Outcome:
    """Trains on text alone (tiny model), then the projector, then both; writes the three models."""
    manifest = stage.inputs["shards"]
    if manifest.summary.get("purpose") != "instruct":
        purpose = manifest.summary.get("purpose")
        raise BadInput(f"--shards={params.shards} was built for {purpose}: give instruct shards.")
    encoder, facts = load_encoder(stage.folder("checkpoint"))
    seed = params.seed + facts["replicate"]
    samples = list(read_samples(stage.folder("shards"), manifest))
    language_model = _language_model(params, samples, seed).to(device())
    dialogues, num_left_out = _dialogues(params, samples, language_model)
    tower = own_tower(encoder.to(device()), {name: facts[name] for name in ("arm", "seed", "replicate")})
    features_IND = _features(tower, samples, stage)
    padding_id = language_model.tokenizer.pad_token_id
    batches = DialogueBatches(
        dialogues, padding_id=language_model.end_id if padding_id is None else padding_id, seed=seed
    )
    curves = {}
    if params.language_model == TINY and params.text_steps:
        curves["text"] = _phase(
            params,
            stage,
            "text",
            TextObjective(language_model),
            lambda start: batches.about_words(
                start,
                batch_size=params.text_batch_size,
                num_questions=params.questions_per_picture,
                num_words=tower.num_tokens,
            ),
        )
    language_model_sha256 = weights_sha256(language_model.model)
    projector = Projector(in_width=tower.width, out_width=language_model.width, seed=seed).to(device())
    projector_sha256 = weights_sha256(projector)
    vlm = _vlm(params, tower, projector, language_model)
    language_model.requires_grad_(False)
    curves["align"] = _phase(
        params,
        stage,
        "align",
        AlignObjective(projector, language_model),
        lambda start: batches.about_captions(start, features=features_IND, batch_size=params.align_batch_size),
    )
    language_model.requires_grad_(True)
    curves["tune"] = _phase(
        params,
        stage,
        "tune",
        TuneObjective(projector, language_model),
        lambda start: batches.about_questions(
            start,
            features=features_IND,
            batch_size=params.tune_batch_size,
            num_questions=params.questions_per_picture,
        ),
    )
    files = save_vlm(stage.out, vlm)
    stage.out.write_json(CURVE, {name: _columns(curve) for name, curve in curves.items()})
    checkpoints = stage.out.folder("checkpoints")
    for name in checkpoints.names():
        checkpoints.delete(name)
    last = curves["tune"][-1][1]
    return Outcome(
        kind="VlmManifest",
        files=[*files, CURVE],
        counts={
            "pictures": len(dialogues),
            "questions": sum(len(found.questions) for found in dialogues),
            "questions_too_long": num_left_out,
        },
        cost={"device": device_name()},
        summary={
            "arm": facts["arm"],
            "replicate": facts["replicate"],
            "architecture": architecture(encoder),
            "checkpoint": stage.inputs["checkpoint"].digest,
            "parity": {
                "shards": manifest.digest,
                "dialogues": _sha256(dialogues),
                "language_model": language_model_sha256,
                "projector_init": projector_sha256,
                "knobs": params.digest(),
            },
        },
        metrics={"tune_loss": last["loss"], "tune_reply_accuracy": last["reply_accuracy"]},
    )


def _language_model(params: Params, samples: list[Sample], seed: int) -> LanguageModel:
    if params.language_model == TINY:
        return tiny_language_model(
            texts(samples),
            width=params.tiny_width,
            depth=params.tiny_depth,
            num_heads=params.tiny_heads,
            seed=seed,
        )
    try:
        return load_language_model(params.language_model)
    except ValueError as error:
        raise BadInput(f"--language_model: {error}; give `{TINY}`, or a name or path of a causal one.") from error


def _vlm(
    params: Params, tower: VisionTower, projector: Projector, language_model: LanguageModel
) -> VisionLanguageModel:
    try:
        return VisionLanguageModel(tower, projector, language_model, TEMPLATES["bare"])
    except ValueError as error:
        raise BadInput(f"--language_model={params.language_model}: {error}; give another one.") from error


def _dialogues(params: Params, samples: list[Sample], language_model: LanguageModel) -> tuple[list[Dialogue], int]:
    """Returns one dialogue per picture, and how many questions are longer than max_length."""
    found = [dialogue(sample, language_model, params.max_length) for sample in samples]
    num_left_out = sum(left_out for _, left_out in found)
    empty = sum(not kept.questions for kept, _ in found)
    if empty:
        raise BadInput(
            f"{empty} of the {len(samples)} pictures in --shards={params.shards} have no question of at most "
            f"--max_length={params.max_length} tokens ({num_left_out} questions are longer): raise it, or build "
            "shards with questions."
        )
    return [kept for kept, _ in found], num_left_out


@torch.inference_mode()
def _features(tower: VisionTower, samples: list[Sample], stage: Stage) -> Tensor:
    """Returns every picture's image tokens, (I, N, D): the encoder is frozen and pictures are not augmented."""
    parts = []
    with stage.progress(len(samples), "picture") as bar:
        for start in range(0, len(samples), PICTURES_AT_ONCE):
            if stage.stopping():
                raise Preempted("features are not kept; the next run computes them again")
            part = samples[start : start + PICTURES_AT_ONCE]
            pictures_BCSS = torch.from_numpy(numpy.stack([tower.prepare(sample.image) for sample in part]))
            parts.append(tower(pictures_BCSS.to(device())).cpu())
            bar.advance(len(part))
    return torch.cat(parts).clone()


def _phase(
    params: Params, stage: Stage, name: str, objective: Objective, batches: Callable[[int], Iterator[DialogueBatch]]
) -> Curve:
    """Trains one phase, or restores it where it is done; its last checkpoint is its result."""
    num_steps: int = getattr(params, f"{name}_steps")
    config = LoopConfig(
        num_steps=num_steps,
        learning_rate=getattr(params, f"{name}_learning_rate"),
        warmup_steps=round(params.warmup_fraction * num_steps),
        beta1=BETA1,
        beta2=BETA2,
        epsilon=EPSILON,
        clip_norm=params.clip_norm,
        checkpoint_every_steps=params.checkpoint_every_steps,
        log_every_steps=params.log_every_steps,
        max_nonfinite_steps=MAX_NONFINITE_STEPS,
        is_bfloat16=torch.cuda.is_available(),
    )
    checkpoints = Checkpoints(stage.out.folder(f"checkpoints/{name}"))
    with stage.progress(num_steps, f"{name} step") as bar:

        def report(step: int, metrics: dict[str, float]) -> None:
            bar.advance(step - bar.done, **{k: v for k, v in metrics.items() if k in ("loss", "reply_accuracy")})
            stage.metrics(step, {f"{name}_{key}": value for key, value in metrics.items()})

        try:
            curve = train(
                objective, batches, config, checkpoints=checkpoints, report=report, should_stop=stage.stopping
            )
        except Interrupted as error:
            raise Preempted(f"{name}: {error}") from error
        except Diverged as error:
            raise StageFailure(f"{name}: {error}") from error
        except ValueError as error:
            raise BadInput(f"{name}: {error}") from error
    if stage.stopping():
        raise Preempted(f"{name} is done and saved")
    stage.log("trained", phase=name, steps=num_steps, **{k: round(v, 4) for k, v in curve[-1][1].items()})
    return curve


def _columns(curve: Curve) -> dict[str, Any]:
    points = [(step, values) for step, values in curve if "loss" in values]
    return {
        "steps": [step for step, _ in points],
        "values": {name: [values[name] for _, values in points] for name in points[0][1]},
    }


def _sha256(dialogues: list[Dialogue]) -> str:
    """Returns the hash of all token ids that are trained on, in their order."""
    lists = [[found.caption.reply, [[turn.prompt, turn.reply] for turn in found.questions]] for found in dialogues]
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()
