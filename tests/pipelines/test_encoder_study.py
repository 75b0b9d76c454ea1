"""The compiled study: its edges, its inputs, and that KFP reads it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from pipelines.design import Design
from pipelines.knobs import value
from pipelines.package import write_package
from pipelines.placement import ACCELERATOR, Site
from pipelines.presets import PRESETS

ARMS = ("clip", "dino")


@pytest.fixture(scope="module", params=PRESETS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("package") / "study.yaml"
    recipe = PRESETS[request.param]
    write_package(path, Design(arms=ARMS), recipe, recipe.knobs, Site(images={"train": "registry/train@sha256:00"}))
    return request.param, path


def spec_of(package: tuple[str, Path]) -> dict[str, Any]:
    return next(yaml.safe_load_all(package[1].read_text()))


def by_display_name(spec: dict[str, Any]) -> dict[str, Any]:
    return {task["taskInfo"]["name"].replace(" ", "/", 1): task for task in spec["root"]["dag"]["tasks"].values()}


def test_kfp_loads_the_package_and_its_inputs_can_be_overridden(package: tuple[str, Path]) -> None:
    loaded = components.load_component_from_file(str(package[1]))
    inputs = loaded.component_spec.inputs
    assert [name for name, spec in inputs.items() if not spec.optional] == ["out_uri"]
    assert {"seed", "source_uri", "num_samples_seen", "batch_size", "learning_rate"} <= inputs.keys()


def test_inputs_begin_at_the_preset_or_else_at_the_default(package: tuple[str, Path]) -> None:
    inputs = spec_of(package)["root"]["inputDefinitions"]["parameters"]
    knobs = PRESETS[package[0]].knobs
    assert inputs["batch_size"]["defaultValue"] == value(knobs, "pretrain", "batch_size")
    assert inputs["num_probe_samples"]["defaultValue"] == value(knobs, "build_shards/probe", "num_samples")
    assert all(parameter.get("description") for parameter in inputs.values())


def test_the_study_has_the_edges_of_the_data(package: tuple[str, Path]) -> None:
    found = by_display_name(spec_of(package))
    names = {key: task["taskInfo"]["name"].replace(" ", "/", 1)
             for key, task in spec_of(package)["root"]["dag"]["tasks"].items()}  # fmt: skip
    edges = {name: {names[dependency] for dependency in task.get("dependentTasks", ())} for name, task in found.items()}
    assert list(edges.keys() - set(Design(arms=ARMS).tasks)) == []
    watched = {"build_shards/probe"} if value(PRESETS[package[0]].knobs, "pretrain", "probe_every_steps") else set()
    assert edges["pretrain/clip"] == edges["pretrain/dino"] == {"build_shards/pretrain"} | watched
    assert edges["extract_features/dino"] == {"pretrain/dino", "build_shards/probe"}
    assert edges["evaluate/clip"] == {"extract_features/clip"}
    assert edges["analyze_embeddings"] == {"extract_features/clip", "extract_features/dino", "build_shards/probe"}
    assert edges["train_vlm/clip"] == {"pretrain/clip", "build_shards/instruct"}
    assert edges["benchmark_vlm/clip"] == {"train_vlm/clip", "build_shards/benchmark"}
    per_arm = ("pretrain", "evaluate", "train_vlm", "benchmark_vlm")
    data = {f"build_shards/{purpose}" for purpose in ("pretrain", "probe", "instruct", "benchmark")}
    assert edges["report"] == data | {"analyze_embeddings", *(f"{s}/{arm}" for s in per_arm for arm in ARMS)}


def test_arms_get_the_same_values_in_everything_but_the_arm(package: tuple[str, Path]) -> None:
    found = by_display_name(spec_of(package))
    clip, dino = (found[f"pretrain/{arm}"]["inputs"]["parameters"] for arm in ARMS)
    assert {name for name in clip if clip[name] != dino[name]} == {"arm", "out_uri"}


def test_each_seed_trains_every_arm_again_and_the_report_reads_them_all(tmp_path: Path) -> None:
    recipe = PRESETS["smoke"]
    design = Design(arms=ARMS, num_seeds=2, first_replicate=3)
    write_package(tmp_path / "study.yaml", design, recipe, recipe.knobs, Site())
    found = by_display_name(spec_of(("smoke", tmp_path / "study.yaml")))
    names = [encoder.name for encoder in design.encoders]
    assert names == ["clip_3", "dino_3", "clip_4", "dino_4"] and found.keys() == set(design.tasks)
    third, fourth = (found[f"pretrain/clip_{n}"]["inputs"]["parameters"] for n in (3, 4))
    assert {name for name in third if third[name] != fourth[name]} == {"replicate", "out_uri"}
    for stage, field in (("report", "evaluations"), ("report", "benchmarks"), ("analyze_embeddings", "features")):
        read = found[stage]["inputs"]["artifacts"]
        assert {name for name in read if name.startswith(field)} == {f"{field}_{name}" for name in names}


def test_published_sets_are_probed_and_the_first_is_analysed(tmp_path: Path) -> None:
    recipe = PRESETS["smoke"]
    sets = (("imagenet", "s3://b/imagenet"), ("imagenetv2", "s3://b/v2"), ("cars", "s3://b/cars"))
    design = Design(arms=ARMS, labelled=sets)
    write_package(tmp_path / "study.yaml", design, recipe, recipe.knobs, Site())
    found = by_display_name(spec_of(("smoke", tmp_path / "study.yaml")))
    assert found.keys() == set(design.tasks) and not list(design.problems())
    built = {name: found[f"build_shards/{name}"]["inputs"]["parameters"] for name in ("probe", "cars", "pretrain")}
    chosen = {
        name: inputs["labelled_set"]["runtimeValue"]["constant"] for name, inputs in built.items() if name != "pretrain"
    }
    assert chosen == {"probe": "imagenet", "cars": "cars"}
    assert "labelled_set" not in built["pretrain"] and built["pretrain"]["source_uri"] != built["cars"]["source_uri"]
    tested = found["evaluate/clip_imagenetv2"]
    assert tested["inputs"]["parameters"]["train_features"]["runtimeValue"]["constant"].endswith(
        "extract_features/clip"
    )
    assert "train_features" not in found["evaluate/clip_cars"]["inputs"]["parameters"]
    assert len(tested["dependentTasks"]) == 2
    read = found["report"]["inputs"]["artifacts"]
    assert {f"evaluations_{arm}{of}" for arm in ARMS for of in ("", "_cars", "_imagenetv2")} <= read.keys()
    assert {n for n in found["analyze_embeddings"]["inputs"]["artifacts"] if n != "shards"} == {
        "features_clip",
        "features_dino",
    }


def test_the_image_of_a_dependency_set_is_a_setting(package: tuple[str, Path]) -> None:
    executors = spec_of(package)["deploymentSpec"]["executors"]
    assert executors["exec-pretrain"]["container"]["image"] == "registry/train@sha256:00"
    assert executors["exec-report"]["container"]["image"] == "ceteris/cpu:dev"


def test_only_single_pod_stages_ask_for_gpus(package: tuple[str, Path]) -> None:
    executors = spec_of(package)["deploymentSpec"]["executors"]
    resources = {name: executor["container"]["resources"] for name, executor in executors.items()}
    gpus = {name for name, asked in resources.items() if "accelerator" in asked}
    single = {"exec-extract-features", "exec-evaluate", "exec-benchmark-vlm"}
    expected = {
        "smoke": set[str](),
        "laptop": set[str](),
        "small": single | {"exec-pretrain", "exec-train-vlm"},
        "paper": single,
    }[package[0]]
    assert gpus == expected | {f"{name}-2" for name in expected}
    assert all(resources[name]["accelerator"]["resourceType"] == ACCELERATOR for name in gpus)
    assert all(asked["resourceCpuRequest"] and asked["resourceMemoryRequest"] for asked in resources.values())
