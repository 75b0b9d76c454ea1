"""A stage as a Kubeflow Pipelines container component, derived from its parameters."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl

from components.runtime.params import StageParams

IMAGE = "ceteris/{dependencies}:dev"
ARTIFACTS: dict[str, type[dsl.Artifact]] = {"Artifact": dsl.Artifact, "Dataset": dsl.Dataset, "Model": dsl.Model}


def container_component(
    params: type[StageParams],
    outputs: Mapping[str, type[dsl.Artifact]],
    arms: Sequence[str] = (),
    *,
    dependencies: str,
) -> Any:
    """Returns the KFP component that runs a stage in a container: its image, and one `--name=value` per field.

    From `--executor_input` the stage learns where KFP wants its outputs. (KFP also has a placeholder for the output
    file's path, but its launcher on a cluster leaves that one unresolved; the executor input holds the path.)

    Args:
        params: The stage's parameters. Sources become artefact inputs, everything else an input parameter.
        outputs: The artefacts that the stage makes, by name; the first points to its manifest.
        arms: For a stage that reads one input per arm: a source that takes many becomes one input per arm,
            named `<field>_<arm>`.
        dependencies: The dependency set whose image runs the stage.
    """
    fields = dataclasses.fields(params)
    inputs = [parameter for field in fields for parameter in _inputs(field, arms)]
    made = [_parameter(name, dsl.Output[kind]) for name, kind in outputs.items()]
    in_order = sorted([*inputs, *made], key=lambda p: p.default is not inspect.Parameter.empty)

    def component(*values: Any) -> dsl.ContainerSpec:
        given = {parameter.name: value for parameter, value in zip(in_order, values, strict=True)}
        return dsl.ContainerSpec(
            image=IMAGE.format(dependencies=dependencies),
            command=["python", "-m", f"components.{params.stage_name()}"],
            args=[
                *(_word(field, arms, given) for field in fields),
                f"--executor_input={dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER}",
            ],
        )

    component.__name__ = params.stage_name()
    component.__doc__ = _docstring(params, arms)
    component.__signature__ = inspect.Signature(in_order)  # type: ignore[attr-defined]
    return dsl.container_component(component)


def _is_artifact(field: dataclasses.Field) -> bool:
    return bool(field.metadata.get("source")) and not field.metadata.get("optional")


def _names(field: dataclasses.Field, arms: Sequence[str]) -> list[str]:
    """Returns the component's inputs that a field is made of."""
    parts = field.metadata.get("parts") or arms
    is_split = _is_artifact(field) and field.metadata.get("many")
    return [f"{field.name}_{part}" for part in parts] if is_split else [field.name]


def _inputs(field: dataclasses.Field, arms: Sequence[str]) -> list[inspect.Parameter]:
    if not _is_artifact(field):
        is_required = field.default is dataclasses.MISSING
        return [_parameter(field.name, field.type, inspect.Parameter.empty if is_required else field.default)]
    return [_parameter(name, dsl.Input[ARTIFACTS[field.metadata["kind"]]]) for name in _names(field, arms)]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default)


def _word(field: dataclasses.Field, arms: Sequence[str], given: Mapping[str, Any]) -> str:
    """Returns `--field=` with its value, or with the values of all arms for a source that takes many."""
    values = [given[name] for name in _names(field, arms)]
    return f"--{field.name}=" + ",".join(str(v.path if _is_artifact(field) else v) for v in values)


def _docstring(params: type[StageParams], arms: Sequence[str]) -> str:
    """Returns the dataclass's own text with an `Args` section, which KFP shows beside the inputs."""
    helps = {name: f.metadata["help"] for f in dataclasses.fields(params) for name in _names(f, arms)}
    rows = [f"    {name}: {text[:1].upper()}{text[1:]}." for name, text in helps.items()]
    return "\n".join([(params.__doc__ or "").strip(), "", "Args:", *rows])
