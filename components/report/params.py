"""Parameters of report."""

import dataclasses

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Writes the study's page, its Markdown and its `results.json`."""

    checkpoints: str = source(help="encoders from pretrain, one for each training of each arm", kind="Model", many=True)
    evaluations: str = source(
        help="results of evaluate, one or more for each training of each arm", kind="Artifact", many=True
    )
    analysis: str = source(help="result of analyze_embeddings", kind="Artifact")
    vlms: str = source(help="models from train_vlm, one for each training of each arm", kind="Model", many=True)
    benchmarks: str = source(
        help="results of benchmark_vlm, one for each training of each arm", kind="Artifact", many=True
    )
    shards: str = source(
        help="the study's data from build_shards, for their counts and rejects",
        kind="Dataset",
        parts=("pretrain", "probe", "instruct", "benchmark"),
    )
    compare: str = source(
        help="another study's report to lay beside this one; empty: none", kind="Artifact", optional=True
    )
    title: str = knob("Data or language supervision?", help="headline of the page")
    gpu_hour_price: float = knob(0.0, help="price of one GPU-hour, for the cost table; 0 leaves it out", low=0)
