"""train_vlm: a frozen encoder learns to speak through a projector and a causal language model; one rank, or several."""

from typing import Any

import torch

from components.core.models.encoder import device, device_name, load_encoder
from components.core.models.lora import add_lora, merge_lora
from components.core.models.projector import Projector
from components.core.models.trunk import weights_sha256
from components.core.models.vision_tower import VisionTower, external_tower, own_tower
from components.core.models.vlm import VisionLanguageModel
from components.core.models.vlm_files import save_vlm
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints, Settings
from components.core.training.loop import Curve, Diverged, Interrupted, LoopConfig, columns, train
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.stage import Outcome, Stage
from components.runtime.training_metrics import TrainingMetrics
from components.train_vlm.lessons import Lesson, Lessons
from components.train_vlm.params import TINY, Params
from components.train_vlm.published import PublishedLessons
from components.train_vlm.tiny import TinyLessons

CURVE = "curve.json"
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # LLaVA-1.5's
TINY_BETA2 = 0.98  # hundreds of steps are too few for a memory of a thousand
MAX_NONFINITE_STEPS = 10
CHANGEABLE = frozenset(
    {"checkpoint_activations", "checkpoint_every_steps", "log_every_steps", "num_micro_batches", "parallel"}
)


def run(params: Params, stage: Stage) -> Outcome | None:
    """Trains, each training from its newest checkpoint where there is one, and writes the three models.

    Returns:
        The outcome of the first rank; None of the others.
    """
    try:
        distributed.start()
        return _run(params, stage)
    except Interrupted as error:
        raise Preempted(str(error)) from error
    except (Diverged, distributed.GroupNotFormed) as error:
        raise StageFailure(str(error)) from error
    except ValueError as error:
        raise BadInput(str(error)) from error
    finally:
        distributed.end()


def _run(params: Params, stage: Stage) -> Outcome | None:
    if "shards" in stage.inputs and (purpose := stage.inputs["shards"].summary.get("purpose")) != "instruct":
        raise BadInput(f"--shards={params.shards} was built for {purpose}: give instruct shards.")
    tower, about = _tower(params, stage)
    seed = params.seed + about["replicate"]
    kind = TinyLessons if params.language_model == TINY else PublishedLessons
    lessons: Lessons = kind(params, stage, tower, seed)
    curves = {}
    if reading := lessons.read():
        curves["text"] = _train(params, stage, reading)
    language_model = lessons.language_model
    projector = Projector(in_width=tower.width, out_width=language_model.width, seed=seed).to(device())
    parity = {
        "data": lessons.digest(),
        "language_model": weights_sha256(language_model.model),
        "projector_init": weights_sha256(projector),
        "knobs": params.digest(),
    }
    vlm = _vlm(params, tower, projector, lessons)
    language_model.requires_grad_(False)
    curves["align"] = _train(params, stage, lessons.align(projector))
    language_model.requires_grad_(True)
    if params.lora_rank:
        add_lora(language_model.model, rank=params.lora_rank, alpha=params.lora_alpha, seed=seed)
    curves["tune"] = _train(params, stage, lessons.tune(projector))
    if params.lora_rank:
        merge_lora(language_model.model)
    if distributed.world().rank:
        return None
    return _outcome(stage, vlm, curves, lessons.counts(), {**about, "parity": parity})


def _outcome(
    stage: Stage, vlm: VisionLanguageModel, curves: dict[str, Curve], counts: dict[str, Any], summary: dict[str, Any]
) -> Outcome:
    files = save_vlm(stage.out, vlm)
    stage.out.write_json(CURVE, {name: columns(curve) for name, curve in curves.items()})
    last = curves["tune"][-1][1]
    return Outcome(
        kind="VlmManifest",
        files=[*files, CURVE],
        counts=counts,
        cost={"device": device_name(), "ranks": distributed.world().size},
        summary=summary | {"tower": vlm.tower.facts, "template": vlm.template.name},
        metrics={"tune_loss": last["loss"], "tune_reply_accuracy": last["reply_accuracy"]},
        scratch="checkpoints",
    )


def _tower(params: Params, stage: Stage) -> tuple[VisionTower, dict[str, Any]]:
    """Returns the encoder as a tower on the device, and which arm and replicate it is."""
    name = params.named("checkpoint")
    if not name:
        encoder, facts = load_encoder(stage.folder("checkpoint"))
        about = {fact: facts[fact] for fact in ("arm", "seed", "replicate")}
        return own_tower(encoder.to(device()), about), {fact: facts[fact] for fact in ("arm", "replicate")}
    try:
        return external_tower(name).to(device()), {"arm": name, "replicate": 0}
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(
            f"--checkpoint={name} can't be used ({reason}): give another name, or a folder that pretrain wrote."
        ) from error


def _vlm(params: Params, tower: VisionTower, projector: Projector, lessons: Lessons) -> VisionLanguageModel:
    try:
        return VisionLanguageModel(tower, projector, lessons.language_model, lessons.template)
    except ValueError as error:
        raise BadInput(f"--language_model={params.language_model}: {error}; give another one.") from error


def _train(params: Params, stage: Stage, lesson: Lesson) -> Curve:
    """Trains one lesson, or restores it where it is done; its last checkpoint is its result."""
    name = lesson.name
    num_steps: int = getattr(params, f"{name}_steps")
    config = LoopConfig(
        num_steps=num_steps,
        learning_rate=getattr(params, f"{name}_learning_rate"),
        warmup_steps=round(params.warmup_fraction * num_steps),
        beta1=BETA1,
        beta2=TINY_BETA2 if params.language_model == TINY else BETA2,
        epsilon=EPSILON,
        clip_norm=params.clip_norm,
        checkpoint_every_steps=params.checkpoint_every_steps,
        log_every_steps=params.log_every_steps,
        max_nonfinite_steps=MAX_NONFINITE_STEPS,
        is_bfloat16=torch.cuda.is_available(),
        num_micro_batches=params.num_micro_batches,
        checkpoint_activations=params.checkpoint_activations,
        parallel=params.parallel,
    )
    checkpoints = Checkpoints(stage.out.folder(f"checkpoints/{name}"), tell=stage.log)
    prometheus = TrainingMetrics(num_steps)
    with stage.progress(num_steps, f"{name} step") as bar:

        def report(step: int, metrics: dict[str, float]) -> None:
            bar.advance(step - bar.done, **{k: v for k, v in metrics.items() if k in ("loss", "reply_accuracy")})
            stage.metrics(step, {f"{name}_{key}": value for key, value in metrics.items()})
            prometheus.report(step, metrics, checkpoints.committed_at)

        def tell(event: str, **facts: Any) -> None:
            if event == "resumed":
                prometheus.resumed(facts["step"])
            stage.log(event, **facts)

        try:
            curve = train(
                lesson.objective,
                lesson.batches,
                config,
                checkpoints=checkpoints,
                report=report,
                should_stop=stage.stopping,
                tell=tell,
                settings=Settings(params.knobs(), changeable=CHANGEABLE),
            )
        except (Interrupted, Diverged, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    if distributed.any_rank(stage.stopping()):
        raise Interrupted(f"{name} is done and saved")
    stage.log("trained", phase=name, steps=num_steps, **{k: round(v, 4) for k, v in curve[-1][1].items()})
    return curve
