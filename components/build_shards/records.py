"""What is written beside the shards: what was left out, what lies where, how it looks, and the questions."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from components.build_shards.decide import UNUSED, Decision
from components.build_shards.pack import Packer, with_pictures
from components.build_shards.work import Work
from components.core.data import questions
from components.core.data.data_card import NUM_SHOWN, Shown, data_card
from components.core.data.sample_table import SAMPLES_NAME, read_sample_table
from components.runtime.errors import StageFailure
from components.runtime.stage import Stage
from components.runtime.storage import Folder

REJECTS, CARD, BENCHMARK = "rejects.jsonl", "data_card.html", "benchmark.parquet"


def evaluation_hashes(folder: Folder) -> Iterator[tuple[bytes, int]]:
    """Yields the hashes of the test pictures in a folder of shards: of the pixels, and perceptual."""
    table = read_sample_table(folder, ["sha256", "dhash", "split"])
    for row in table.to_pylist():
        if row["split"] == "test":
            yield row["sha256"], row["dhash"]


def write_rejects(decision: Decision, stage: Stage) -> None:
    """Writes a line for each input that is left out and not merely unused, in the source's order."""
    is_logged = (decision.reasons != "") & (decision.reasons != UNUSED)
    numbers = numpy.flatnonzero(is_logged)
    rows = decision.rows.select(["name", "url"]).take(numbers).to_pylist()
    with stage.out.writer(REJECTS) as file:
        for number, row in zip(numbers, rows, strict=True):
            line = {"name": row["name"], "reason": decision.reasons[number]} | (
                {"url": row["url"]} if row["url"] else {}
            )
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def write_samples(packer: Packer, stage: Stage) -> None:
    """Writes what lies where: of each sample its shard, its hashes, its split and where it came from."""
    kept = packer.decision.kept
    columns = packer.decision.rows.select(["name", "url", "sha256", "dhash", "width", "height", "category"]).take(kept)
    shards = [number for number in range(packer.num_shards) for _ in packer.numbers(number)]
    splits = numpy.where(packer.decision.is_test[kept], "test", "train")
    table = columns.append_column("shard", pyarrow.array(shards, pyarrow.int32())).append_column(
        "split", pyarrow.array(splits.tolist(), pyarrow.string())
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    stage.out.write(SAMPLES_NAME, buffer.getvalue())


def write_card(purpose: str, counts: dict[str, Any], packer: Packer, work: Work, stage: Stage) -> None:
    """Writes the data card."""
    kept = packer.decision.kept
    chosen = kept[:: max(1, len(kept) // NUM_SHOWN)][:NUM_SHOWN]
    shown = [
        Shown(picture, sample.extension, sample.caption)
        for sample, picture in with_pictures(work, packer.samples(chosen))
    ]
    rows = packer.decision.rows.select(["width", "height", "caption"]).take(kept)
    short_sides = numpy.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
    lengths = pyarrow.compute.utf8_length(rows["caption"]).to_numpy()
    page = data_card(purpose, counts, shown, {"short side, px": short_sides, "caption, characters": lengths})
    stage.out.write(CARD, page.encode())


def write_benchmark(packer: Packer, work: Work, stage: Stage) -> int:
    """Writes the questions as VMCBench's parquet (arXiv 2501.03225), and returns how many they are."""
    samples = packer.samples(packer.decision.kept)
    asked = [(q, picture) for sample, picture in with_pictures(work, samples) for q in sample.facts["questions"]]
    if not asked:
        raise StageFailure("no question can be asked: the pictures have fewer than four classes and captions.")
    letters = {letter: [q["options"][i] for q, _ in asked] for i, letter in enumerate(questions.LETTERS)}
    columns: dict[str, list[Any]] = {
        "index": list(range(len(asked))),
        "question": [q["question"] for q, _ in asked],
        **letters,
        "answer": [q["answer"] for q, _ in asked],
        "category": [q["category"] for q, _ in asked],
        "image": [picture for _, picture in asked],
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    stage.out.write(BENCHMARK, buffer.getvalue())
    return len(asked)
