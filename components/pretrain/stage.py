"""pretrain: one arm's encoder, from captioned shards; alone, or as one rank of several."""

import functools
import time
from pathlib import Path
from typing import Any

import torch

from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.models.encoder import architecture, device, device_name, save_encoder, save_text
from components.core.models.export import export_encoder
from components.core.models.trunk import Trunk, weights_sha256
from components.core.objectives.objective import Objective
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints, Settings
from components.core.training.loop import Curve, Diverged, Interrupted, LoopConfig, columns, train
from components.core.training.optimizer import schedule_sha256
from components.pretrain.arms import build_objective, differences, text_side
from components.pretrain.params import CHANGEABLE, Params
from components.pretrain.probe import Probe, spread
from components.pretrain.reports import REPLACED, Reports
from components.pretrain.study_record import join
from components.runtime.cache import CachedFolder
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.stage import Outcome, Stage
from components.runtime.storage import Folder

GIB = 1 << 30


def run(params: Params, stage: Stage) -> Outcome | None:
    """Trains, from the newest checkpoint where there is one, and writes the encoder with its parity record.

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
    manifest, world = stage.inputs["shards"], distributed.world()
    if manifest.summary.get("purpose") != "pretrain":
        raise BadInput(
            f"--shards={params.shards} was built for {manifest.summary.get('purpose')}: give pretrain shards."
        )
    join(params.study, {"manifest": manifest.digest, "seed": params.seed})
    sizes = [shard["samples"] for shard in manifest.summary["shards"]]
    order = SampleOrder(sizes, seed=params.own_seed, batch_size=params.batch_size, num_streams=params.num_streams)
    reader = ShardReader(
        _shards(params, stage),
        manifest,
        order,
        cache_bytes=int(params.cache_gib * GIB),
        rank=world.rank,
        world_size=world.size,
        num_threads=params.num_reader_threads,
        decode_short_side_px=params.decode_short_side_px,
        replaces_lost=params.lost_shards == "replace",
    )
    trunk = Trunk(
        image_size_px=params.image_size_px,
        patch_size_px=params.patch_size_px,
        width=params.width,
        depth=params.depth,
        num_heads=params.num_heads,
        seed=params.own_seed,
    )
    parity = _parity(params, trunk, order, manifest.digest)
    objective = build_objective(params, trunk, reader.captions())
    parity |= differences(params, text_side(objective))
    start = time.monotonic()
    curve = _train(params, stage, objective.to(device()), reader, parity)
    parity["num_samples_replaced"] = round(sum(values.get(REPLACED, 0.0) for _, values in curve))
    if world.rank:
        return None
    return _outcome(params, stage, objective, curve, parity, time.monotonic() - start)


def _shards(params: Params, stage: Stage) -> Folder | CachedFolder:
    """Returns where the shards are read: the node's cache in front of their folder, if there is one."""
    folder = stage.folder("shards")
    if not params.shard_cache:
        return folder
    return CachedFolder(folder, Path(params.shard_cache), int(params.shard_cache_gib * GIB))


def _train(params: Params, stage: Stage, objective: Objective, reader: ShardReader, parity: dict[str, Any]) -> Curve:
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
        num_micro_batches=params.num_micro_batches,
        is_compiled=params.is_compiled,
        checkpoint_activations=params.checkpoint_activations,
    )
    settings = Settings(
        params.knobs() | {"shards": stage.inputs["shards"].digest},
        changeable=frozenset(params.knobs()) if params.override_settings else CHANGEABLE,
    )
    checkpoints = Checkpoints(stage.out.folder("checkpoints"), keep=params.keep_checkpoints, tell=stage.log)
    with stage.progress(params.num_steps, "step") as bar:
        probe, flops_per_sample = _probe(params, stage, objective), parity["train_flops_per_sample"]
        reports = Reports(params, stage, bar, reader, checkpoints, probe, flops_per_sample)
        return train(
            objective,
            reader.batches,
            config,
            checkpoints=checkpoints,
            report=reports,
            should_stop=stage.stopping,
            tell=reports.tell,
            settings=settings,
        )


def _probe(params: Params, stage: Stage, objective: Objective) -> Any:
    """Returns a function that scores the encoder as it is; nothing where no probe is asked for, or by other ranks."""
    if not params.probe_every_steps or distributed.world().rank:
        return dict
    manifest, folder = stage.input_lists["probe_shards"][0], stage.folder("probe_shards")
    probe = Probe(
        spread(folder, manifest), manifest.summary["factors"], manifest.summary["prompts"], params.image_size_px
    )
    return functools.partial(probe, objective.trunk, text_side(objective))


def _outcome(
    params: Params, stage: Stage, objective: Objective, curve: Curve, parity: dict[str, Any], seconds: float
) -> Outcome:
    side = text_side(objective)
    facts = {"arm": params.arm, "seed": params.own_seed, "replicate": params.replicate}
    files = save_encoder(stage.out, objective.trunk, facts)
    files += save_text(stage.out, side) if side else []
    files += export_encoder(stage.out, objective.trunk, side)
    found = columns(curve)
    samples_seen = [step * params.batch_size for step in found["steps"]]
    stage.out.write_json("curve.json", found | {"samples_seen": samples_seen})
    stage.out.write_json("parity.json", parity)
    return Outcome(
        kind="CheckpointManifest",
        files=[*files, "curve.json", "parity.json"],
        counts={"steps": params.num_steps, "samples_seen": params.num_steps * params.batch_size},
        summary={
            "arm": params.arm,
            "replicate": params.replicate,
            "architecture": architecture(objective.trunk),
            "parity": parity,
            "train_flops_per_sample": parity["train_flops_per_sample"],
            "num_samples_seen": params.num_steps * params.batch_size,
            "num_training_samples": stage.inputs["shards"].counts["samples"],
        },
        cost={
            "train_seconds": round(seconds, 3),
            "samples_per_s": round(params.num_steps * params.batch_size / seconds, 2),
            "ranks": distributed.world().size,
            "device": device_name(),
        },
        metrics={f"final_{name}": value for name, value in curve[-1][1].items() if name != "learning_rate"},
    )


def _parity(params: Params, trunk: Trunk, order: SampleOrder, manifest_digest: str) -> dict[str, Any]:
    """Returns what must be equal for the arms to be compared."""
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
    }
