"""build_shards: pictures in, deterministic shards or a benchmark out.

items (any pod, any worker) -> rows and pictures in the work folder -> one decision over all rows -> shards
"""

import hashlib
import json
import math
from typing import Any

import pyarrow.compute

from components.build_shards import reconcile, records
from components.build_shards.crew import Crew, FinishedElsewhere, Tasks
from components.build_shards.decide import Decision, Rules, repeats
from components.build_shards.labelled_sets import SETS, classes_of
from components.build_shards.pack import CLASS_FACTOR, Packer, write_one_shard
from components.build_shards.params import SYNTHETIC, Params
from components.build_shards.prefix import Prefix
from components.build_shards.sources import needs_caption, open_source
from components.build_shards.work import Work
from components.core.data import picture_questions, prompts, questions, world
from components.core.data.ingest import Limits
from components.runtime.errors import BadInput
from components.runtime.stage import Outcome, Stage


def run(params: Params, stage: Stage) -> Outcome | None:
    """Reads or draws the pictures, and writes shards (or the benchmark), reject log and data card.

    Returns:
        The outcome of the first pod, which puts everything together; None of the others.
    """
    try:
        return _run(params, stage)
    except FinishedElsewhere:
        return None


def _run(params: Params, stage: Stage) -> Outcome | None:
    work = Work(stage.out.folder(_work_folder(params, stage)))
    crew = Crew(params, stage)
    prefix = _ingest(params, stage, work, crew)
    decision = prefix.decision()
    reconcile.refuse_bad_source(decision, params, stage)
    packer = _packer(params, prefix, decision)
    if params.purpose != "benchmark":
        _pack(packer, stage, work, crew)
    if params.pod_index:
        return None
    meaning = _meaning(params, packer)
    if params.labelled_set:
        about = meaning["labelled_set"]
        counts = {split: f"{about[split]['samples']} of {about[split]['published']}" for split in ("train", "test")}
        stage.log("labelled_set", name=about["name"], **counts, repeats=sum(about["repeats"].values()))
    return reconcile.outcome(params, stage, work, packer, meaning)


def _work_folder(params: Params, stage: Stage) -> str:
    """Returns a name that other parameters or inputs don't share."""
    content = json.dumps([params.digest(), stage.input_digests()])
    return f"work/{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _ingest(params: Params, stage: Stage, work: Work, crew: Crew) -> Prefix:
    """Reads the source's items until there are enough samples, and returns their rows."""
    source = open_source(params)
    items = work.plan(source.items)
    limits = Limits(
        image_size_px=params.image_size_px,
        min_side_px=1 if params.labelled_set else params.min_side_px,
        max_aspect=math.inf if params.labelled_set else params.max_aspect,
        max_pixels=params.max_pixels,
        jpeg_quality=params.jpeg_quality,
        animated=params.animated,
        min_caption_characters=params.min_caption_chars,
        max_caption_characters=params.max_caption_chars,
        caption_fallback_encoding=params.caption_fallback,
        caption_language=params.caption_language,
    )
    prefix = Prefix(work, _rules(params, stage))
    tasks = Tasks(
        num_tasks=len(items),
        unit="items",
        do=Work.ingest,
        arguments=lambda n: (work, n, items[n], source, limits, needs_caption(params)),
        finished=work.finished_items,
        is_enough=prefix.is_enough,
    )
    prefix.grow(crew.work_through(tasks))
    return prefix


def _rules(params: Params, stage: Stage) -> Rules:
    excluded = [row for folder in stage.folders("exclude") for row in records.evaluation_hashes(folder)]
    return Rules(
        purpose=params.purpose,
        num_samples=params.num_samples,
        test_fraction=params.test_fraction,
        seed=params.seed,
        unique_keys=params.unique_keys,
        near_duplicate_bits=params.near_duplicate_bits,
        is_published=bool(params.labelled_set),
        excluded_sha256=frozenset(sha256 for sha256, _ in excluded),
        excluded_dhash=tuple(dhash for _, dhash in excluded),
    )


def _packer(params: Params, prefix: Prefix, decision: Decision) -> Packer:
    num_samples = len(decision.kept)
    kept = decision.rows.take(decision.kept)
    if params.labelled_set:
        categories = classes_of(decision.rows)
    else:
        categories = sorted(name for name in pyarrow.compute.unique(kept["category"]).to_pylist() if name)
    if params.purpose == "probe" and params.source_uri != SYNTHETIC and len(categories) < 2:
        raise BadInput(
            f"--source_uri={params.source_uri} has pictures of {len(categories)} classes: a probe needs one folder "
            "or label per class, two or more."
        )
    is_asked = params.purpose in ("instruct", "benchmark")
    captions = pyarrow.compute.unique(kept["caption"]).to_pylist() if is_asked else []
    return Packer(
        decision,
        prefix.parts,
        prefix.first_rows,
        params.labelled_set or CLASS_FACTOR,
        categories,
        sorted(caption for caption in captions if caption),
        params.seed,
        num_shards=max(-(-num_samples // params.samples_per_shard), min(params.min_shards, num_samples)),
    )


def _pack(packer: Packer, stage: Stage, work: Work, crew: Crew) -> None:
    crew.work_through(
        Tasks(
            num_tasks=packer.num_shards,
            unit="shards",
            do=write_one_shard,
            arguments=lambda n: (work, stage.out.uri, n, packer.samples(packer.numbers(n))),
            finished=work.finished_shards,
        )
    )


def _meaning(params: Params, packer: Packer) -> dict[str, Any]:
    """Returns what the labels and questions mean: class names, texts for zero-shot, the sets' groups."""
    if params.source_uri == SYNTHETIC:
        return {
            "factors": {name: list(values) for name, values in world.FACTORS.items()},
            "prompts": prompts.world_prompts(),
            "groups": questions.GROUP_OF_SET,
        }
    if params.labelled_set:
        texts = prompts.set_prompts(params.labelled_set, packer.categories)
        return {
            "factors": {packer.factor: packer.categories},
            "prompts": {packer.factor: texts} if texts else {},
            "labelled_set": _about_set(params, packer.decision),
        }
    return {
        "factors": {packer.factor: packer.categories},
        "prompts": {packer.factor: prompts.generic_prompts(packer.categories)},
        "groups": picture_questions.GROUP_OF_SET,
    }


def _about_set(params: Params, decision: Decision) -> dict[str, Any]:
    """Returns how many pictures of a published set there are here and were published, and how many are there twice."""
    known, is_test = SETS[params.labelled_set], decision.is_test[decision.kept]
    return {
        "name": params.labelled_set,
        "train": {"samples": int((~is_test).sum()), "published": known.num_train},
        "test": {"samples": int(is_test.sum()), "published": known.num_test},
        "repeats": repeats(decision),
    }
