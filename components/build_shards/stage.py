"""build_shards: pictures in, deterministic shards or a benchmark out."""

import collections
import functools
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from components.build_shards.params import SYNTHETIC, Params
from components.core.data import picture_questions, pictures, prompts, questions, world
from components.core.data.data_card import data_card
from components.core.data.ingest import PICTURE_SUFFIXES, encode_png
from components.core.data.pictures import Limits, Picture, Rejected
from components.core.data.questions import Question
from components.core.data.tar import write_shard
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.process import leave_signals_to_parent
from components.runtime.stage import Outcome, Stage
from components.runtime.storage import open_folder

FIRST_SCENE = {"pretrain": 0, "probe": 10**10, "instruct": 2 * 10**10, "benchmark": 3 * 10**10}  # no scene serves twice
CHUNK = 32

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Example:
    """What becomes one sample of a shard, or some questions of a benchmark."""

    key: str
    png: bytes
    caption: str
    labels: dict[str, int]
    split: str
    questions: list[Question]


@dataclass(frozen=True)
class Gathered:
    """Everything that the source gave: of `num_inputs` pictures, examples, rejects, and the other split's."""

    num_inputs: int
    examples: list[Example]
    rejected: list[Rejected]
    factors: dict[str, list[str]]
    prompts: dict[str, dict[str, list[str]]]
    groups: dict[str, str]


def run(params: Params, stage: Stage) -> Outcome:
    """Reads or draws the pictures, and writes shards (or the benchmark), reject log and data card."""
    gathered = _draw(params, stage) if params.source_uri == SYNTHETIC else _read(params, stage)
    files = _write_rejects(gathered, stage)
    _refuse_bad_source(gathered, params)
    reasons = collections.Counter(r.reason for r in gathered.rejected)
    counts = {
        "inputs": gathered.num_inputs,
        "samples": len(gathered.examples),
        "unused": gathered.num_inputs - len(gathered.examples) - len(gathered.rejected),
        "rejected": len(gathered.rejected),
        "reasons": dict(sorted(reasons.items())),
    }
    stage.out.write("data_card.html", data_card(params.purpose, counts, gathered.examples).encode())
    files.append("data_card.html")
    if params.purpose == "benchmark":
        num_questions = _write_benchmark(gathered.examples, stage)
        return Outcome(
            kind="BenchmarkManifest",
            files=["benchmark.parquet", *files],
            counts=counts | {"questions": num_questions},
            summary={"purpose": params.purpose, "groups": gathered.groups},
            metrics={"questions": float(num_questions)},
        )
    shards = _write_shards(gathered.examples, params, stage)
    return Outcome(
        kind="ShardsManifest",
        files=[shard["name"] for shard in shards] + files,
        counts=counts,
        summary={
            "purpose": params.purpose,
            "shards": shards,
            "factors": gathered.factors,
            "prompts": gathered.prompts,
        },
        metrics={"samples": float(len(gathered.examples)), "rejected": float(len(gathered.rejected))},
    )


def _draw(params: Params, stage: Stage) -> Gathered:
    """Draws scenes of the synthetic world; the last ones are the test split of a probe."""
    draw = functools.partial(_scene_example, params)
    examples = list(_map(draw, range(params.num_samples), params, stage, "scenes"))
    factors = {name: list(values) for name, values in world.FACTORS.items()}
    return Gathered(params.num_samples, examples, [], factors, prompts.world_prompts(), questions.GROUP_OF_SET)


def _scene_example(params: Params, number: int) -> Example:
    index = FIRST_SCENE[params.purpose] + number
    scene = world.sample_scene(params.seed, index)
    is_test = params.purpose == "probe" and number >= round(params.num_samples * (1 - params.test_fraction))
    is_asked = params.purpose in ("instruct", "benchmark")
    return Example(
        key=f"{index:012d}",
        png=encode_png(world.draw(scene, params.image_size_px)),
        caption=world.caption(scene),
        labels={name: values.index(getattr(scene, name)) for name, values in world.FACTORS.items()},
        split="test" if is_test or params.purpose == "benchmark" else "train",
        questions=questions.ask_all(scene, seed=params.seed, index=index) if is_asked else [],
    )


def _read(params: Params, stage: Stage) -> Gathered:
    """Reads a folder of pictures; each belongs to train or test by its pixels, the same for every purpose."""
    source = open_folder(params.source_uri)
    entries = pictures.list_entries(source.names())
    if not entries:
        raise BadInput(
            f"--source_uri={params.source_uri} holds no pictures: expected files ending in "
            f"{', '.join(PICTURE_SUFFIXES)}, each with a .txt caption beside it."
        )
    limits = Limits(
        image_size_px=params.image_size_px,
        min_side_px=params.min_side_px,
        max_aspect=params.max_aspect,
        max_pixels=params.max_pixels,
        needs_caption=params.purpose in ("pretrain", "instruct"),
    )
    ingest = functools.partial(pictures.ingest, files=source, limits=limits)
    results = list(_map(ingest, entries, params, stage, "pictures"))
    found, duplicates = pictures.drop_duplicates([r for r in results if isinstance(r, Picture)])
    rejected = [r for r in results if isinstance(r, Rejected)] + duplicates
    categories = sorted({p.category for p in found if p.category})
    if params.purpose == "probe" and len(categories) < 2:
        raise BadInput(
            f"--source_uri={params.source_uri} has pictures in {len(categories)} folders: a probe needs one folder "
            "per class, two or more."
        )
    is_test = functools.partial(pictures.is_test, test_fraction=params.test_fraction, seed=params.seed)
    splits = {"pretrain": ("train",), "instruct": ("train",), "probe": ("train", "test"), "benchmark": ("test",)}
    chosen = [
        (picture, split)
        for picture in found
        if (split := "test" if is_test(picture) else "train") in splits[params.purpose]
    ]
    chosen = sorted(chosen, key=lambda pair: pair[0].sha256)[: params.num_samples]  # of every class, whatever its name
    is_asked = params.purpose in ("instruct", "benchmark")
    pool = [picture for picture, _ in chosen]
    examples = [
        Example(
            key=picture.key,
            png=picture.png,
            caption=picture.caption,
            labels={pictures.CLASS_FACTOR: categories.index(picture.category)} if picture.category else {},
            split=split,
            questions=picture_questions.ask_about_picture(picture, pool, params.seed) if is_asked else [],
        )
        for picture, split in chosen
    ]
    factor = pictures.CLASS_FACTOR
    texts = {factor: prompts.generic_prompts(categories)}
    return Gathered(len(entries), examples, rejected, {factor: categories}, texts, picture_questions.GROUP_OF_SET)


def _map(
    make: Callable[[Item], Made], items: Sequence[Item], params: Params, stage: Stage, unit: str
) -> Iterator[Made]:
    """Yields make(item) in the items' order, whatever the number of workers."""
    context = multiprocessing.get_context("fork")
    num_workers = min(params.num_workers, max(1, len(items) // CHUNK))
    with (
        ProcessPoolExecutor(num_workers, mp_context=context, initializer=leave_signals_to_parent) as pool,
        stage.progress(len(items), unit) as bar,
    ):
        for made in pool.map(make, items, chunksize=CHUNK):
            if stage.stopping():
                pool.shutdown(cancel_futures=True)
                raise Preempted("shards are written at the end; the next run starts over")
            bar.advance()
            yield made


def _refuse_bad_source(gathered: Gathered, params: Params) -> None:
    refused = [r for r in gathered.rejected if r.reason != "duplicate"]
    reasons = collections.Counter(r.reason for r in refused)
    table = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    if len(refused) > params.max_reject_fraction * gathered.num_inputs:
        raise StageFailure(
            f"{len(refused)} of {gathered.num_inputs} pictures were rejected ({table}), more than "
            f"--max_reject_fraction={params.max_reject_fraction:g}: mend them (rejects.jsonl names each), "
            "or raise the limit."
        )
    if not gathered.examples:
        raise StageFailure(f"no picture is left for {params.purpose} ({table or 'the split is empty'}).")


def _write_rejects(gathered: Gathered, stage: Stage) -> list[str]:
    lines = (
        json.dumps({"name": r.name, "reason": r.reason}) + "\n" for r in sorted(gathered.rejected, key=lambda r: r.name)
    )
    stage.out.write("rejects.jsonl", "".join(lines).encode())
    return ["rejects.jsonl"]


def _write_shards(examples: Sequence[Example], params: Params, stage: Stage) -> list[dict[str, Any]]:
    """Writes shards of nearly equal size, at least `min_shards` of them where there are as many samples."""
    num_shards = max(-(-len(examples) // params.samples_per_shard), min(params.min_shards, len(examples)))
    shards = []
    for number in range(num_shards):
        part = examples[number * len(examples) // num_shards : (number + 1) * len(examples) // num_shards]
        name = f"shards/{number:05d}.tar"
        stage.out.write(name, write_shard([(example.key, _members(example)) for example in part]))
        shards.append({"name": name, "samples": len(part)})
    return shards


def _members(example: Example) -> dict[str, bytes]:
    facts = {
        "labels": example.labels,
        "split": example.split,
        "conversations": [
            {
                "question": q.prompt(),
                "answer": q.answer,
                "text": q.options[questions.LETTERS.index(q.answer)],
                "category": q.category,
            }
            for q in example.questions
        ],
    }
    return {
        "png": example.png,
        "txt": example.caption.encode(),
        "json": json.dumps(facts, sort_keys=True).encode(),
    }


def _write_benchmark(examples: Iterable[Example], stage: Stage) -> int:
    """Writes the questions as VMCBench's parquet (arXiv 2501.03225), and returns how many they are."""
    import pyarrow
    import pyarrow.parquet

    asked = [(example, question) for example in examples for question in example.questions]
    if not asked:
        raise StageFailure("no question can be asked: the pictures have fewer than four classes and captions.")
    columns: dict[str, list[Any]] = {
        "index": list(range(len(asked))),
        "question": [q.question for _, q in asked],
        "answer": [q.answer for _, q in asked],
        "category": [q.category for _, q in asked],
        "image": [example.png for example, _ in asked],
    }
    columns |= {letter: [q.options[i] for _, q in asked] for i, letter in enumerate(questions.LETTERS)}
    order = ("index", "question", "A", "B", "C", "D", "answer", "category", "image")
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: columns[name] for name in order}), buffer)
    stage.out.write("benchmark.parquet", buffer.getvalue())
    return len(asked)
