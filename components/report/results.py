"""results.json: what the study found, without anything that differs between two runs of the same study.

`results.schema.json` beside this file is its JSON Schema.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.evaluation.seeds import Difference
from components.report.findings.compare import Compared
from components.report.findings.comparisons import Comparison
from components.report.findings.outcomes import SCHEMA, describe_outcomes
from components.report.findings.parity import Parity
from components.report.study import Arm, Study

DIGITS = 6


def results(
    study: Study,
    comparisons: Sequence[Comparison],
    parity: Parity,
    compared: Compared | None,
    verdict: Sequence[str],
) -> dict[str, Any]:
    """Returns the content of results.json; numbers have six decimals, and one that is not finite is null."""
    found = {
        "schema": SCHEMA,
        "confidence": study.confidence,
        "replicates": study.replicates,
        "protocols": sorted({e.summary["protocol"] for arm in study.arms for run in arm.runs for e in run.evaluations}),
        "arms": {arm.name: _arm(study, arm) for arm in study.arms},
        "differences": {
            "first": study.first.name,
            "against": {comparison.other: _differences(comparison.differences) for comparison in comparisons},
        },
        "compared": _compared(compared) if compared else None,
        "items": describe_outcomes(study.tests),
        "parity": parity.hashes
        | parity.downstream
        | {"equal": parity.is_equal, "differs": [dataclasses.asdict(d) for d in parity.differs]},
        "embeddings": study.analysis,
        "verdict": list(verdict),
    }
    return _rounded(found)


def _arm(study: Study, arm: Arm) -> dict[str, Any]:
    """Returns an arm's seeds, what its training cost by count, and its accuracy by kind and name."""
    summary = arm.runs[0].checkpoint.summary
    samples, flops = summary["num_samples_seen"], summary["train_flops_per_sample"]
    asked = [run.benchmark_scores for run in arm.runs]
    return {
        "seeds": [run.checkpoint.params["seed"] + run.replicate for run in arm.runs],
        "cost": {
            "num_samples_seen": samples,
            "train_flops_per_sample": flops,
            "train_flops_per_run": samples * flops,
        },
        "few_shot": _few_shot(arm),
        "vmc_macro": _spread([scores["macro"] for scores in asked]),
        "vmc_unparsed_rate": _spread([scores["unparsed_rate"] for scores in asked]),
    } | {
        kind: {name: dataclasses.asdict(found) for name in of_kind if (found := study.accuracy(arm.name, kind, name))}
        for kind, of_kind in study.tests.items()
    }


def _few_shot(arm: Arm) -> dict[str, dict[str, Any]]:
    """Returns the accuracy from a few examples of each class, by factor and number of examples."""
    of_runs = [run.scores.get("few_shot", {}) for run in arm.runs]
    return {
        factor: {shots: _spread([of[factor][shots]["accuracy"] for of in of_runs]) for shots in of_factor}
        for factor, of_factor in of_runs[0].items()
    }


def _spread(per_run: Sequence[float]) -> dict[str, Any]:
    mean = sum(per_run) / len(per_run)
    squares = sum((value - mean) ** 2 for value in per_run)
    return {"mean": mean, "sd": math.sqrt(squares / max(len(per_run) - 1, 1)), "per_run": list(per_run)}


def _differences(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, Any]:
    return {
        kind: {name: dataclasses.asdict(d) | {"sign": d.sign, "covers_seeds": d.covers_seeds} for name, d in of.items()}
        for kind, of in found.items()
    }


def _compared(compared: Compared) -> dict[str, Any]:
    return {
        "title": compared.title,
        "digest": compared.digest,
        "is_paired": compared.is_paired,
        "unpaired": [f"{kind} of {name}" for kind, name in compared.unpaired],
        "only_here": compared.only_here,
        "only_there": compared.only_there,
        "differences": {arm: _differences(of) for arm, of in compared.differences.items()},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
    return value
