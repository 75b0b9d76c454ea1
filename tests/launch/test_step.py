"""The step as the pipeline starts it: command line and variables in; one job, a manifest and KFP's outputs out."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.launch import __main__ as step
from components.launch.gang import label_value
from components.launch.order import read_order
from components.runtime.manifest import Manifest, write_manifest
from components.runtime.params import StageParams
from components.runtime.storage import LocalFolder
from tests.launch.api_server import api_client, api_server
from tests.launch.gangs import IMAGE
from tests.launch.launchers import Launch
from tests.launch.simulated_cluster import Plan

RUN_ID = "0b6f6f2e-4f3c-4f0a-9d5e-2f1f0c9a7b11"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Gives a launcher's world whose time is the simulated cluster's, for the step too."""
    with api_server() as server:
        monkeypatch.setattr(step, "connect", lambda: (api_client(server), "runs"))
        cluster = functools.partial(step.KubernetesCluster, clock=server.clock, sleep=server.sleep)
        monkeypatch.setattr(step, "KubernetesCluster", cluster)
        world = Launch(server, tmp_path / "out")
        gang = functools.partial(step.run_gang, clock=server.clock, screen=world.screen)
        monkeypatch.setattr(step, "run_gang", gang)
        monkeypatch.setenv("CETERIS_RUN", RUN_ID)
        monkeypatch.setenv("CETERIS_WORKFLOW", "flow")
        monkeypatch.setenv("MLFLOW_RUN_ID", "c0ffee")
        monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
        yield world


def manifest(stage: str, params: dict[str, Any], inputs: dict[str, str], **summary: Any) -> Manifest:
    return Manifest(
        kind="M", stage=stage, params=params, inputs=inputs, files={}, counts={}, summary=summary, cost={}, code={}
    )


def words(tmp_path: Path, **shape: Any) -> list[str]:
    """Returns the step's command line, its shards behind a pointer of KFP's."""
    shards = LocalFolder(tmp_path / "shards")
    made = manifest("build_shards", {}, {}, purpose="pretrain")
    write_manifest(shards, made)
    pointer = tmp_path / "pointer"
    pointer.write_text(json.dumps({"folder": shards.uri, "digest": made.digest, "kind": "M"}))
    output = {"name": "encoder", "type": {"schemaTitle": "system.Model"}, "uri": str(tmp_path / "kfp" / "encoder")}
    kfp = {"artifacts": {"encoder": {"artifacts": [output]}}, "outputFile": str(tmp_path / "kfp" / "output.json")}
    pool = {"name": "gang", "cpus": 8, "memoryGib": 64, "gpus": 8}
    gang = {"num_nodes": 2, "image": IMAGE, "arm": "clip", "pool": pool} | shape
    return [
        "--stage=pretrain",
        f"--out_uri={tmp_path / 'out'}",
        "--arm=clip",
        f"--shards={pointer}",
        f"--executor_input={json.dumps({'outputs': kfp})}",
        f"--gang={json.dumps(gang)}",
    ]


def finish(launch: Launch, values: StageParams, tmp_path: Path) -> None:
    """Lets the simulated gang write the stage's own manifest."""
    shards = manifest("build_shards", {}, {}, purpose="pretrain").digest
    made = manifest("pretrain", values.knobs(), {"shards": shards})
    launch.server.on_done = lambda: write_manifest(launch.out, made)


def test_a_step_makes_one_job_of_its_run_and_hands_the_result_to_kfp(launch: Launch, tmp_path: Path) -> None:
    flow = launch.server.add("Workflow", "flow", status={})
    argv = words(tmp_path)
    finish(launch, read_order(argv).values, tmp_path)
    jobs: list[dict[str, Any]] = []
    launch.server.fault = lambda call: jobs.extend(launch.server.of("Job")) or ""
    assert step.main(argv) == 0
    (name,) = launch.server.created
    about = jobs[0]["metadata"]
    assert about["labels"]["ceteris.io/run"] == label_value(RUN_ID)
    owner = about["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Workflow", "flow", flow["metadata"]["uid"])
    containers = [task["template"]["spec"]["containers"][0] for task in jobs[0]["spec"]["tasks"]]
    said = [word for word in containers[0]["command"] if word.startswith("--shards=")]
    assert said == [f"--shards={LocalFolder(tmp_path / 'shards').uri}"], "a pointer of KFP's means nothing in the gang"
    assert not [word for word in containers[0]["command"] if word.startswith(("--gang=", "--executor_input="))]
    tracked = [any(each["name"] == "MLFLOW_RUN_ID" for each in container["env"]) for container in containers]
    assert tracked == [True, False]
    assert json.loads((tmp_path / "kfp" / "encoder").read_text())["folder"] == launch.out.uri
    assert launch.is_empty() and name.startswith("pretrain-clip-")


def test_the_same_step_again_makes_no_second_job(launch: Launch, tmp_path: Path) -> None:
    launch.server.add("Workflow", "flow", status={})
    argv = words(tmp_path)
    finish(launch, read_order(argv).values, tmp_path)
    assert step.main(argv) == 0
    (tmp_path / "kfp" / "encoder").unlink()
    assert step.main(argv) == 0
    assert len(launch.server.created) == 1
    assert (tmp_path / "kfp" / "encoder").exists()


def test_fault_62_two_runs_of_one_name_and_two_addresses_have_jobs_of_their_own(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch.server.add("Workflow", "flow", status={})
    launch.server.plans = [Plan(waiting=("ImagePullBackOff", "not found"))] * 3
    argv = words(tmp_path)
    assert step.main(argv) == 1
    monkeypatch.setenv("CETERIS_RUN", "another-run")
    assert step.main(argv) == 1
    argv[1] += "-2"
    assert step.main(argv) == 1
    assert len(set(launch.server.created)) == 3


def test_the_pools_limits_are_obeyed(launch: Launch, tmp_path: Path) -> None:
    launch.server.add("Workflow", "flow", status={})
    launch.server.plans = [Plan(queue_s=10_000.0, unschedulable="0/2 nodes are available: 2 Insufficient gpu.")]
    pool = {"name": "gang", "cpus": 8, "memoryGib": 64, "gpus": 8, "queueTimeoutSeconds": 600}
    begun = launch.server.now
    assert step.main(words(tmp_path, pool=pool)) == 1
    assert 600 <= launch.server.now - begun < 1200
    assert "waited in the queue for 600 s" in (tmp_path / "log.jsonl").read_text()


def test_a_step_whose_run_is_over_launches_nothing(launch: Launch, tmp_path: Path) -> None:
    assert step.main(words(tmp_path)) == 2
    assert "CETERIS_WORKFLOW=flow is not in namespace runs" in (tmp_path / "log.jsonl").read_text()
    assert launch.server.created == []
