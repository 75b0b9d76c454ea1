"""The reaper takes what nobody waits for, and nothing else."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.launch.reaper import WORKFLOW_LABEL, reap
from components.runtime.errors import StageFailure
from components.runtime.logs import Log
from tests.launch.api_server import api_server
from tests.launch.launchers import NAME, Launch, job


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with api_server() as server:
        yield Launch(server, tmp_path / "out")


def make_job(launch: Launch, owner: dict[str, Any] | None) -> None:
    made = job()
    if owner:
        about = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        made["metadata"]["ownerReferences"] = [{"apiVersion": "v1"} | about]
    launch.cluster().create(made)
    launch.server.sleep(30)
    assert launch.server.of("Pod")


def sweep(launch: Launch, **how: Any) -> list[str]:
    return reap(launch.cluster(), Log("reaper", io.StringIO()), **how)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Error"])
def test_fault_54_the_gang_of_a_run_that_is_over_is_gone_in_a_minute(launch: Launch, phase: str) -> None:
    flow = launch.server.add("Workflow", "flow", status={"phase": "Running"})
    make_job(launch, flow)
    assert sweep(launch) == []
    flow["status"]["phase"] = phase
    assert sweep(launch) == [NAME]
    launch.server.sleep(60)
    assert launch.is_empty()


def test_fault_54_the_gang_of_a_run_that_is_gone_goes_too(launch: Launch) -> None:
    make_job(launch, launch.server.add("Workflow", "flow", status={}))
    launch.server.drop("Workflow", "flow")
    assert sweep(launch) == [NAME]


def test_a_run_of_the_same_name_is_another_one(launch: Launch) -> None:
    make_job(launch, launch.server.add("Workflow", "flow", status={}))
    launch.server.drop("Workflow", "flow")
    launch.server.add("Workflow", "flow", status={"phase": "Running"})
    assert sweep(launch) == [NAME]


def test_fault_51_an_evicted_step_keeps_its_gang_while_its_run_goes_on(launch: Launch) -> None:
    flow = launch.server.add("Workflow", "flow", status={"phase": "Running"})
    step = launch.server.add(
        "Pod", "step", spec={}, status={"phase": "Failed"}, metadata={"labels": {WORKFLOW_LABEL: "flow"}}
    )
    make_job(launch, step)
    assert sweep(launch) == []
    flow["status"]["phase"] = "Failed"
    assert sweep(launch) == [NAME]


def test_a_job_without_an_owner_is_left_alone(launch: Launch) -> None:
    make_job(launch, None)
    assert sweep(launch) == []


def test_a_dry_run_deletes_nothing(launch: Launch) -> None:
    make_job(launch, launch.server.add("Workflow", "flow", status={"phase": "Failed"}))
    assert sweep(launch, is_dry=True) == [NAME]
    assert "deletionTimestamp" not in launch.server.of("Job")[0]["metadata"]


def test_what_may_not_be_read_is_not_taken_for_gone(launch: Launch) -> None:
    make_job(launch, launch.server.add("Workflow", "flow", status={"phase": "Failed"}))
    launch.server.forbidden = {("get", "Workflow")}
    with pytest.raises(StageFailure, match="cannot get resource"):
        sweep(launch)
    assert "deletionTimestamp" not in launch.server.of("Job")[0]["metadata"]
