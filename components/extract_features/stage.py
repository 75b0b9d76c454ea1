# B batch, C channels (RGB), H height, W width.
"""extract_features: what one encoder says about every picture of a labelled set, computed once.

shards -> pictures, decoded by threads a batch ahead -> vectors -> one part per shard -> manifest

Everything is float32, without TF32: bfloat16 keeps three digits of a feature, and cosines between features are
compared to more than that.
"""

import contextlib
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from components.core.data import features
from components.core.evaluation.zero_shot import class_embeddings
from components.core.models.encoder import device, device_name
from components.core.models.external_encoder import load_external
from components.core.models.frozen_encoder import FrozenEncoder, load_checkpoint
from components.extract_features.params import Params
from components.extract_features.pictures import Pictures, Shard, read_batches, shards_of
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.manifest import Manifest
from components.runtime.stage import Outcome, Stage


@dataclass(frozen=True, kw_only=True)
class Source:
    """An encoder, and whose it is.

    Attributes:
        encoder: The encoder.
        arm: Kind of supervision, or the name of a library's encoder.
        replicate: Which repetition of the arm.
        digest: Changes with everything that the features depend on.
    """

    encoder: FrozenEncoder
    arm: str
    replicate: int
    digest: str


@dataclass(frozen=True)
class Written:
    """What is known of a part that lies in the folder."""

    described: dict[str, Any]
    test_ids: bytes
    num_in: dict[str, int]
    num_unusable: dict[str, int]


def run(params: Params, stage: Stage) -> Outcome:
    """Writes a part per shard, keeping those that an earlier run of the same has written, and the class embeddings."""
    manifest = stage.inputs["shards"]
    if manifest.summary.get("purpose") != "probe":
        raise BadInput(f"--shards={params.shards} was built for {manifest.summary.get('purpose')}: give probe shards.")
    source = _source(params, stage)
    written = _write_parts(params, stage, source)
    for split in features.SPLITS:
        _refuse_unusable(list(written.values()), sum(part.num_in[split] for part in written.values()), (split,), source)
    classes = _classes(source.encoder, manifest)
    if classes:
        stage.out.write(features.CLASSES_NAME, save(classes))
    num_unusable = sum(sum(part.num_unusable.values()) for part in written.values())
    counts = {split: sum(part.num_in[split] for part in written.values()) for split in features.SPLITS}
    return Outcome(
        kind="FeaturesManifest",
        files=[*written, *([features.CLASSES_NAME] if classes else [])],
        described={name: part.described for name, part in written.items()},
        counts=counts | {"unusable": num_unusable},
        cost={"device": device_name()},
        summary={
            "arm": source.arm,
            "replicate": source.replicate,
            "layer": params.layer,
            "token": source.encoder.token,
            "encoder": source.encoder.facts,
            "factors": manifest.summary["factors"],
            "shards": manifest.digest,
            "ids": hashlib.sha256(b"".join(part.test_ids for part in written.values())).hexdigest(),
            "parts": list(written),
            "num_unusable": num_unusable,
        },
        metrics={f"{name}_pictures": float(count) for name, count in (counts | {"unusable": num_unusable}).items()},
    )


def _source(params: Params, stage: Stage) -> Source:
    name = params.named("checkpoint")
    if name:
        try:
            encoder = load_external(name, params.layer, device())
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise BadInput(
                f"--checkpoint={name} with --layer={params.layer} can't be used ({reason}): give another name, or a "
                "folder that pretrain wrote."
            ) from error
        return Source(encoder=encoder, arm=name, replicate=0, digest=json.dumps(encoder.facts, sort_keys=True))
    checkpoint = stage.inputs["checkpoint"]
    try:
        encoder = load_checkpoint(stage.folder("checkpoint"), list(checkpoint.files), params.layer, device())
    except ValueError as error:
        raise BadInput(f"--layer={params.layer} of --checkpoint={params.checkpoint}: {error}.") from error
    arm, replicate = checkpoint.summary["arm"], checkpoint.summary["replicate"]
    return Source(encoder=encoder, arm=arm, replicate=replicate, digest=checkpoint.digest)


def _write_parts(params: Params, stage: Stage, source: Source) -> dict[str, Written]:
    """Returns what is known of each part by its name, in the order of the shards, once all are written."""
    manifest = stage.inputs["shards"]
    shards = shards_of(manifest)
    names = {shard: features.part_name(shard.name) for shard in shards}
    keys = {shard: _key(params, manifest, shard, source) for shard in shards}
    kept = [shard for shard in shards if _has_part(stage, names[shard], keys[shard])]
    written = {names[shard]: _described(stage.out.read(names[shard])) for shard in kept}
    if kept:
        stage.log("continued", parts_kept=len(kept), parts_missing=len(shards) - len(kept))
    total = sum(shard.num_samples for shard in shards)
    with stage.progress(total, "picture") as bar:
        bar.advance(sum(shard.num_samples for shard in kept))
        for shard, batches in _computed(params, stage, source.encoder, [s for s in shards if s not in kept]):
            columns: defaultdict[str, list[Tensor]] = defaultdict(list)
            for batch in batches:
                for name, rows in batch.items():
                    columns[name].append(rows)
                bar.advance(len(batch["ids"]))
            data = features.encode_part({name: torch.cat(rows) for name, rows in columns.items()}, keys[shard])
            stage.out.write(names[shard], data)
            written[names[shard]] = _described(data)
            _refuse_unusable(list(written.values()), total, features.SPLITS, source)
    return {name: written[name] for name in names.values()}


def _computed(
    params: Params, stage: Stage, encoder: FrozenEncoder, shards: list[Shard]
) -> Iterator[tuple[Shard, Iterator[dict[str, Tensor]]]]:
    """Yields each shard with the batches of its features."""

    def encoded(batches: Iterator[tuple[Shard, Pictures]]) -> Iterator[dict[str, Tensor]]:
        for _, pictures in batches:
            if stage.stopping():
                raise Preempted("the parts written so far are kept")
            yield _vectors(encoder, pictures.pixels_BCHW) | pictures.known

    batches = read_batches(
        stage.folder("shards"),
        stage.inputs["shards"],
        shards,
        encoder.prepare,
        batch_size=params.batch_size,
        num_threads=params.num_reader_threads,
    )
    with contextlib.closing(batches):
        for shard, of_shard in itertools.groupby(batches, key=lambda found: found[0]):
            yield shard, encoded(of_shard)


def _key(params: Params, manifest: Manifest, shard: Shard, source: Source) -> str:
    """Returns the sha256 of everything that decides a part's bytes."""
    about_shard = [manifest.files[shard.name]["sha256"], shard.first_id, sorted(manifest.summary["factors"])]
    return hashlib.sha256(json.dumps([source.digest, about_shard, params.digest()]).encode()).hexdigest()


def _has_part(stage: Stage, name: str, key: str) -> bool:
    try:
        return features.part_key(stage.out, name) == key
    except FileNotFoundError:
        return False


@torch.inference_mode()
def _vectors(encoder: FrozenEncoder, pixels_BCHW: Tensor) -> dict[str, Tensor]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        vectors = encoder.encode(pixels_BCHW.to(device()))
    named = {"cls": vectors.cls_BD, "patch_mean": vectors.patch_mean, "joint": vectors.joint_BE}
    return {name: rows.float().cpu() for name, rows in named.items() if rows is not None}


def _described(data: bytes) -> Written:
    tensors = load(data)
    is_usable_N, is_test_N = features.is_usable(tensors), tensors["is_test"]
    of_split = {"train": ~is_test_N, "test": is_test_N}
    return Written(
        described={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        test_ids=tensors["ids"][is_test_N].numpy().tobytes(),
        num_in={split: int(is_in_N.sum()) for split, is_in_N in of_split.items()},
        num_unusable={split: int((is_in_N & ~is_usable_N).sum()) for split, is_in_N in of_split.items()},
    )


def _refuse_unusable(written: list[Written], total: int, splits: tuple[str, ...], source: Source) -> None:
    num_unusable = sum(part.num_unusable[split] for part in written for split in splits)
    try:
        features.refuse_unusable(num_unusable, total, source.arm)
    except ValueError as error:
        raise StageFailure(f"{error}.") from error


def _classes(encoder: FrozenEncoder, manifest: Manifest) -> dict[str, Tensor]:
    """Returns one prompt ensemble per class of each factor that has prompts; none without a text tower."""
    if encoder.text is None:
        return {}
    factors = manifest.summary["factors"]
    return {
        f"classes/{factor}": class_embeddings(encoder.text, [prompts[name] for name in factors[factor]])
        for factor, prompts in manifest.summary["prompts"].items()
    }
