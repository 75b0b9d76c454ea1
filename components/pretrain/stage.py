"""pretrain: one arm's encoder, from captioned shards."""

import time
from pathlib import Path
from typing import Any

import torch

from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.models.encoder import TextSide, architecture, device, save_encoder, save_text
from components.core.models.trunk import Trunk, weights_sha256
from components.core.objectives.clip import ClipObjective
from components.core.objectives.objective import Objective
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Curve, Diverged, Interrupted, LoopConfig, train
from components.core.training.optimizer import schedule_sha256
from components.pretrain.arms import build_objective, differences
from components.pretrain.params import Params
from components.runtime import metrics
from components.runtime.cache import CachedFolder
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.stage import Outcome, Stage
from components.runtime.storage import Folder

GIB = 1 << 30


def run(params: Params, stage: Stage) -> Outcome:
    """Trains, from the newest checkpoint where there is one, and writes the encoder with its parity record."""
    manifest = stage.inputs["shards"]
    if manifest.summary.get("purpose") != "pretrain":
        raise BadInput(
            f"--shards={params.shards} was built for {manifest.summary.get('purpose')}: give pretrain shards."
        )
    sizes = [shard["samples"] for shard in manifest.summary["shards"]]
    try:
        order = SampleOrder(sizes, seed=params.seed, batch_size=params.batch_size, num_streams=params.num_streams)
    except ValueError as error:
        raise BadInput(str(error)) from error
    reader = ShardReader(
        _shards(params, stage),
        manifest,
        order,
        cache_bytes=int(params.cache_gib * GIB),
        num_threads=params.num_reader_threads,
        decode_short_side_px=params.decode_short_side_px,
    )
    trunk = Trunk(
        image_size_px=params.image_size_px,
        patch_size_px=params.patch_size_px,
        width=params.width,
        depth=params.depth,
        num_heads=params.num_heads,
        seed=params.seed,
    )
    parity = _parity(params, trunk, order, manifest.digest)
    objective = build_objective(params, trunk, reader.captions()).to(device())
    start = time.monotonic()
    curve = _train(params, stage, objective, reader)
    seconds = time.monotonic() - start
    files = save_encoder(stage.out, objective.trunk, {"arm": params.arm, "seed": params.seed})
    if isinstance(objective, ClipObjective):
        side = TextSide(objective.text_tower, objective.tokenizer, objective.projection_DE, objective.logit_scale)
        files += save_text(stage.out, side, params.text_heads)
    stage.out.write_json("curve.json", _columns(curve, params.batch_size))
    stage.out.write_json("parity.json", parity)
    return Outcome(
        kind="CheckpointManifest",
        files=[*files, "curve.json", "parity.json"],
        counts={"steps": params.num_steps, "samples_seen": params.num_steps * params.batch_size},
        summary={
            "arm": params.arm,
            "architecture": architecture(trunk),
            "parity": parity,
            "train_flops_per_sample": parity["train_flops_per_sample"],
            "num_samples_seen": params.num_steps * params.batch_size,
            "num_training_samples": sum(sizes),
        },
        cost={
            "train_seconds": round(seconds, 3),
            "samples_per_s": round(params.num_steps * params.batch_size / seconds, 2),
            "device": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else f"CPU, {torch.get_num_threads()} threads",
        },
        metrics={name: value for name, value in curve[-1][1].items() if name != "learning_rate"},
    )


def _shards(params: Params, stage: Stage) -> Folder | CachedFolder:
    """Returns where the shards are read: the node's cache in front of their folder, if there is one."""
    folder = stage.folder("shards")
    if not params.shard_cache:
        return folder
    return CachedFolder(folder, Path(params.shard_cache), int(params.shard_cache_gib * GIB))


def _train(params: Params, stage: Stage, objective: Objective, reader: ShardReader) -> Curve:
    config = LoopConfig(
        num_steps=params.num_steps,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        beta1=params.beta1,
        beta2=params.beta2,
        epsilon=params.epsilon,
        clip_norm=params.clip_norm,
        checkpoint_every_steps=params.checkpoint_every_steps,
        log_every_steps=params.log_every_steps,
        max_nonfinite_steps=params.max_nonfinite_steps,
        is_bfloat16=torch.cuda.is_available(),
    )
    checkpoints = Checkpoints(stage.out.folder("checkpoints"))
    resumed = checkpoints.latest()
    if resumed:
        stage.log("resumed", step=resumed.step, of=params.num_steps)
    with stage.progress(params.num_steps, "step") as bar:
        bar.advance(resumed.step if resumed else 0)

        def report(step: int, values: dict[str, float]) -> None:
            bar.advance(step - bar.done, **{k: v for k, v in values.items() if k == "loss"})
            waited = reader.take_wait_s()
            metrics.count("data_wait_seconds", waited)
            stage.metrics(step, values | {"samples_seen": float(step * params.batch_size), "data_wait_s": waited})

        try:
            return train(
                objective, reader.batches, config, checkpoints=checkpoints, report=report, should_stop=stage.stopping
            )
        except Interrupted as error:
            raise Preempted(str(error)) from error
        except Diverged as error:
            raise StageFailure(str(error)) from error
        except ValueError as error:
            raise BadInput(str(error)) from error


def _parity(params: Params, trunk: Trunk, order: SampleOrder, manifest_digest: str) -> dict[str, Any]:
    """Returns what must be equal for the arms to be compared, and what differs by the objective's nature."""
    return {
        "trunk_init": weights_sha256(trunk),
        "manifest": manifest_digest,
        "sample_order": order.digest(params.num_steps),
        "schedule": schedule_sha256(
            peak=params.learning_rate, warmup_steps=params.warmup_steps, num_steps=params.num_steps
        ),
        "optimiser": (
            f"AdamW, betas {params.beta1:g} and {params.beta2:g}, epsilon {params.epsilon:g}, "
            f"gradient norm at most {params.clip_norm:g}"
        ),
        "batch_size": params.batch_size,
        "num_samples_seen": params.num_steps * params.batch_size,
        "num_trunk_parameters": sum(p.numel() for p in trunk.parameters()),
    } | differences(params)


def _columns(curve: Curve, batch_size: int) -> dict[str, Any]:
    """Returns the curve as one list per metric."""
    points = [(step, values) for step, values in curve if "loss" in values]
    return {
        "steps": [step for step, _ in points],
        "samples_seen": [step * batch_size for step, _ in points],
        "values": {name: [values[name] for _, values in points] for name in points[0][1]},
    }
