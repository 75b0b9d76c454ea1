"""Parameters of evaluate."""

import dataclasses
from collections.abc import Iterable

from components.runtime.params import StageParams, knob, source

MAX_SETTINGS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Scores frozen features: two linear probes, k-NN, few-shot and, where the arm has a text tower, zero-shot."""

    features: str = source(help="features from extract_features", kind="Dataset")
    train_features: str = source(
        help="the same encoder's features of another set, whose train split trains the probes in place of the tested "
        "set's own: ImageNet's for ImageNetV2",
        kind="Dataset",
        optional=True,
    )
    shards: str = source(
        help="the labelled shards that `features` are of, for the check against `pretrain_shards`",
        kind="Dataset",
        optional=True,
    )
    pretrain_shards: str = source(
        help="shards that the encoder was trained on, to count the tested pictures among them; empty: unchecked",
        kind="Dataset",
        optional=True,
    )
    token: str = knob(
        "cls", help="which answer of the encoder is probed: CLS or the mean patch", choices=("cls", "patch_mean")
    )
    validation_fraction: float = knob(
        0.2, help="share of the training split on which probes are chosen", low=0.05, high=0.5
    )
    probe_epochs: int = knob(50, help="epochs of the linear probe", low=1, high=10_000)  # STUDY.md 3
    probe_batch_size: int = knob(512, help="batch of the linear probe", low=1, high=1_000_000)
    probe_learning_rates: str = knob(
        "0.001,0.003,0.01,0.03,0.1", help="learning rates of the linear probe's grid, ascending"
    )
    probe_weight_decays: str = knob("0,0.001,0.01,0.1,1", help="weight decays of the linear probe's grid, ascending")
    knn_temperature: float = knob(0.07, help="T in the vote's weight exp(similarity / T)", low=0.001, high=10)  # DINO
    few_shot_draws: int = knob(10, help="draws of the pictures for few-shot", low=2, high=1000)
    confidence: float = knob(0.95, help="coverage of the intervals", low=0.5, high=0.999)
    seed: int = knob(
        0, help="seed of the validation split, the probe's batches and the few-shot draws", low=0, high=2**31 - 1
    )

    def conflicts(self) -> Iterable[str]:
        """Returns a sentence for each grid that is none, and for half of what the check for leaks needs."""
        for name in ("probe_learning_rates", "probe_weight_decays"):
            if problem := _grid_problem(getattr(self, name), is_zero_allowed=name == "probe_weight_decays"):
                yield f"--{name}={getattr(self, name)} {problem}."
        if self.pretrain_shards and not self.shards:
            yield (
                f"--pretrain_shards={self.pretrain_shards} can't be looked through for the tested pictures: give the "
                "labelled shards that they came from as --shards."
            )

    def grid(self, name: str) -> tuple[float, ...]:
        """Returns the numbers of `probe_learning_rates` or `probe_weight_decays`."""
        return tuple(float(word) for word in getattr(self, name).split(","))


def _grid_problem(text: str, *, is_zero_allowed: bool) -> str:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        return "is not a list of numbers: write them with commas between"
    lowest = "at least 0" if is_zero_allowed else "above 0"
    if not all((number >= 0 if is_zero_allowed else number > 0) and number <= 1000 for number in numbers):
        return f"has numbers out of range: expected all {lowest} and at most 1000"
    if numbers != sorted(set(numbers)):
        return "is not ascending: sort it, each number once"
    return f"has over {MAX_SETTINGS} numbers: leave some out" if len(numbers) > MAX_SETTINGS else ""
