# M train, N test, D width, S side of a picture.
"""A look at the encoder while it trains: k-NN, and zero-shot for a language arm, on a small labelled set."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.data.augment import whole_views
from components.core.data.shard_samples import Sample
from components.core.evaluation import knn, zero_shot
from components.core.models.encoder import TextSide
from components.core.models.trunk import Trunk

NUM_TRAIN, NUM_TEST = 1000, 500
NEIGHBOURS = 20
TEMPERATURE = 0.07  # DINO's protocol
CHUNK = 250


class Probe:
    """The first pictures of each split, held in memory.

    Args:
        samples: A labelled set.
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
        limits = {"train": NUM_TRAIN, "test": NUM_TEST}
        for sample in samples:
            if len(kept[sample.split]) < limits[sample.split]:
                kept[sample.split].append(sample)
            if all(len(kept[split]) == limit for split, limit in limits.items()):
                break
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


def every(num_steps: int, look: Callable[[], dict[str, float]]) -> Callable[[int], dict[str, float]]:
    """Returns a function of the number of steps done that looks once per `num_steps`, and else gives nothing."""
    looked_at = 0

    def due(step: int) -> dict[str, float]:
        nonlocal looked_at
        if not num_steps or step // num_steps == looked_at // num_steps:
            return {}
        looked_at = step
        return look()

    return due
