"""evaluate: how much of each factor a frozen encoder's features give away.

features, checked -> each factor by each method -> scores.json, predictions.safetensors -> manifest
"""

import json
from typing import Any

from safetensors.torch import save
from torch import Tensor

from components.core.evaluation import few_shot, knn, logistic_regression
from components.evaluate.leaks import count_leaks
from components.evaluate.params import Params
from components.evaluate.scoring import score
from components.evaluate.subjects import read_sets
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome, Stage

METHODS = ("probe", "logistic", "knn", "zero_shot", "few_shot")


def run(params: Params, stage: Stage) -> Outcome:
    """Scores every factor of the labelled set, and counts its pictures among those that the encoder was trained on."""
    manifest = stage.inputs["features"]
    sets = read_sets(params, stage)
    leaked = count_leaks(stage, sets.tested.ids_N.tolist())
    whose = {"arm": manifest.summary["arm"], "replicate": manifest.summary["replicate"]}
    scores: dict[str, Any] = whose | {method: {} for method in METHODS} | {"leaked": leaked, "warnings": []}
    predictions: dict[str, Tensor] = {}
    try:
        with stage.progress(len(sets.factors), "factor") as bar:
            for subject in sets.subjects():
                if stage.stopping():
                    raise Preempted("scores are written at the end; the next run starts over")
                found = score(subject, params)
                for method, of in found.scores.items():
                    scores[method][subject.factor] = of
                predictions |= {f"{name}/{subject.factor}": of_N for name, of_N in found.predictions.items()}
                for warning in found.warnings:
                    scores["warnings"].append(f"{subject.factor}: {warning}")
                    stage.log("warning", factor=subject.factor, problem=warning)
                bar.advance()
    except ValueError as error:
        raise BadInput(f"--features={params.features} can't be scored: {error}.") from error
    stage.out.write("scores.json", (json.dumps(scores, indent=1) + "\n").encode())
    stage.out.write("predictions.safetensors", save({name: of_N.contiguous() for name, of_N in predictions.items()}))
    return Outcome(
        kind="EvaluationManifest",
        files=["scores.json", "predictions.safetensors"],
        counts={"factors": len(sets.factors), "unusable": sets.tested.num_unusable + sets.trained.num_unusable},
        summary=whose | {"protocol": _protocol(params), "shards": manifest.summary["shards"], "leaked": leaked},
        metrics={
            f"{method}_{factor}": found["accuracy"]
            for method in ("probe", "logistic", "zero_shot")
            for factor, found in scores[method].items()
        },
    )


def _protocol(params: Params) -> str:
    num_heads = len(params.grid("probe_learning_rates")) * len(params.grid("probe_weight_decays"))
    where = "the train split of --train_features" if params.train_features else "train"
    return (
        f"frozen {'CLS' if params.token == 'cls' else 'mean patch'}; linear probe: standardised, AdamW, "
        f"{params.probe_epochs} epochs, grid of {num_heads}; logistic regression: L-BFGS, grid of "
        f"{len(logistic_regression.INVERSE_STRENGTHS)}; both chosen on {params.validation_fraction:.0%} of {where}; "
        f"k-NN: cosine, k of {', '.join(map(str, knn.NEIGHBOURS))}, T {params.knn_temperature:g}; few-shot: least "
        f"squares, {', '.join(map(str, few_shot.SHOTS))} pictures of a class, {params.few_shot_draws} draws; intervals "
        f"at {params.confidence:.0%}"
    )
