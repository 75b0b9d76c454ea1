"""A run is ended in Kubeflow Pipelines and on the cluster, and the command says so only when nothing is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import kube_config

from components.launch.gang import MANAGED, RUN
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from pipelines import cancel, patience
from pipelines.__main__ import main
from tests.pipelines.kfp_server import API, Fault, KfpServer, kfp_server
from tests.pipelines.kube_server import JOBS, PODS, KubeServer, kube_server


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[KfpServer, KubeServer]]:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(cancel, "LOOK_EVERY_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    with kfp_server() as kfp, kube_server(tmp_path) as (kube, kubeconfig):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp.url)
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        yield kfp, kube


@pytest.fixture
def run_id(servers: tuple[KfpServer, KubeServer]) -> str:
    """A run with two gangs of a pod each, its step, and a gang of another run."""
    kfp, kube = servers
    assert main(["submit", "--preset", "smoke", "--out", "s3://bucket/x", "--run", "mine"]) == EXIT_DONE
    (run_id,) = kfp.runs
    for name, of in (("clip", run_id), ("dino", run_id), ("other", "another-run")):
        labels = {MANAGED: "true", RUN: of}
        kube.add(JOBS, name, labels)
        kube.add(PODS, f"{name}-node-0-0", labels | {"job": name}, status={"phase": "Running"})
    kube.add(PODS, "step", {"pipeline/runid": run_id}, status={"phase": "Succeeded"})
    return run_id


def cancelled(*argv: str) -> int:
    return main(["cancel", "--namespace", "team", *argv])


def test_a_run_ends_with_its_gangs_and_pods(
    servers: tuple[KfpServer, KubeServer], run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kfp, kube = servers
    kfp.polls_to_cancel = 3
    assert cancelled("mine") == EXIT_DONE
    assert kfp.runs[run_id]["state"] == "CANCELED"
    assert [job["metadata"]["name"] for job in kube.lists[JOBS]] == ["other"]
    said = capsys.readouterr().out
    assert "Deleted the job clip." in said and "Deleted the job dino." in said and "Nothing of it is left" in said


def test_kfp_is_asked_before_a_job_is_deleted(servers: tuple[KfpServer, KubeServer], run_id: str) -> None:
    kfp, kube = servers
    kfp.faults.append(Fault("POST", ":terminate$", 500, times=1))
    assert cancelled("mine") == EXIT_FAILED
    assert kube.deleted == [] and kfp.runs[run_id]["state"] == "PENDING"


def test_a_job_that_stays_is_named_and_the_command_fails(
    servers: tuple[KfpServer, KubeServer], run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    servers[0].polls_to_cancel = 0
    servers[1].stubborn.add("dino")
    assert cancelled("mine", "--timeout", "0.2") == EXIT_FAILED
    said = capsys.readouterr().out
    assert "the job dino, the pod dino-node-0-0" in said and "clip" not in said.rpartition("After")[2]
    assert f"kubectl -n team get jobs.batch.volcano.sh,pods -l {MANAGED}=true,{RUN}={run_id}" in said


def test_a_step_that_still_runs_is_waited_for(
    servers: tuple[KfpServer, KubeServer], run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    servers[0].polls_to_cancel = 0
    servers[1].add(PODS, "launcher", {"pipeline/runid": run_id}, status={"phase": "Running"})
    assert cancelled("mine", "--timeout", "0.2") == EXIT_FAILED
    assert "there is still the pod launcher:" in capsys.readouterr().out


def test_a_run_that_has_ended_is_cleared_of_what_it_left(
    servers: tuple[KfpServer, KubeServer], run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kfp, kube = servers
    kfp.end(run_id, "FAILED", {})
    assert cancelled(run_id) == EXIT_DONE
    assert sorted(kube.deleted) == ["clip", "dino"] and ("POST", f"{API}/runs/{run_id}:terminate") not in kfp.calls
    assert "has ended already: FAILED" in capsys.readouterr().out


def test_cancelling_twice_is_no_harm(servers: tuple[KfpServer, KubeServer], run_id: str) -> None:
    assert cancelled("mine") == cancelled("mine") == EXIT_DONE


def test_an_unknown_run_is_refused(
    servers: tuple[KfpServer, KubeServer], run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cancelled("nobody") == EXIT_BAD_INPUT
    assert "The run nobody is not at" in capsys.readouterr().err and servers[1].deleted == []


def test_without_a_cluster_nothing_is_ended(
    servers: tuple[KfpServer, KubeServer],
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
    assert cancelled("mine") == EXIT_BAD_INPUT
    assert "KUBECONFIG" in capsys.readouterr().err and servers[0].runs[run_id]["state"] == "PENDING"
