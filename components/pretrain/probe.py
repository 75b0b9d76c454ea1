# M train, N test, D width, S side of a picture.
"""A look at the encoder while it trains: k-NN, and zero-shot for a language arm, on a small labelled set."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.data.augment import whole_views
from components.core.data.sample_table import Files, read_sample_table
from components.core.data.shard_samples import Sample, ShardsManifest, VerifyingFolder, read_chosen
from components.core.evaluation import knn, zero_shot
from components.core.models.encoder import TextSide
from components.core.models.trunk import Trunk

NUM_OF_SPLIT = {"train": 1000, "test": 500}
NEIGHBOURS = 20
TEMPERATURE = 0.07  # DINO's protocol
CHUNK = 250


class LabelledFolder(VerifyingFolder, Files, Protocol):
    """Where labelled shards and their table are."""


def spread(folder: LabelledFolder, manifest: ShardsManifest) -> Iterator[Sample]:
    """Yields NUM_OF_SPLIT samples of each split, evenly spread: a published set has its classes one after the other."""
    split_N = numpy.array(read_sample_table(folder, ["split"])["split"])
    chosen: set[int] = set()
    for split, wanted in NUM_OF_SPLIT.items():
        of_split = numpy.flatnonzero(split_N == split)
        chosen |= set(of_split[numpy.linspace(0, len(of_split) - 1, min(wanted, len(of_split))).astype(int)].tolist())
    yield from read_chosen(folder, manifest, chosen)


class Probe:
    """A few labelled pictures, held in memory.

    Args:
        samples: Of both splits.
        factors: Class names by factor.
        prompts: For the factors that language names, the texts of each class.
        image_size_px: S.

    Raises:
        ValueError: The set lacks train or test pictures.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        factors: dict[str, list[str]],
        prompts: dict[str, dict[str, list[str]]],
        image_size_px: int,
    ) -> None:
        self.factors, self.prompts = factors, prompts
        kept: dict[str, list[Sample]] = {"train": [], "test": []}
        for sample in samples:
            kept[sample.split].append(sample)
        if len(kept["train"]) < NEIGHBOURS or not kept["test"]:
            raise ValueError(
                f"a probe needs {NEIGHBOURS} train pictures and some test pictures; "
                f"there are {len(kept['train'])} and {len(kept['test'])}."
            )
        self._views = {
            split: whole_views([sample.image for sample in found], image_size_px) for split, found in kept.items()
        }
        self._labels = {
            (split, factor): torch.tensor([sample.labels.get(factor, -1) for sample in found])
            for split, found in kept.items()
            for factor in factors
        }

    @torch.no_grad()
    def __call__(self, trunk: Trunk, side: TextSide | None) -> dict[str, float]:
        """Returns accuracies by `knn_<factor>` and, with a text side, `zero_shot_<factor>`."""
        device = next(trunk.parameters()).device
        was_training = trunk.training
        trunk.eval()
        cls = {
            split: torch.cat([trunk(part.to(device)).float().cpu() for part in views.split(CHUNK)])
            for split, views in self._views.items()
        }
        trunk.train(was_training)
        found = {f"knn_{factor}": self._knn(cls, factor) for factor in self.factors}
        if side is not None:
            joint_NE = F.normalize(cls["test"] @ side.projection_DE.float().cpu(), dim=1)
            found |= {f"zero_shot_{factor}": self._zero_shot(joint_NE, factor, side) for factor in self.prompts}
        return found

    def _knn(self, cls: dict[str, Tensor], factor: str) -> float:
        is_labelled_M, is_labelled_N = (self._labels[split, factor] >= 0 for split in ("train", "test"))
        predicted_N = knn.predict(
            cls["train"][is_labelled_M],
            self._labels["train", factor][is_labelled_M],
            cls["test"][is_labelled_N],
            neighbours=[NEIGHBOURS],
            num_classes=len(self.factors[factor]),
            temperature=TEMPERATURE,
        )[NEIGHBOURS]
        return float((predicted_N == self._labels["test", factor][is_labelled_N]).float().mean())

    def _zero_shot(self, joint_NE: Tensor, factor: str, side: TextSide) -> float:
        prompts = [self.prompts[factor][name] for name in self.factors[factor]]
        predicted_N = zero_shot.predict(joint_NE, zero_shot.class_embeddings(side, prompts).cpu())
        return float((predicted_N == self._labels["test", factor]).float().mean())


def every(num_steps: int, between: int, look: Callable[[], dict[str, float]]) -> Callable[[int], dict[str, float]]:
    """Returns a function of the number of steps done that looks once per `num_steps`, and else gives nothing.

    Args:
        num_steps: Between two looks; 0: never.
        between: Steps between two calls. Nothing is remembered: a resumed training looks at the same steps.
        look: Returns what is seen.
    """

    def due(step: int) -> dict[str, float]:
        is_due = num_steps and step // num_steps != (step - between) // num_steps
        return look() if is_due else {}

    return due
