"""What a study's knobs are worth: the stage's own default, then the preset's number, then the command line's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from components.analyze_embeddings.params import Params as AnalyzeEmbeddings
from components.benchmark_vlm.params import Params as BenchmarkVlm
from components.build_shards.params import Params as BuildShards
from components.evaluate.params import Params as Evaluate
from components.extract_features.params import Params as ExtractFeatures
from components.pretrain.params import Params as Pretrain
from components.report.params import Params as Report
from components.runtime.errors import BadInput
from components.runtime.params import StageParams, as_text, from_text, unknown_name
from components.train_vlm.params import Params as TrainVlm
from pipelines.design import PURPOSES, Design

Knobs = Mapping[str, Mapping[str, Any]]  # task or stage -> knob -> value

STAGES: dict[str, type[StageParams]] = {
    cls.stage_name(): cls
    for cls in (
        BuildShards,
        Pretrain,
        ExtractFeatures,
        Evaluate,
        AnalyzeEmbeddings,
        TrainVlm,
        BenchmarkVlm,
        Report,
    )
}
STUDY_WIDE = {"seed": "--seed", "source_uri": "--source"}  # one value for all stages, so an option of its own
SET_BY_STUDY = ("out_uri", "arm", "replicate", "purpose", "labelled_set", "study", "compare")


def chosen(knobs: Knobs, task: str) -> dict[str, Any]:
    """Returns the knobs of a task that differ from the stage's defaults."""
    return {**knobs.get(task.partition("/")[0], {}), **knobs.get(task, {})}


def value(knobs: Knobs, task: str, name: str) -> Any:
    """Returns what one knob of a task is worth."""
    default = STAGES[task.partition("/")[0]].__dataclass_fields__[name].default
    return chosen(knobs, task).get(name, default)


def params_of(knobs: Knobs, task: str, design: Design, source_uri: str, seed: int) -> StageParams:
    """Returns a task's parameters, with a stand-in for every address.

    Raises:
        BadInput: Values that the stage would refuse.
    """
    cls = STAGES[task.partition("/")[0]]
    fields = cls.__dataclass_fields__
    set_by_study = {
        "source_uri": source_uri,
        **design.inputs(task),
        "seed": seed,
        **dict.fromkeys(("out_uri", *cls.sources()), "elsewhere"),
    }
    return cls(**chosen(knobs, task) | {k: v for k, v in set_by_study.items() if k in fields})


def problems(knobs: Knobs, design: Design, source_uri: str, seed: int) -> list[str]:
    """Returns a sentence for everything that a stage of the study would refuse, each once."""
    found: dict[str, None] = {}
    for task in design.tasks:
        try:
            params_of(knobs, task, design, source_uri, seed)
        except BadInput as error:
            name = task if task.startswith("build_shards") else task.partition("/")[0]
            found |= {f"{name}: {problem}": None for problem in error.problems}
    return list(found)


def with_overrides(knobs: Knobs, words: Sequence[str]) -> Knobs:
    """Returns the knobs changed by words such as `pretrain.depth=6` or `build_shards/probe.num_samples=900`.

    A word for a whole stage also replaces what the preset says of one of its tasks.

    Raises:
        BadInput: One sentence for each unknown stage or knob, and each value of a wrong type.
    """
    changed = {name: dict(values) for name, values in knobs.items()}
    wrong: list[str] = []
    for word in words:
        try:
            task, name, wanted = _parse(word)
        except BadInput as error:
            wrong += error.problems
            continue
        for values in (v for t, v in changed.items() if t.startswith(f"{task}/")):
            values.pop(name, None)
        changed.setdefault(task, {})[name] = wanted
    if wrong:
        raise BadInput(*wrong)
    return changed


def _parse(word: str) -> tuple[str, str, Any]:
    left, equals, text = word.partition("=")
    task, dot, name = left.partition(".")
    if not equals or not dot:
        raise BadInput(f"--set {word} is not understood: write --set stage.knob=value.")
    targets = [*STAGES, *(f"build_shards/{purpose}" for purpose in PURPOSES)]
    if task not in targets:
        raise BadInput("--set: " + unknown_name(f"stage {task}", [f"stage {t}" for t in targets]))
    cls = STAGES[task.partition("/")[0]]
    if name in STUDY_WIDE:
        raise BadInput(f"--set {word} would change one stage only: use {STUDY_WIDE[name]} for the whole study.")
    known = {f.name: f for f in dataclasses.fields(cls) if f.name not in (*SET_BY_STUDY, *STUDY_WIDE, *cls.sources())}
    if name not in known:
        raise BadInput("--set: " + unknown_name(f"{task}.{name}", [f"{task}.{k}" for k in known]))
    try:
        return task, name, from_text(known[name].type, text)
    except ValueError:
        kind = {int: "a whole number", float: "a number", bool: "true or false"}[known[name].type]  # type: ignore[index]
        help_text = known[name].metadata["help"]
        raise BadInput(f"--set {task}.{name}={as_text(text)} is not {kind}: give {help_text}.") from None
