"""results.json: what the study found, without anything that differs between two runs of the same study."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from components.report.comparisons import Comparison
from components.report.parity import Parity
from components.report.study import Arm, Study

SCHEMA = 1
DIGITS = 6


def results(study: Study, comparisons: Sequence[Comparison], parity: Parity, verdict: list[str]) -> dict[str, Any]:
    """Returns the content of results.json; numbers have six decimals, and one that is not finite is null."""
    found = {
        "schema": SCHEMA,
        "confidence": study.confidence,
        "arms": {arm.name: _arm(arm) for arm in study.arms},
        "differences": {
            "first": study.first.name,
            "against": {
                comparison.other: {
                    kind: {name: dataclasses.asdict(d) for name, d in getattr(comparison, kind).items()}
                    for kind in ("probe", "vmc", "vmc_sets")
                }
                for comparison in comparisons
            },
        },
        "parity": parity.hashes
        | parity.downstream
        | {"equal": parity.is_equal, "differs": [dataclasses.asdict(d) for d in parity.differs]},
        "embeddings": study.analysis,
        "verdict": verdict,
    }
    return _rounded(found)


def _arm(arm: Arm) -> dict[str, Any]:
    asked = arm.benchmark_scores
    return {
        "seed": arm.checkpoint.params["seed"],
        "num_samples_seen": arm.checkpoint.summary["num_samples_seen"],
        "train_flops_per_sample": arm.checkpoint.summary["train_flops_per_sample"],
        "probe": arm.scores["probe"],
        "knn": arm.scores["knn"],
        "zero_shot": arm.scores["zero_shot"],
        "vmc": asked["groups"],
        "vmc_sets": asked["sets"],
        "vmc_micro": asked["micro"],
        "vmc_macro": asked["macro"],
        "vmc_unparsed_rate": asked["unparsed_rate"],
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
    return value
