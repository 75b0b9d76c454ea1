"""evaluate: how much of each factor a frozen encoder's features give away."""

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from components.core.evaluation import knn, linear_probe, zero_shot
from components.core.evaluation.intervals import wilson
from components.evaluate.params import Params
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome, Stage


def run(params: Params, stage: Stage) -> Outcome:
    """Scores every factor of the labelled set by linear probe, k-NN and, for a language arm, zero-shot."""
    manifest = stage.inputs["features"]
    tensors = load(stage.folder("features").read("features.safetensors"))
    scores: dict[str, Any] = {"arm": manifest.summary["arm"], "probe": {}, "knn": {}, "zero_shot": {}}
    predictions: dict[str, Tensor] = {}
    factors: dict[str, list[str]] = manifest.summary["factors"]
    with stage.progress(len(factors), "factor") as bar:
        for factor, names in factors.items():
            if stage.stopping():
                raise Preempted("scores are written at the end; the next run starts over")
            try:
                _score(factor, len(names), tensors, params, scores, predictions)
            except ValueError as error:
                raise BadInput(f"factor '{factor}' of --features={params.features} can't be scored: {error}") from error
            bar.advance()
    stage.out.write("scores.json", (json.dumps(scores, indent=1, sort_keys=True) + "\n").encode())
    stage.out.write("predictions.safetensors", save(predictions))
    return Outcome(
        kind="EvaluationManifest",
        files=["scores.json", "predictions.safetensors"],
        counts={"factors": len(factors)},
        summary={"arm": manifest.summary["arm"], "protocol": _protocol(params)},
        metrics={
            f"{kind}_{factor}": found["accuracy"]
            for kind in ("probe", "zero_shot")
            for factor, found in scores[kind].items()
        },
    )


def _score(
    factor: str,
    num_classes: int,
    tensors: dict[str, Tensor],
    params: Params,
    scores: dict[str, Any],
    predictions: dict[str, Tensor],
) -> None:
    train_MD, labels_M, _ = _labelled(tensors, "train", factor)
    test_ND, labels_N, is_labelled = _labelled(tensors, "test", factor)
    if len(labels_N) == 0 or len(labels_M.unique()) < 2:
        raise ValueError(f"{len(labels_M.unique())} classes to train on and {len(labels_N)} pictures to test on")
    probe = linear_probe.fit(
        train_MD,
        labels_M,
        num_classes=num_classes,
        validation_fraction=params.validation_fraction,
        epochs=params.probe_epochs,
        batch_size=params.probe_batch_size,
        seed=params.seed,
    )
    predicted_N = probe.predict(test_ND)
    chance = float(torch.bincount(labels_M, minlength=num_classes)[labels_N].double().div(len(labels_M)).mean())

    def score(found_N: Tensor) -> dict[str, Any]:
        num_right, n = int((found_N == labels_N).sum()), len(labels_N)
        low, high = wilson(num_right, n, params.confidence)
        return {"accuracy": num_right / n, "low": low, "high": high, "n": n, "chance": chance}

    choice = {"learning_rate": probe.learning_rate, "weight_decay": probe.weight_decay}
    scores["probe"][factor] = score(predicted_N) | choice | {"validation_accuracy": probe.validation_accuracy}
    neighbours = knn.predict(
        train_MD,
        labels_M,
        test_ND,
        neighbours=knn.NEIGHBOURS,
        num_classes=num_classes,
        temperature=params.knn_temperature,
    )
    scores["knn"][factor] = {str(k): score(found_N) for k, found_N in neighbours.items()}
    if f"classes/{factor}" in tensors:
        found_N = zero_shot.predict(tensors["test/joint"][is_labelled], tensors[f"classes/{factor}"])
        scores["zero_shot"][factor] = score(found_N)
        predictions[f"zero_shot/{factor}"] = found_N
    predictions[f"probe/{factor}"] = predicted_N
    predictions[f"labels/{factor}"] = labels_N
    predictions[f"ids/{factor}"] = tensors["test/ids"][is_labelled].contiguous()


def _labelled(tensors: dict[str, Tensor], split: str, factor: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the CLS features and labels of the pictures that have this factor, and which ones they are."""
    labels = tensors[f"{split}/labels/{factor}"]
    is_labelled = labels >= 0
    return tensors[f"{split}/cls"][is_labelled], labels[is_labelled], is_labelled


def _protocol(params: Params) -> str:
    return (
        f"frozen CLS after the last norm; linear probe: standardised, AdamW, {params.probe_epochs} epochs, grid of "
        f"{len(linear_probe.GRID)} chosen on {params.validation_fraction:.0%} of train; k-NN: cosine, "
        f"T {params.knn_temperature:g}; Wilson intervals at {params.confidence:.0%}"
    )
