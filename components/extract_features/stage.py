"""extract_features: what one encoder says about every picture of a labelled set, computed once."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from components.core.data.augment import whole_views
from components.core.data.shard_samples import Sample, read_samples
from components.core.evaluation.zero_shot import class_embeddings
from components.core.models.encoder import TEXT_FILES, device, load_encoder, load_text
from components.extract_features.params import Params
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.stage import Outcome, Stage

MAX_NONFINITE_FRACTION = 0.001


def run(params: Params, stage: Stage) -> Outcome:
    """Writes CLS and mean patch features, labels and ids per split; for a language arm also its joint space."""
    checkpoint, manifest = stage.inputs["checkpoint"], stage.inputs["shards"]
    if manifest.summary.get("purpose") != "probe":
        raise BadInput(f"--shards={params.shards} was built for {manifest.summary.get('purpose')}: give probe shards.")
    encoder, facts = load_encoder(stage.folder("checkpoint"))
    encoder.to(device())
    side = load_text(stage.folder("checkpoint")) if TEXT_FILES[0] in checkpoint.files else None
    factors: dict[str, list[str]] = manifest.summary["factors"]
    rows: dict[str, dict[str, list[Tensor]]] = {}
    total = sum(shard["samples"] for shard in manifest.summary["shards"])
    samples = read_samples(stage.folder("shards"), manifest)
    with torch.inference_mode(), stage.progress(total, "picture") as bar:
        for batch in _batches(samples, params.batch_size):
            if stage.stopping():
                raise Preempted("features are written at the end; the next run starts over")
            tokens = encoder.tokens(whole_views([sample.image for sample in batch], encoder.image_size_px).to(device()))
            columns = {"cls": tokens.cls_BD.cpu(), "patch_mean": tokens.patches_BND.mean(dim=1).cpu()}
            if side is not None:
                columns["joint"] = F.normalize(columns["cls"] @ side.projection_DE, dim=1)
            columns["ids"] = torch.tensor([sample.id for sample in batch])
            for factor in factors:
                columns[f"labels/{factor}"] = torch.tensor([sample.labels.get(factor, -1) for sample in batch])
            for split in ("train", "test"):
                chosen = torch.tensor([sample.split == split for sample in batch])
                for name, column in columns.items():
                    rows.setdefault(split, {}).setdefault(name, []).append(column[chosen])
            bar.advance(len(batch))
    tensors = {f"{split}/{name}": torch.cat(parts) for split, named in rows.items() for name, parts in named.items()}
    num_dropped = _drop_nonfinite(tensors, total)
    if side is not None:
        for factor, prompts in manifest.summary["prompts"].items():
            tensors[f"classes/{factor}"] = class_embeddings(side, [prompts[name] for name in factors[factor]])
    stage.out.write("features.safetensors", save({name: t.contiguous() for name, t in tensors.items()}))
    counts = {split: len(tensors[f"{split}/ids"]) for split in rows} | {"nonfinite": num_dropped}
    return Outcome(
        kind="FeaturesManifest",
        files=["features.safetensors"],
        counts=counts,
        summary={
            "arm": facts["arm"],
            "factors": factors,
            "shards": manifest.digest,
            "ids": hashlib.sha256(numpy.asarray(tensors["test/ids"]).tobytes()).hexdigest(),
        },
        metrics={f"{name}_pictures": float(count) for name, count in counts.items()},
    )


def _batches(samples: Iterator[Sample], batch_size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _drop_nonfinite(tensors: dict[str, Any], total: int) -> int:
    """Drops pictures whose features are not finite, and refuses when they are more than a stray few."""
    num_dropped = 0
    for split in ("train", "test"):
        is_finite_N = tensors[f"{split}/cls"].isfinite().all(dim=1)
        num_dropped += int((~is_finite_N).sum())
        for name in [name for name in tensors if name.startswith(f"{split}/")]:
            tensors[name] = tensors[name][is_finite_N]
    if num_dropped > MAX_NONFINITE_FRACTION * total:
        raise StageFailure(
            f"{num_dropped} of {total} pictures have features that are not finite, more than "
            f"{MAX_NONFINITE_FRACTION:.1%}: the encoder is broken; look at its training curve."
        )
    return num_dropped
