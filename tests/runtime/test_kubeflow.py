"""A stage's KFP component says what its parameters say, and its command line is theirs."""

import dataclasses
import importlib
import re
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl
from kfp.local import placeholder_utils

from components.report.params import Params as Report
from components.runtime.params import parse
from pipelines.knobs import STAGES

ARMS = ("clip", "dino")


def artifacts_of(stage: str) -> dict[str, dataclasses.Field]:
    """Returns the sources that KFP hands on as artefacts: those that can't be left out."""
    return {name: f for name, f in STAGES[stage].sources().items() if not f.metadata.get("optional")}


def component_of(stage: str) -> Any:
    made = getattr(importlib.import_module(f"components.{stage}.component"), stage)
    many = {name: ARMS for name, f in artifacts_of(stage).items() if f.metadata["many"] and not f.metadata["parts"]}
    return made(many) if many else made


def compiled(stage: str, tmp_path: Any) -> dict[str, Any]:
    path = tmp_path / f"{stage}.yaml"
    compiler.Compiler().compile(component_of(stage), str(path))
    return yaml.safe_load(path.read_text())


def parts_of(field: dataclasses.Field) -> tuple[str, ...]:
    """Returns what each address of a source that takes several is called."""
    return field.metadata["parts"] or ARMS


def argv(spec: dict[str, Any], parameters: dict[str, Any], artifacts: dict[str, str]) -> list[str]:
    """Returns the container's arguments after KFP's own replacement of placeholders."""
    (executor,) = spec["deploymentSpec"]["executors"].values()
    given = {
        "parameterValues": parameters,
        "artifacts": {n: {"artifacts": [{"uri": u, "customPath": u}]} for n, u in artifacts.items()},
    }
    return placeholder_utils.replace_placeholders(
        full_command=executor["container"]["args"],
        executor_input_dict={"inputs": given, "outputs": {"outputFile": "/kfp/executor_output.json"}},
        pipeline_resource_name="study",
        task_resource_name="task",
        pipeline_root="/kfp",
        unique_pipeline_id="1",
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_component_gives_its_stage_the_command_line_that_the_parameters_write(stage: str, tmp_path: Any) -> None:
    cls = STAGES[stage]
    required = {"arm": "clip", "purpose": "probe", "out_uri": "s3://bucket/out"}
    sources = {name: ",".join(f"s3://b/{a}" for a in parts_of(f)) if f.metadata["many"] else "s3://b/one"
               for name, f in artifacts_of(stage).items()}  # fmt: skip
    params = cls(**sources | {k: v for k, v in required.items() if k in cls.__dataclass_fields__})
    names = {f.name for f in dataclasses.fields(cls)}
    values = {name: getattr(params, name) for name in names - sources.keys()}
    addresses: dict[str, str] = {}
    for name, field in artifacts_of(stage).items():
        addresses |= (
            {f"{name}_{a}": f"s3://b/{a}" for a in parts_of(field)} if field.metadata["many"] else {name: "s3://b/one"}
        )
    words = argv(compiled(stage, tmp_path), values, addresses)
    own = [word for word in words if not word.startswith("--executor_input=")]
    assert parse(cls, own) == params
    assert own == params.argv()


def test_defaults_and_help_in_the_component_are_those_of_the_parameters(tmp_path: Any) -> None:
    spec = compiled("report", tmp_path)
    inputs = spec["components"]["comp-report"]["inputDefinitions"]
    fields = Report.__dataclass_fields__
    assert inputs["parameters"]["title"]["defaultValue"] == fields["title"].default
    for name, parameter in inputs["parameters"].items():
        assert parameter["description"].lower() == fields[name].metadata["help"].lower() + "."
    assert set(inputs["artifacts"]) == {
        "analysis",
        *(f"{field}_{arm}" for field in ("checkpoints", "evaluations", "vlms", "benchmarks") for arm in ARMS),
        *(f"shards_{purpose}" for purpose in ("pretrain", "probe", "instruct", "benchmark")),
    }


def test_sources_keep_their_artefact_types(tmp_path: Any) -> None:
    artifacts = compiled("report", tmp_path)["components"]["comp-report"]["inputDefinitions"]["artifacts"]
    assert artifacts["vlms_clip"]["artifactType"]["schemaTitle"] == dsl.Model.schema_title
    assert artifacts["analysis"]["artifactType"]["schemaTitle"] == dsl.Artifact.schema_title


def test_every_component_names_the_image_of_a_dependency_set(tmp_path: Any) -> None:
    for stage in STAGES:
        (executor,) = compiled(stage, tmp_path)["deploymentSpec"]["executors"].values()
        assert re.fullmatch(r"ceteris/(cpu|train|vlm):dev", executor["container"]["image"])
        assert executor["container"]["command"] == ["python", "-m", f"components.{stage}"]
