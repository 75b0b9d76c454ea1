"""The synthetic world as a source: scenes drawn on the spot, every factor known."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from components.build_shards.source import Item, Raw
from components.core.data import questions, world
from components.core.data.ingest import encode_png

FIRST_SCENE = {"pretrain": 0, "probe": 10**10, "instruct": 2 * 10**10, "benchmark": 3 * 10**10}  # no scene serves twice
SCENES_PER_ITEM = 256


@dataclass(frozen=True, kw_only=True)
class WorldSource:
    """Scenes for one purpose; the last ones are the test split of a probe."""

    purpose: str
    num_scenes: int
    image_size_px: int
    test_fraction: float
    seed: int

    def items(self) -> list[Item]:
        """Returns ranges of scenes."""
        starts = range(0, self.num_scenes, SCENES_PER_ITEM)
        ranges = [(start, min(start + SCENES_PER_ITEM, self.num_scenes)) for start in starts]
        return [Item(f"{start:012d}", {"start": start, "stop": stop}, stop - start) for start, stop in ranges]

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields a range's scenes."""
        for number in range(item.spec["start"], item.spec["stop"]):
            yield self._scene(number)

    def _scene(self, number: int) -> Raw:
        index = FIRST_SCENE[self.purpose] + number
        scene = world.sample_scene(self.seed, index)
        is_test = self.purpose == "probe" and number >= round(self.num_scenes * (1 - self.test_fraction))
        is_asked = self.purpose in ("instruct", "benchmark")
        asked = questions.ask_all(scene, seed=self.seed, index=index) if is_asked else []
        facts = {
            "labels": {name: values.index(getattr(scene, name)) for name, values in world.FACTORS.items()},
            "questions": [
                {"question": q.question, "options": q.options, "answer": q.answer, "category": q.category}
                for q in asked
            ],
        }
        return Raw(
            name=f"{index:012d}",
            key=f"{index:012d}",
            image=encode_png(world.draw(scene, self.image_size_px)),
            caption=world.caption(scene),
            split="test" if is_test or self.purpose == "benchmark" else "train",
            facts=json.dumps(facts, sort_keys=True),
        )
