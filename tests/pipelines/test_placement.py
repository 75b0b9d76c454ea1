"""On a cluster: gang stages become their launchers, steps stand on their pools, retry with backoff, cache when safe."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.launch.gang import ARM, STAGE, read_pool, read_pools
from components.launch.order import read_shape
from components.runtime import metrics
from components.runtime.errors import BadInput
from components.runtime.readme import stages
from pipelines.design import Design
from pipelines.local import Machine
from pipelines.package import write_package
from pipelines.placement import (
    LONGEST_WAIT_S,
    RETRIES,
    RETRY_FACTOR,
    RETRY_WAIT_S,
    WORKFLOW_TTL_S,
    Site,
    gang_argument,
    read_images,
)
from pipelines.presets import PRESETS
from tests.launch.gangs import gang

DIGEST = "sha256:" + 64 * "0"
IMAGES = {name: f"registry/{name}@{DIGEST}" for name in ("cpu", "train", "vlm", "launcher")}
POOLS = """
pools:
  cpu: {cpus: 32, memoryGib: 64, envFromSecrets: [bucket-keys], env: {LANG: C}}
  gpu:
    cpus: 12
    memoryGib: 96
    gpus: 1
    nodeSelector: {cloud.example/pool: l40s}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    imagePullSecrets: [registry]
  gang: {cpus: 96, memoryGib: 768, gpus: 8, queue: training, devices: {rdma/hca: 8}}
"""


def documents(tmp_path: Path, preset: str, site: Site) -> tuple[dict[str, Any], dict[str, Any]]:
    recipe = PRESETS[preset]
    path = tmp_path / "study.yaml"
    write_package(path, Design(arms=("clip", "dino")), recipe, recipe.knobs, site)
    found = list(yaml.safe_load_all(path.read_text()))
    return found[0], found[1] if len(found) > 1 else {}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return documents(
        tmp_path_factory.mktemp("paper"), "paper", Site(images=IMAGES, pools=read_pools(POOLS), scheduler="kubernetes")
    )


def container(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def platform(documents: tuple[dict[str, Any], dict[str, Any]], name: str) -> dict[str, Any]:
    return documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]


@pytest.mark.parametrize(
    ("name", "arm", "nodes"), [("pretrain", "clip", 2), ("pretrain-2", "dino", 2), ("train-vlm", "clip", 1)]
)
def test_a_gang_stage_becomes_its_launcher(
    paper: tuple[dict[str, Any], dict[str, Any]], name: str, arm: str, nodes: int
) -> None:
    step = container(paper[0], name)
    stage = name.removesuffix("-2").replace("-", "_")
    assert step["command"] == ["python", "-m", "components.launch"]
    assert step["image"] == IMAGES["launcher"] and step["args"][0] == f"--stage={stage}"
    assert any(word.startswith("--out_uri=") for word in step["args"])
    assert "--executor_input={{$}}" in step["args"]
    shape = json.loads(step["args"][-1].removeprefix("--gang="))
    assert (shape["arm"], shape["num_nodes"]) == (arm, nodes)
    assert shape["image"] == IMAGES["vlm" if stage == "train_vlm" else "train"]
    pool = shape["pool"]
    assert read_pool(pool.pop("name"), pool) == read_pools(POOLS)["gang"]
    assert step["resources"]["resourceCpuRequest"] == "1" and "accelerator" not in step["resources"]
    env = {each["name"]: each["fieldPath"] for each in platform(paper, name)["fieldPathAsEnv"]}
    assert env["CETERIS_RUN"] == "metadata.labels['pipeline/runid']"
    assert env["CETERIS_WORKFLOW"] == "metadata.labels['workflows.argoproj.io/workflow']"


def test_a_launchers_arguments_are_the_stages_own(tmp_path: Path, paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    alone = documents(tmp_path, "paper", Site(images=IMAGES))[0]
    assert container(alone, "pretrain")["args"] == container(paper[0], "pretrain")["args"][1:-1]
    assert container(alone, "pretrain")["command"] == ["python", "-m", "components.pretrain"]


def test_a_step_stands_on_its_pool(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    gpu, cpu = platform(paper, "extract-features"), platform(paper, "report")
    assert gpu["nodeSelector"] == {"labels": {"cloud.example/pool": "l40s"}}
    assert gpu["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert [each["secretName"] for each in gpu["imagePullSecret"]] == ["registry"]
    (secret,) = cpu["secretAsEnv"]
    assert secret["secretName"] == "bucket-keys" and secret["optional"]
    assert {each["envVar"] for each in secret["keyToEnv"]} >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert {"name": "LANG", "value": "C"} in container(paper[0], "report")["env"]
    assert [s["secretName"] for s in platform(paper, "pretrain")["secretAsEnv"]] == ["bucket-keys"]


def test_every_task_is_retried_with_growing_waits(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    policies = [task["retryPolicy"] for task in paper[0]["root"]["dag"]["tasks"].values()]
    assert policies and all(
        (p["maxRetryCount"], p["backoffDuration"], p["backoffFactor"], p["backoffMaxDuration"])
        == (RETRIES, f"{RETRY_WAIT_S}s", RETRY_FACTOR, f"{LONGEST_WAIT_S}s")
        for p in policies
    )


def test_prometheus_finds_every_step_by_its_labels_and_port(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for label, executor in paper[0]["deploymentSpec"]["executors"].items():
        name = label.removeprefix("exec-")
        variables = {one["name"]: one["value"] for one in executor["container"]["env"]}
        assert variables[metrics.PORT_VARIABLE] == str(metrics.PORT)
        labels = platform(paper, name)["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "ceteris" and labels["ceteris.io/stage"] in stages()
        assert "ceteris.io/managed" not in labels  # by which gangs are deleted
        asks_for_gpu = "accelerator" in executor["container"].get("resources", {})
        assert variables.get(metrics.GPUS_VARIABLE) == ("1" if asks_for_gpu else None)
    of_gang, launcher = gang(arm="clip").labels(), platform(paper, "pretrain")["podMetadata"]["labels"]
    assert {key: launcher[key] for key in (STAGE, ARM)} == {key: of_gang[key] for key in (STAGE, ARM)}


def test_on_this_machine_a_stage_is_tried_once_and_launches_nothing(tmp_path: Path) -> None:
    spec, platforms = documents(tmp_path, "paper", Site())
    assert not any("retryPolicy" in task for task in spec["root"]["dag"]["tasks"].values())
    assert "components.launch" not in json.dumps(spec) and "resourceTtlOnCompletion" not in json.dumps(platforms)


def test_a_finished_runs_pods_go_after_a_week(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert f'"resourceTtlOnCompletion": {WORKFLOW_TTL_S}' in json.dumps(paper[1])


def cached(spec: dict[str, Any]) -> set[str]:
    tasks = spec["root"]["dag"]["tasks"].values()
    return {task["taskInfo"]["name"] for task in tasks if task["cachingOptions"].get("enableCache")}


def test_only_what_the_cache_key_tells_whole_is_cached(tmp_path: Path) -> None:
    arms = ("clip", "dino")
    expected = {f"{stage} {arm}" for stage in ("extract_features", "benchmark_vlm") for arm in arms}
    expected |= {"analyze_embeddings"}
    for preset in ("smoke", "small", "paper"):
        spec = documents(tmp_path, preset, Site(images=IMAGES, pools={}, scheduler="kubernetes"))[0]
        assert cached(spec) == expected, "gangs, folders of others, addresses as text and models by name are not"


@pytest.mark.parametrize(
    "image", ["registry/train:1", "registry/train:1@sha256:00", f"registry/train@{DIGEST}0", "train"]
)
def test_a_task_with_an_image_by_tag_is_never_cached(tmp_path: Path, image: str) -> None:
    spec = documents(tmp_path, "paper", Site(images=IMAGES | {"train": image}, pools={}, scheduler="kubernetes"))[0]
    assert cached(spec) == {"benchmark_vlm clip", "benchmark_vlm dino"}


def test_a_gang_without_a_pool_of_its_own_asks_for_its_hardware(tmp_path: Path) -> None:
    spec = documents(tmp_path, "paper", Site(images=IMAGES, pools={}, scheduler="kubernetes"))[0]
    shape = json.loads(container(spec, "pretrain")["args"][-1].removeprefix("--gang="))
    assert {k: shape["pool"][k] for k in ("name", "cpus", "memoryGib", "gpus")} == {
        "name": "gang",
        "cpus": 96,
        "memoryGib": 768,
        "gpus": 8,
    }


def test_a_pool_that_lacks_what_a_stage_asks_for_is_refused(tmp_path: Path) -> None:
    pools = read_pools("pools: {gangs: {cpus: 8, memoryGib: 8}, gpu: {cpus: 8, memoryGib: 8}}")
    with pytest.raises(BadInput) as refused:
        documents(tmp_path, "paper", Site(images=IMAGES, pools=pools, scheduler="kubernetes"))
    said = "\n".join(refused.value.problems)
    assert "pretrain needs the node pool gang: pools.gang is unknown: did you mean pools.gangs?" in said
    assert "evaluate needs GPUs and the node pool gpu has 0 a node" in said
    assert not (tmp_path / "study.yaml").exists()


def test_images_are_read_and_refused_at_once() -> None:
    assert read_images(["cpu=a/b@sha256:1", "train=c=d"]) == {"cpu": "a/b@sha256:1", "train": "c=d"}
    with pytest.raises(BadInput) as refused:
        read_images(["cp=x", "train="])
    assert len(refused.value.problems) == 2


def test_on_this_machine_only_the_encoders_are_trained_by_gangs(tmp_path: Path) -> None:
    machine = Machine(is_docker=True, num_nodes=3)
    hardware = machine.hardware(PRESETS["smoke"].hardware)
    assert [name for name, asked in hardware.items() if asked.is_gang] == ["pretrain"]
    site = machine.site(["/runs/a"])
    argument = gang_argument(hardware["pretrain"], site, "ceteris/train:dev", "clip")
    shape = read_shape(argument.removeprefix("--gang="))
    assert (shape.num_nodes, shape.scheduler, shape.folders) == (3, "local_docker", ("/runs/a",))
    assert shape.pool.num_processes == 1
    assert Machine().site([]).scheduler == ""
