"""What the report is about: every arm with all that the stages found out about each of its trainings."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import safetensors.numpy

from components.core.evaluation import seeds
from components.report.findings.outcomes import (
    PICTURE_KINDS,
    MarkedTests,
    Tests,
    lined_up,
    marked_pictures,
    marked_questions,
)
from components.report.inputs import by_encoder
from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage
from components.runtime.storage import Folder

SCORED = (*PICTURE_KINDS, "few_shot")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training of an arm, and what was made of it.

    Attributes:
        replicate: Which of the arm's repetitions.
        evaluations: One for each labelled set.
        curve: Steps, samples seen and values of the training.
        scores: Accuracies on frozen features, of all labelled sets together: kind, then factor.
        benchmark_scores: Accuracies of the language model that reads this encoder.
        answers: Its answers, one dict per question, by index.
    """

    replicate: int
    checkpoint: Manifest
    evaluations: list[Manifest]
    vlm: Manifest
    benchmark: Manifest
    curve: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    benchmark_scores: dict[str, Any]
    answers: list[dict[str, Any]]

    @property
    def manifests(self) -> list[Manifest]:
        """Returns all manifests of this training."""
        return [self.checkpoint, *self.evaluations, self.vlm, self.benchmark]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One kind of supervision, such as `clip`, and its trainings in ascending order of their replicates."""

    name: str
    runs: list[Run]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(seeds.Estimate):
    """An arm's accuracy over its runs, beside that of guessing."""

    chance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """All arms, and what was found between them.

    Attributes:
        arms: In the order of the checkpoints; the others are compared to the first.
        replicates: The same for every arm, ascending.
        confidence: Coverage of all intervals.
        tests: Which items every run has right, by kind and name.
        projection: The map of the pictures; empty where there is none.
        sheets: The PNG sheets of pairs by name.
        data: The manifests of the shards and the benchmark.
    """

    arms: list[Arm]
    replicates: list[int]
    confidence: float
    tests: Tests
    analysis: dict[str, Any]
    analysis_manifest: Manifest
    pairs: dict[str, Any]
    projection: dict[str, Any]
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
        return self.names("probe")

    @property
    def groups(self) -> list[str]:
        """Returns the benchmark's groups."""
        return self.names("vmc")

    @property
    def sets(self) -> list[str]:
        """Returns the benchmark's sets, group by group."""
        scores = self.first.runs[0].benchmark_scores["sets"]
        order = {group: number for number, group in enumerate(self.groups)}
        return sorted(self.names("vmc_sets"), key=lambda name: order.get(scores[name]["group"], len(order)))

    def names(self, kind: str) -> list[str]:
        """Returns what a kind of test was made for: by every arm, or, for zero-shot, by one at least."""
        wanted = 1 if kind == "zero_shot" else len(self.arms)
        return [name for name, tested in self.tests.get(kind, {}).items() if len(tested.right) >= wanted]

    def accuracy(self, arm: str, kind: str, name: str) -> Accuracy | None:
        """Returns an arm's accuracy over its runs; None where it was not tested.

        Args:
            arm: Its name.
            kind: One of KINDS, or `vmc_micro` for the mean over all questions.
            name: Factor, group or set; `all` for `vmc_micro`.
        """
        tested = self.tests.get(kind, {}).get(name)
        if tested is None or arm not in tested.right:
            return None
        found = seeds.accuracy(tested.right[arm], self.confidence)
        return Accuracy(**dataclasses.asdict(found), chance=tested.chance)


def read_study(stage: Stage) -> Study:
    """Returns everything that the stage's inputs hold.

    Raises:
        BadInput: An encoder is missing somewhere or occurs twice, or the encoders were not tested on the same items.
    """
    found = by_encoder(stage)
    names = list(dict.fromkeys(arm for arm, _ in found["checkpoints"]))
    replicates = sorted({replicate for _, replicate in found["checkpoints"]})
    arms, marked = [], {}
    for name in names:
        read = [_read_run({field: of[name, number] for field, of in found.items()}) for number in replicates]
        arms.append(Arm(name=name, runs=[run for run, _ in read]))
        marked[name] = [tests for _, tests in read]
    _check_same_tests(arms, marked)
    folder, manifest = stage.folder("analysis"), stage.inputs["analysis"]
    return Study(
        arms=arms,
        replicates=replicates,
        confidence=_confidence(arms),
        tests=lined_up(marked),
        analysis=folder.read_json("analysis.json"),
        analysis_manifest=manifest,
        pairs=folder.read_json("pairs.json"),
        projection=folder.read_json("projection.json") if "projection.json" in manifest.files else {},
        sheets={name: folder.read(name) for name in manifest.files if name.endswith(".png")},
        data=stage.input_lists["shards"],
    )


def _read_run(found: dict[str, list[tuple[Manifest, Folder]]]) -> tuple[Run, MarkedTests]:
    """Returns one training, and what it made of every test."""
    ((checkpoint, trained),), ((vlm, _),), ((benchmark, asked),) = (
        found[field] for field in ("checkpoints", "vlms", "benchmarks")
    )
    summary = checkpoint.summary
    whose = f"{summary['arm']} (replicate {summary['replicate']})"
    answers = [json.loads(line) for line in asked.read("answers.jsonl").splitlines() if line.strip()]
    benchmark_scores = asked.read_json("scores.json")
    marked = marked_questions(benchmark_scores, answers, benchmark.summary.get("questions", ""))
    scores: dict[str, dict[str, Any]] = {}
    for evaluation, folder in found["evaluations"]:
        own = folder.read_json("scores.json")
        predictions = safetensors.numpy.load(folder.read("predictions.safetensors"))
        tests = marked_pictures(own, predictions, evaluation.summary.get("shards", ""), whose)
        if twice := sorted({name for _, name in tests.keys() & marked.keys()}):
            raise BadInput(
                f"--evaluations scores {whose} twice on {', '.join(twice)}: "
                "give each labelled set once for each encoder."
            )
        marked |= tests
        for kind in SCORED:
            scores.setdefault(kind, {}).update(own.get(kind, {}))
    run = Run(
        replicate=summary["replicate"],
        checkpoint=checkpoint,
        evaluations=[evaluation for evaluation, _ in found["evaluations"]],
        vlm=vlm,
        benchmark=benchmark,
        curve=trained.read_json("curve.json"),
        scores=scores,
        benchmark_scores=benchmark_scores,
        answers=sorted(answers, key=lambda answer: answer["index"]),
    )
    return run, marked


def _check_same_tests(arms: Sequence[Arm], marked: dict[str, list[MarkedTests]]) -> None:
    for arm in arms:
        for run, tests in zip(arm.runs, marked[arm.name], strict=True):
            if missing := sorted(f"{kind} of {name}" for kind, name in marked[arm.name][0].keys() ^ tests.keys()):
                raise BadInput(
                    f"{arm.name} was not tested alike in the replicates {arm.runs[0].replicate} and {run.replicate} "
                    f"({', '.join(missing)}): evaluate every replicate on the same sets."
                )
    asked = [[(a["index"], a["category"], a["answer"]) for a in run.answers] for arm in arms for run in arm.runs]
    if any(questions != asked[0] for questions in asked[1:]):
        raise BadInput(
            "--benchmarks holds answers to different questions: run benchmark_vlm of every arm on the same one."
        )


def _confidence(arms: Sequence[Arm]) -> float:
    manifests = [m for arm in arms for run in arm.runs for m in (*run.evaluations, run.benchmark)]
    confidences = sorted({manifest.params["confidence"] for manifest in manifests})
    if len(confidences) != 1:
        raise BadInput(
            "--evaluations and --benchmarks have intervals of different confidence "
            f"({', '.join(map(str, confidences))}): run evaluate and benchmark_vlm with the same --confidence."
        )
    return confidences[0]
