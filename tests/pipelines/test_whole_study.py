"""The whole study at its smallest, as a person runs it."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from pipelines.scores import scores_table
from tests.s3 import s3_server, use_s3

SCORE = {"mean": 0.5, "low": 0.4, "high": 0.61}


pytestmark = pytest.mark.timeout(1800)


def command(runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", "local", "--preset", "smoke", "--runs", str(runs), *more]


def run_smoke(runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(runs, *more), capture_output=True, text=True, check=False)


def results(run: Path) -> bytes:
    return (run / "report" / "results.json").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from start to end, without disturbance."""
    runs = tmp_path_factory.mktemp("unbroken")
    ended = run_smoke(runs)
    assert ended.returncode == 0, ended.stderr
    assert str(runs / "smoke" / "report" / "report.html") in ended.stdout and "linear probe" in ended.stdout
    return runs / "smoke"


@pytest.mark.slow
def test_a_finished_study_is_not_made_twice(unbroken: Path) -> None:
    before = results(unbroken)
    again = run_smoke(unbroken.parent)
    assert again.returncode == 0 and again.stderr.count("already done") == 16
    assert results(unbroken) == before


@pytest.mark.slow
def test_the_results_hold_every_score_and_the_proof_of_parity(unbroken: Path) -> None:
    found = json.loads(results(unbroken))
    assert found["arms"].keys() == {"clip", "dino"}
    for arm in found["arms"].values():
        assert {"object", "word", "colour", "style"} <= arm["probe"].keys()
        assert arm["vmc"].keys() == {"general", "reasoning", "ocr", "doc & chart"}
        for score in [*arm["probe"].values(), *arm["vmc"].values()]:
            assert {"mean", "low", "high", "n", "chance", "per_run"} <= score.keys()
    for name in ("trunk_init", "manifest", "sample_order", "schedule"):
        assert found["parity"][name]["clip"] == found["parity"][name]["dino"] != ""
    assert found["parity"]["differs"]


@pytest.mark.slow
def test_mlflow_has_a_run_per_task_below_the_studys(unbroken: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{unbroken / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 17 and len(children) == 16 and {run.info.status for run in runs} == {"FINISHED"}
    (clip,) = (run for run in children if run.info.run_name == "pretrain/clip")
    assert clip.data.params["arm"] == "clip" and clip.data.tags["ceteris.manifest"].endswith("manifest.json")
    assert len(client.get_metric_history(clip.info.run_id, "samples_seen")) > 1


@pytest.mark.slow
def test_a_study_that_was_killed_and_interrupted_ends_with_the_same_results(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    killed = disturb(tmp_path, "pretrain/dino", run / "pretrain/dino/checkpoints", lambda runner, stage: stage.kill())
    assert killed.returncode == 1 and "SIGKILL" in killed.stderr.read()
    interrupted = disturb(
        tmp_path,
        "train_vlm/clip",
        run / "logs/train_vlm/clip.log",
        lambda runner, stage: runner.send_signal(signal.SIGINT),
    )
    assert interrupted.returncode == 3
    assert run_smoke(tmp_path).returncode == 0
    assert results(run) == results(unbroken)


def disturb(runs: Path, task: str, sign: Path, act: Callable[[Any, Any], None]) -> Any:
    """Runs the study until a task has written the file or folder `sign`, disturbs it, and waits for the end."""
    runner = subprocess.Popen(command(runs), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not sign.exists():
        assert runner.poll() is None, f"the study ended before {task}"
        time.sleep(0.02)
    for child in psutil.Process(runner.pid).children():
        with contextlib.suppress(psutil.Error):  # a stage that ended meanwhile
            if f"--out_uri={runs}/smoke/{task}" in child.cmdline():
                act(runner, child)
    runner.wait()
    return runner


@pytest.mark.slow
def test_a_study_in_s3_has_the_same_results(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        store = boto3.client("s3")
        store.create_bucket(Bucket="studies")
        ended = run_smoke(tmp_path, "--out", "s3://studies/smoke")
        assert ended.returncode == 0, ended.stderr
        assert "s3://studies/smoke/report/report.html" in ended.stdout
        found = store.get_object(Bucket="studies", Key="smoke/report/results.json")["Body"].read()
    assert found == results(unbroken)


def test_scores_of_all_arms_stand_side_by_side_with_their_intervals() -> None:
    arms = {
        "clip": {"probe": {"object": SCORE}, "vmc": {"ocr": SCORE}, "vmc_unparsed_rate": {"mean": 0.0}},
        "dino": {"probe": {"object": SCORE | {"mean": None}}, "vmc": {}, "vmc_unparsed_rate": {"mean": 0.125}},
    }
    lines = scores_table({"confidence": 0.95, "replicates": [0, 1, 2], "arms": arms}).splitlines()
    assert lines[0] == "accuracy in %, mean of 3 runs, 95 % intervals"
    assert [line.split() for line in lines[1:]] == [
        ["linear", "probe", "clip", "dino"],
        ["object", "50.0", "(40.0", "to", "61.0)", "-"],
        ["multiple", "choice", "clip", "dino"],
        ["ocr", "50.0", "(40.0", "to", "61.0)", "-"],
        ["unparsed", "replies", "0.0", "12.5"],
    ]
