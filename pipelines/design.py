"""What a study compares: the arms, how often each is trained, and the labelled sets that probe them."""

import dataclasses
import re
from collections.abc import Iterator

from components.build_shards.params import Params as BuildShards
from components.pretrain.params import Params as Pretrain
from components.runtime.params import unknown_name

ARMS: tuple[str, ...] = Pretrain.__dataclass_fields__["arm"].metadata["choices"]
PURPOSES: tuple[str, ...] = BuildShards.__dataclass_fields__["purpose"].metadata["choices"]
DEFAULT_ARMS = ("clip", "dino")  # the paper's two; the others are variants
LABELLED_SETS: tuple[str, ...] = tuple(
    filter(None, BuildShards.__dataclass_fields__["labelled_set"].metadata["choices"])
)
TRAINED_ON = {"imagenetv2": "imagenet", "cifar10.1": "cifar10"}  # sets that are there to be tested on only
ALL = 10**10  # pictures: no set has more
MAX_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One training: an arm, and which of its replicates."""

    arm: str
    replicate: int

    @property
    def name(self) -> str:
        """Returns the last part of its tasks' names: `clip`, `clip_1`, `clip_2`."""
        return f"{self.arm}_{self.replicate}" if self.replicate else self.arm

    def on(self, labelled_set: str) -> str:
        """Returns the same for its tasks on a labelled set, `clip_1_cars`; the first set, "", goes without saying."""
        return f"{self.name}_{labelled_set.replace('.', '')}" if labelled_set else self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """The study's shape.

    Attributes:
        arms: Kinds of supervision; they share everything else.
        num_seeds: How often each is trained, on the same data.
        first_replicate: The number of the first training; it is added to the seed.
        labelled: Published labelled sets and their addresses. All are probed; the first is the one that embeddings
            are analysed on, in place of the source's own labelled pictures.
    """

    arms: tuple[str, ...] = DEFAULT_ARMS
    num_seeds: int = 1
    first_replicate: int = 0
    labelled: tuple[tuple[str, str], ...] = ()

    @property
    def encoders(self) -> list[Encoder]:
        """Returns every training, all arms of one seed before the next seed."""
        replicates = range(self.first_replicate, self.first_replicate + self.num_seeds)
        return [Encoder(arm, replicate) for replicate in replicates for arm in self.arms]

    @property
    def first(self) -> dict[str, str]:
        """Returns what build_shards is told of the first labelled set; nothing for the source's own pictures."""
        return {"labelled_set": self.labelled[0][0], "source_uri": self.labelled[0][1]} if self.labelled else {}

    @property
    def others(self) -> dict[str, dict[str, str]]:
        """Returns what build_shards is told of the other labelled sets, those without training pictures last."""
        in_order = sorted(self.labelled[1:], key=lambda found: found[0] in TRAINED_ON)
        return {name: {"purpose": "probe", "labelled_set": name, "source_uri": uri} for name, uri in in_order}

    def trained_on(self, encoder: Encoder, labelled_set: str) -> str:
        """Returns the task whose training pictures a probe on this set is fitted to; empty: the set's own."""
        if labelled_set not in TRAINED_ON:
            return ""
        wanted = TRAINED_ON[labelled_set]
        return f"extract_features/{encoder.on(wanted if wanted in self.others else '')}"

    @property
    def tasks(self) -> list[str]:
        """Returns the study's tasks in data order, each named by the folder that it writes."""
        names = [encoder.name for encoder in self.encoders]
        probed = [encoder.on(labelled) for encoder in self.encoders for labelled in ("", *self.others)]
        return [
            *(f"build_shards/{name}" for name in (*PURPOSES, *self.others)),
            *(f"pretrain/{name}" for name in names),
            *(f"{stage}/{name}" for stage in ("extract_features", "evaluate") for name in probed),
            "analyze_embeddings",
            *(f"{stage}/{name}" for stage in ("train_vlm", "benchmark_vlm") for name in names),
            "report",
        ]

    def inputs(self, task: str) -> dict[str, object]:
        """Returns what a task's own name says of its parameters."""
        stage, slash, name = task.partition("/")
        if stage == "build_shards":
            return {"purpose": name, **({"probe": self.first} | self.others).get(name, {})}
        arm, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
        return {"arm": arm, "replicate": int(number or 0)} if slash else {}

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each part that can't be studied."""
        for arm in self.arms:
            if arm not in ARMS:
                yield unknown_name(f"--arms={arm}", [f"--arms={a}" for a in ARMS])
        if len(set(self.arms)) < max(2, len(self.arms)):
            listed = ", ".join(ARMS)
            yield f"--arms={','.join(self.arms)} is no comparison: give two or more different arms of {listed}."
        if not 1 <= self.num_seeds <= MAX_SEEDS:
            yield f"--num-seeds={self.num_seeds} is not among 1 to {MAX_SEEDS}: 3 or more give intervals over seeds."
        if self.first_replicate < 0:
            yield f"--first-replicate={self.first_replicate} is below 0: it is added to the seed."
        yield from self._problems_of_sets()

    def _problems_of_sets(self) -> Iterator[str]:
        names = [name for name, _ in self.labelled]
        for name, uri in self.labelled:
            if name not in LABELLED_SETS:
                yield unknown_name(f"--labelled {name}", [f"--labelled {known}" for known in LABELLED_SETS])
            elif not uri:
                yield f"--labelled {name} has no address: write --labelled {name}=s3://bucket/folder."
            elif names.count(name) > 1:
                yield f"--labelled {name} is given twice: keep one."
            elif TRAINED_ON.get(name, name) not in names:
                yield f"--labelled {name} has no pictures to train a probe on: give --labelled {TRAINED_ON[name]} too."
        if names and names[0] in TRAINED_ON:
            yield f"--labelled {names[0]} can't be the first: it has no pictures to train a probe on."
