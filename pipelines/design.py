"""What a study compares: the arms, how often each is trained, and the labelled sets that probe them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from components.build_shards.params import Params as BuildShards
from components.pretrain.params import Params as Pretrain
from components.runtime.params import unknown_name

ARMS: tuple[str, ...] = Pretrain.__dataclass_fields__["arm"].metadata["choices"]
PURPOSES: tuple[str, ...] = BuildShards.__dataclass_fields__["purpose"].metadata["choices"]
DEFAULT_ARMS = ("clip", "dino")  # the paper's two; the others are variants
MAX_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One training: an arm, and which of its repetitions."""

    arm: str
    replicate: int

    @property
    def name(self) -> str:
        """Returns the last part of its tasks' names: `clip`, `clip_1`, `clip_2`."""
        return f"{self.arm}_{self.replicate}" if self.replicate else self.arm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """The study's shape.

    Attributes:
        arms: Kinds of supervision; they share everything else.
        num_seeds: How often each is trained, on the same data.
        first_replicate: The number of the first repetition; it is added to the seed.
    """

    arms: tuple[str, ...] = DEFAULT_ARMS
    num_seeds: int = 1
    first_replicate: int = 0

    @property
    def encoders(self) -> list[Encoder]:
        """Returns every training, all arms of one seed before the next seed."""
        replicates = range(self.first_replicate, self.first_replicate + self.num_seeds)
        return [Encoder(arm, replicate) for replicate in replicates for arm in self.arms]

    @property
    def names(self) -> list[str]:
        """Returns the encoders' names."""
        return [encoder.name for encoder in self.encoders]

    @property
    def tasks(self) -> list[str]:
        """Returns the study's tasks in data order, each named by the folder that it writes."""
        return [
            *(f"build_shards/{purpose}" for purpose in PURPOSES),
            *(f"{stage}/{name}" for stage in ("pretrain", "extract_features", "evaluate") for name in self.names),
            "analyze_embeddings",
            *(f"{stage}/{name}" for stage in ("train_vlm", "benchmark_vlm") for name in self.names),
            "report",
        ]

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each part that can't be compared."""
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


def set_by_design(task: str) -> Mapping[str, object]:
    """Returns what a task's own name says of its parameters."""
    variant = task.partition("/")[2]
    arm, number = re.fullmatch(r"(.*?)(?:_(\d+))?", variant).groups()  # type: ignore[union-attr]
    return {"arm": arm, "purpose": variant, "replicate": int(number or 0)} if variant else {}
