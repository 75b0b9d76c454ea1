"""Parameters of evaluate."""

import dataclasses

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Scores frozen features: linear probe, k-NN and, where the arm has a text tower, zero-shot."""

    features: str = source(help="features from extract_features", kind="Dataset")
    validation_fraction: float = knob(
        0.2, help="share of the training split on which the probe is chosen", low=0.05, high=0.5
    )
    probe_epochs: int = knob(50, help="epochs of the linear probe", low=1, high=10_000)  # STUDY.md 3
    probe_batch_size: int = knob(512, help="batch of the linear probe", low=1, high=1_000_000)
    knn_temperature: float = knob(0.07, help="T in the vote's weight exp(similarity / T)", low=0.001, high=10)  # DINO
    confidence: float = knob(0.95, help="coverage of the Wilson intervals", low=0.5, high=0.999)
    seed: int = knob(0, help="seed of the validation split and of the probe's batches", low=0, high=2**31 - 1)
