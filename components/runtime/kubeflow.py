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
    parts: Mapping[str, Sequence[str]] | None = None,
    *,
    dependencies: str,
) -> Any:
    """Returns the KFP component that runs a stage in a container: its image, and one `--name=value` per field.

    From `--executor_input` the stage learns where KFP wants its outputs. (KFP also has a placeholder for the output
    file's path, but its launcher on a cluster leaves that one unresolved; the executor input holds the path.)

    Args:
        params: The stage's parameters. Sources become artefact inputs, everything else an input parameter.
        outputs: The artefacts that the stage makes, by name; the first points to its manifest.
        parts: For a stage that reads one input per encoder: what the addresses of a source that takes many are
            called, by field; it becomes one input for each, named `<field>_<part>`.
        dependencies: The dependency set whose image runs the stage.
    """
    fields, parts = dataclasses.fields(params), parts or {}
    inputs = [parameter for field in fields for parameter in _inputs(field, parts)]
    made = [_parameter(name, dsl.Output[kind]) for name, kind in outputs.items()]
    in_order = sorted([*inputs, *made], key=lambda p: p.default is not inspect.Parameter.empty)

    def component(*values: Any) -> dsl.ContainerSpec:
        given = {parameter.name: value for parameter, value in zip(in_order, values, strict=True)}
        return dsl.ContainerSpec(
            image=IMAGE.format(dependencies=dependencies),
            command=["python", "-m", f"components.{params.stage_name()}"],
            args=[
                *(_word(field, parts, given) for field in fields),
                f"--executor_input={dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER}",
            ],
        )

    component.__name__ = params.stage_name()
    component.__doc__ = _docstring(params, parts)
    component.__signature__ = inspect.Signature(in_order)  # type: ignore[attr-defined]
    return dsl.container_component(component)


def _is_artifact(field: dataclasses.Field) -> bool:
    return bool(field.metadata.get("source")) and not field.metadata.get("optional")


def _names(field: dataclasses.Field, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the component's inputs that a field is made of."""
    if not (_is_artifact(field) and field.metadata.get("many")):
        return [field.name]
    return [f"{field.name}_{part}" for part in field.metadata.get("parts") or parts[field.name]]


def _inputs(field: dataclasses.Field, parts: Mapping[str, Sequence[str]]) -> list[inspect.Parameter]:
    if not _is_artifact(field):
        is_required = field.default is dataclasses.MISSING
        return [_parameter(field.name, field.type, inspect.Parameter.empty if is_required else field.default)]
    return [_parameter(name, dsl.Input[ARTIFACTS[field.metadata["kind"]]]) for name in _names(field, parts)]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default)


def _word(field: dataclasses.Field, parts: Mapping[str, Sequence[str]], given: Mapping[str, Any]) -> str:
    """Returns `--field=` with its value, or with all values for a source that takes many."""
    values = [given[name] for name in _names(field, parts)]
    return f"--{field.name}=" + ",".join(str(v.path if _is_artifact(field) else v) for v in values)


def _docstring(params: type[StageParams], parts: Mapping[str, Sequence[str]]) -> str:
    """Returns the dataclass's own text with an `Args` section, which KFP shows beside the inputs."""
    helps = {name: f.metadata["help"] for f in dataclasses.fields(params) for name in _names(f, parts)}
    rows = [f"    {name}: {text[:1].upper()}{text[1:]}." for name, text in helps.items()]
    return "\n".join([(params.__doc__ or "").strip(), "", "Args:", *rows])
