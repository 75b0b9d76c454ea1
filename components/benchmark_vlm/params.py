"""Parameters of benchmark_vlm."""

import dataclasses

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Answers a multiple-choice benchmark in VMCBench's format with a vision-language model."""

    vlm: str = source(help="vision-language model from train_vlm", kind="Model")
    benchmark: str = source(help="benchmark parquet from build_shards", kind="Dataset")
    batch_size: int = knob(64, help="questions in one forward pass", low=1, high=10_000)
    mode: str = knob("score", help="compare the letters' scores, or generate and parse", choices=("score", "generate"))
    max_new_tokens: int = knob(16, help="generate: longest reply", low=1, high=4096)
    confidence: float = knob(0.95, help="coverage of the Wilson intervals", low=0.5, high=0.999)
