"""What the report is about: every arm with all that the stages found out about it."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage
from components.runtime.storage import Folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One kind of supervision.

    Attributes:
        name: Such as `clip`.
        curve: Steps, samples seen and values of the training.
        scores: Accuracies on frozen features.
        is_right: Per factor, which labelled test pictures the probe has right.
        tested: Per factor, the labels of these pictures.
        benchmark_scores: Accuracies of the language model that reads this encoder.
        answers: Its answers, one dict per question, by index.
    """

    name: str
    checkpoint: Manifest
    evaluation: Manifest
    vlm: Manifest
    benchmark: Manifest
    curve: dict[str, Any]
    scores: dict[str, Any]
    is_right: dict[str, np.ndarray]
    tested: dict[str, np.ndarray]
    benchmark_scores: dict[str, Any]
    answers: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """All arms, and what was found between them.

    Attributes:
        arms: In the order of the checkpoints; the others are compared to the first.
        confidence: Coverage of all intervals.
        data: The manifests of the shards and the benchmark.
        sheets: The PNG sheets of pairs by name.
    """

    arms: list[Arm]
    confidence: float
    analysis: dict[str, Any]
    analysis_manifest: Manifest
    pairs: dict[str, Any]
    sheets: dict[str, bytes]
    data: list[Manifest]

    @property
    def first(self) -> Arm:
        """Returns the arm that the others are compared to."""
        return self.arms[0]

    @property
    def others(self) -> list[Arm]:
        """Returns all arms but the first."""
        return self.arms[1:]

    @property
    def factors(self) -> list[str]:
        """Returns the factors that every arm was probed for."""
        return [f for f in self.first.scores["probe"] if all(f in arm.scores["probe"] for arm in self.others)]

    @property
    def groups(self) -> list[str]:
        """Returns the benchmark's groups that every arm was asked."""
        scores = [arm.benchmark_scores["groups"] for arm in self.arms]
        return [g for g in scores[0] if all(g in other for other in scores)]

    @property
    def sets(self) -> list[str]:
        """Returns the benchmark's sets that every arm was asked, group by group."""
        scores = [arm.benchmark_scores["sets"] for arm in self.arms]
        shared = [s for s in scores[0] if all(s in other for other in scores)]
        return sorted(shared, key=lambda name: scores[0][name]["group"])


def read_study(stage: Stage) -> Study:
    """Returns everything that the stage's inputs hold.

    Raises:
        BadInput: An arm is missing somewhere or occurs twice, or the arms were not tested on the same items.
    """
    found = {name: _by_arm(stage, name) for name in ("checkpoints", "evaluations", "vlms", "benchmarks")}
    arms = [_read_arm(name, {field: of[name] for field, of in found.items()}) for name in found["checkpoints"]]
    if len(arms) < 2:
        raise BadInput("--checkpoints holds one arm: a comparison needs two or more.")
    for arm in arms[1:]:
        _check_same_items(arms[0], arm)
    folder, manifest = stage.folder("analysis"), stage.inputs["analysis"]
    confidences = {m.params["confidence"] for arm in arms for m in (arm.evaluation, arm.benchmark)}
    if len(confidences) != 1:
        raise BadInput(
            f"--evaluations and --benchmarks have intervals of different confidence ({_listed(confidences)}): "
            "run evaluate and benchmark_vlm with the same --confidence."
        )
    return Study(
        arms=arms,
        confidence=confidences.pop(),
        analysis=folder.read_json("analysis.json"),
        analysis_manifest=manifest,
        pairs=folder.read_json("pairs.json"),
        sheets={name: folder.read(name) for name in manifest.files if name.endswith(".png")},
        data=stage.input_lists["shards"],
    )


def _by_arm(stage: Stage, field: str) -> dict[str, tuple[Manifest, Folder]]:
    manifests, folders = stage.input_lists[field], stage.folders(field)
    arms = [manifest.summary["arm"] for manifest in manifests]
    expected = [manifest.summary["arm"] for manifest in stage.input_lists["checkpoints"]]
    if len(set(arms)) != len(arms) or set(arms) != set(expected):
        raise BadInput(
            f"--{field} holds the arms {_listed(arms)}: expected each of {_listed(expected)} once, as in --checkpoints."
        )
    return dict(zip(arms, zip(manifests, folders, strict=True), strict=True))


def _read_arm(name: str, found: dict[str, tuple[Manifest, Folder]]) -> Arm:
    folders = {field: folder for field, (_, folder) in found.items()}
    scores = folders["evaluations"].read_json("scores.json")
    predictions = safetensors.numpy.load(folders["evaluations"].read("predictions.safetensors"))
    answers = [json.loads(line) for line in folders["benchmarks"].read("answers.jsonl").splitlines() if line.strip()]
    return Arm(
        name=name,
        checkpoint=found["checkpoints"][0],
        evaluation=found["evaluations"][0],
        vlm=found["vlms"][0],
        benchmark=found["benchmarks"][0],
        curve=folders["checkpoints"].read_json("curve.json"),
        scores=scores,
        is_right={factor: _is_right(name, factor, scores, predictions) for factor in scores["probe"]},
        tested={factor: _labelled(predictions[f"labels/{factor}"]) for factor in scores["probe"]},
        benchmark_scores=folders["benchmarks"].read_json("scores.json"),
        answers=sorted(answers, key=lambda answer: answer["index"]),
    )


def _is_right(arm: str, factor: str, scores: dict[str, Any], predictions: dict[str, np.ndarray]) -> np.ndarray:
    labels = predictions[f"labels/{factor}"]
    is_right = (predictions[f"probe/{factor}"] == labels)[labels >= 0]
    stated = scores["probe"][factor]["accuracy"]
    if not len(is_right) or abs(is_right.mean() - stated) > 1e-4:
        raise BadInput(
            f"--evaluations: the predictions of {arm} for {factor} don't give its accuracy of {stated:.4f}: "
            "delete that folder and run evaluate again."
        )
    return is_right


def _labelled(labels: np.ndarray) -> np.ndarray:
    return labels[labels >= 0]


def _check_same_items(first: Arm, other: Arm) -> None:
    for factor in first.is_right.keys() & other.is_right.keys():
        if not np.array_equal(first.tested[factor], other.tested[factor]):
            raise BadInput(
                f"--evaluations: {first.name} and {other.name} were tested on different pictures for {factor}: "
                "evaluate features of the same shards."
            )
    asked = [[(a["index"], a["category"], a["answer"]) for a in arm.answers] for arm in (first, other)]
    if asked[0] != asked[1]:
        raise BadInput(
            f"--benchmarks: {first.name} and {other.name} were asked different questions: "
            "run benchmark_vlm of every arm on the same benchmark."
        )


def _listed(values: Sequence[Any] | set[Any]) -> str:
    return ", ".join(str(value) for value in values)
