"""From the rows that were kept to shards: sample after sample, in the source's order, the same bytes each time."""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from components.build_shards.decide import Decision
from components.build_shards.work import Work
from components.core.data import picture_questions, questions
from components.core.data.tar import write_shard
from components.runtime.storage import open_folder

CLASS_FACTOR = "category"


@dataclass(frozen=True)
class Packed:
    """One sample before its picture is fetched.

    Attributes:
        key: Its name in the shard.
        extension: Of its picture.
        part, offset, length: Where its picture lies in the work folder.
        caption: Its text.
        facts: The JSON beside it: labels, split, questions.
    """

    key: str
    extension: str
    part: str
    offset: int
    length: int
    caption: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Packer:
    """The samples of one stage's result, shard by shard.

    Attributes:
        decision: Which rows are samples.
        parts: The part of each item.
        first_rows: The number of each item's first row.
        factor: What the classes are called together.
        categories: Class names, sorted; those of a published set in the order of its labels.
        captions: All distinct captions, sorted, where pictures are asked about.
        seed: Seed of the questions.
        num_shards: How many shards there are.
    """

    decision: Decision
    parts: Sequence[str]
    first_rows: Sequence[int]
    factor: str
    categories: list[str]
    captions: Sequence[str]
    seed: int
    num_shards: int

    def numbers(self, shard: int) -> NDArray[numpy.int64]:
        """Returns the rows of a shard; shards are of nearly equal size."""
        kept = self.decision.kept
        return kept[shard * len(kept) // self.num_shards : (shard + 1) * len(kept) // self.num_shards]

    def samples(self, numbers: NDArray[numpy.int64]) -> list[Packed]:
        """Returns the samples in these rows."""
        rows = self.decision.rows.take(numbers).to_pylist()
        return [self._sample(int(number), row) for number, row in zip(numbers, rows, strict=True)]

    def _sample(self, number: int, row: dict[str, Any]) -> Packed:
        sha256 = row["sha256"].hex()
        facts = self._facts(number, row, sha256) | {"split": "test" if self.decision.is_test[number] else "train"}
        return Packed(
            key=row["key"] if row["split"] else sha256[:20],
            extension=row["extension"],
            part=self.parts[bisect.bisect_right(self.first_rows, number) - 1],
            offset=row["offset"],
            length=row["length"],
            caption=row["caption"],
            facts=facts,
        )

    def _facts(self, number: int, row: dict[str, Any], sha256: str) -> dict[str, Any]:
        if row["facts"]:
            return json.loads(row["facts"])
        category = row["category"]
        about = {"name": row["name"], "url": row["url"]}
        if row["label"] >= 0:
            return {"labels": {self.factor: row["label"]}, "questions": [], "source": {"name": row["name"]}}
        asked = picture_questions.ask_about_picture(
            sha256, category, row["caption"], categories=self.categories, captions=self.captions, seed=self.seed
        )
        return {
            "labels": {self.factor: bisect.bisect_left(self.categories, category)} if category else {},
            "questions": [
                {"question": q.question, "options": q.options, "answer": q.answer, "category": q.category}
                for q in asked
            ],
            "source": {name: value for name, value in about.items() if value},
        }


def write_one_shard(work: Work, out_uri: str, number: int, samples: Sequence[Packed]) -> None:
    """Writes a shard, then what is known of it into the work folder, which says that it is done."""
    data = write_shard([(sample.key, _members(sample, picture)) for sample, picture in with_pictures(work, samples)])
    open_folder(out_uri).write(shard_name(number), data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "samples": len(samples)}
    work.finish_shard(number, facts)


def shard_name(number: int) -> str:
    """Returns the name of a shard."""
    return f"shards/{number:05d}.tar"


def with_pictures(work: Work, samples: Sequence[Packed]) -> Iterator[tuple[Packed, bytes]]:
    """Yields each sample with its picture; every part is opened once and read forwards."""
    for part, group in itertools.groupby(samples, key=lambda sample: sample.part):
        members = list(group)
        yield from zip(members, work.pictures(part, ((s.offset, s.length) for s in members)), strict=True)


def _members(sample: Packed, picture: bytes) -> dict[str, bytes]:
    facts = {name: value for name, value in sample.facts.items() if name != "questions"}
    facts["conversations"] = [
        {
            "question": questions.vmcbench_prompt(asked["question"], asked["options"]),
            "answer": asked["answer"],
            "text": asked["options"][questions.LETTERS.index(asked["answer"])],
            "category": asked["category"],
        }
        for asked in sample.facts["questions"]
    ]
    return {
        sample.extension: picture,
        "txt": sample.caption.encode(),
        "json": json.dumps(facts, sort_keys=True).encode(),
    }
