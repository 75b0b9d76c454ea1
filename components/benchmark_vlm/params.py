"""Parameters of benchmark_vlm."""

import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob, source

QUESTIONS_PER_PART = 256  # whose replies are kept together; those of an unfinished part are asked for again


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Answers a multiple-choice benchmark in VMCBench's format with a vision-language model."""

    vlm: str = source(help="vision-language model from train_vlm", kind="Model")
    benchmark: str = source(
        help="benchmark parquet from build_shards; it is not looked at where `questions` is given",
        kind="Dataset",
        may_be_empty=True,
    )
    questions: str = knob(
        "",
        help="published questions in place of `benchmark`: a parquet file, or a folder of them (path, file:// or "
        "s3://), with VMCBench's columns; empty: those of `benchmark`",
    )
    other_group: bool = knob(
        False, help="whether sets of no known group make up the group `other`; false: they are refused"
    )
    batch_size: int = knob(64, help="questions in one forward pass", low=1, high=QUESTIONS_PER_PART)
    num_reader_threads: int = knob(2, help="threads that decode while the model answers", low=1, high=256)
    mode: str = knob("score", help="compare the letters' scores, or generate and parse", choices=("score", "generate"))
    max_new_tokens: int = knob(16, help="generate: longest reply", low=1, high=4096)
    confidence: float = knob(0.95, help="coverage of the Wilson intervals", low=0.5, high=0.999)

    def conflicts(self) -> Iterator[str]:
        """Refuses to ask nothing."""
        if not (self.benchmark.strip() or self.questions.strip()):
            yield "--benchmark is empty: give build_shards' benchmark, or published parquet files as --questions."

    def knobs(self) -> dict[str, object]:
        """Leaves out what changes no answer."""
        return {name: value for name, value in super().knobs().items() if name != "num_reader_threads"}
