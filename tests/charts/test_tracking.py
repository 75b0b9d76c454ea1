"""MLflow as the chart renders it, against a real PostgreSQL and an S3 server: who gets in, and what is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import pytest

from components.runtime.tracking import Sender, Spool
from tests.charts.mlflow_pod import ask, free_port, running
from tests.charts.postgres import postgres, programs
from tests.charts.rendering import only
from tests.s3 import ACCESS_KEY, SECRET, s3_server

ADMIN = ("admin", "correct-horse-battery-staple")
STUDIES = ("studies", "another-long-password")
SECRETS = {
    "bucket": {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
    "mlflow-admin": {
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789abcdef",
    },
}
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=10"
CURVE = [(step, 1 / step) for step in range(1, 21)]


@pytest.fixture
def database() -> Iterator[str]:
    if programs() is None:
        assert os.environ.get("CI") != "true", "PostgreSQL is missing: .ci/run installs it"
        pytest.skip("needs PostgreSQL: install Debian's package postgresql")
    with TemporaryDirectory() as folder, postgres(Path(folder)) as address:  # pytest's own are closed to other users
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The studies' user, as a step has it from the client's Secret."""
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", STUDIES[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", STUDIES[1])


def pod_of(variation: str, *sets: str) -> dict[str, Any]:
    return only(variation, "Deployment", "-mlflow", sets=sets)["spec"]["template"]


def make_user(address: str) -> None:
    """Makes the studies' user, as the chart's README says."""
    body = json.dumps({"username": STUDIES[0], "password": STUDIES[1]}).encode()
    status, text = ask(f"{address}/api/2.0/mlflow/users/create", ADMIN, data=body)
    assert status == 200, text


def log_a_study(address: str, folder: Path) -> None:
    """Logs as a stage does: to a spool, and from there to the server, twice."""
    spool = Spool(folder / "spool.jsonl")
    spool.params({"lr": 1e-3, "depth": 4})
    for step, loss in CURVE:
        spool.metrics(step, {"loss": loss, "samples_seen": 128.0 * step})
    spool.tags({"ceteris.manifest": "s3://studies/run/pretrain/clip/manifest.json"})
    spool.end("FINISHED")
    sender = Sender(address, "encoder-study", "run-7")
    for _ in range(2):
        sender.send(spool.path, "pretrain/clip")
    sender.end("FINISHED")


def run_stages(address: str, folder: Path) -> None:
    """Runs two stages with the variables that their steps would have, and reads back what they logged by themselves."""
    from mlflow.tracking import MlflowClient

    sizes = ("--num_samples=64", "--image_size_px=32", "--samples_per_shard=16", "--num_workers=1")
    run_step(address, folder, "build_shards", "pretrain", "--purpose=pretrain", *sizes)
    sizes = ("--num_samples_seen=64", "--batch_size=16", "--num_streams=4", "--image_size_px=32", "--warmup_steps=1")
    run_step(
        address,
        folder,
        "pretrain",
        "clip",
        "--arm=clip",
        f"--shards={folder / 'pretrain'}",
        "--log_every_steps=1",
        *sizes,
    )
    client = MlflowClient(address)
    runs = client.search_runs([client.get_experiment_by_name("stages").experiment_id])
    found = {run.info.run_name: run for run in runs}
    assert set(found) == {"run-8", "build_shards/pretrain", "pretrain/clip"}
    for stage in (found["build_shards/pretrain"], found["pretrain/clip"]):
        assert stage.info.status == "FINISHED" and stage.data.tags["mlflow.parentRunId"] == found["run-8"].info.run_id
        assert stage.data.tags["ceteris.manifest"].endswith("/manifest.json")
    assert found["pretrain/clip"].data.params["arm"] == "clip"
    assert len(client.get_metric_history(found["pretrain/clip"].info.run_id, "loss")) == 4


def run_step(address: str, folder: Path, stage: str, variant: str, *argv: str) -> None:
    env = {"MLFLOW_TRACKING_URI": address, "MLFLOW_EXPERIMENT_NAME": "stages", "CETERIS_RUN": "run-8"}
    env |= {"CETERIS_TASK": f"{stage}/{variant}", "CETERIS_SPOOL": str(folder / f"{variant}.jsonl")}
    command = [sys.executable, "-m", f"components.{stage}", f"--out_uri={folder / variant}", *argv]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_study(address: str) -> str:
    """Reads the study back, and returns the id of the stage's run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("encoder-study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run-7", "pretrain/clip"}
    stage = runs["pretrain/clip"]
    assert stage.data.params == {"lr": "0.001", "depth": "4"} and stage.info.status == "FINISHED"
    assert stage.data.tags["mlflow.parentRunId"] == runs["run-7"].info.run_id
    history = [(point.step, point.value) for point in client.get_metric_history(stage.info.run_id, "loss")]
    assert sorted(history) == CURVE
    return stage.info.run_id


@pytest.mark.slow  # a server starts three times, each time half a minute
def test_a_study_is_logged_to_postgresql_and_the_bucket(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    secrets = SECRETS | {"mlflow-postgres": {"uri": database}}
    with s3_server() as endpoint:
        sets = (f"storage.endpoint={endpoint}", f"mlflow.service.port={port}", "image.registry=")
        user = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        bucket = boto3.client("s3", endpoint_url=endpoint, **user)
        bucket.create_bucket(Bucket="studies")
        folder = tmp_path / "pod"
        folder.mkdir()
        with running(pod_of("airgapped", *sets), folder, secrets, port) as address:
            assert ask(address + SEARCH)[0] == 401, "nobody gets in without a name"
            assert ask(address + SEARCH, (ADMIN[0], "wrong"))[0] == 401
            assert ask(address + SEARCH, ADMIN)[0] == 200
            assert ask(address + SEARCH, STUDIES)[0] == 401
            for name in ("ceteris-mlflow.platform.svc", f"ceteris-mlflow.platform.svc:{port}", f"localhost:{port}"):
                assert ask(address + SEARCH, ADMIN, host=name)[0] == 200, name
            assert ask(address + SEARCH, ADMIN, host="evil.example")[0] == 403, "no page elsewhere rebinds its name"
            make_user(address)
            log_a_study(address, tmp_path)
            run_stages(address, tmp_path)
            run_id = check_study(address)
            from mlflow.tracking import MlflowClient

            (tmp_path / "card.json").write_text('{"images": 8000}')
            MlflowClient(address).log_artifact(run_id, str(tmp_path / "card.json"))
            (kept,) = bucket.list_objects_v2(Bucket="studies", Prefix="mlflow/")["Contents"]
            assert kept["Key"].endswith(f"{run_id}/artifacts/card.json") and kept["Size"] == 16
        settings = (folder / "auth" / "basic_auth.ini").read_text()
        assert "default_permission = READ" in settings and ADMIN[1] not in settings
        with running(pod_of("airgapped", *sets, "mlflow.database.upgrade=true"), folder, secrets, port) as address:
            assert check_study(address) == run_id, "another server finds the same database"


@pytest.mark.slow  # a server starts, half a minute
def test_the_trials_sqlite_keeps_a_study_across_a_restart(tmp_path: Path) -> None:
    port = free_port()
    pod = pod_of("minimal", f"mlflow.service.port={port}")
    with running(pod, tmp_path, SECRETS, port) as address:
        assert ask(address + SEARCH)[0] == 401
        make_user(address)
        log_a_study(address, tmp_path)
        run_id = check_study(address)
    assert {path.name for path in (tmp_path / "data").iterdir()} >= {"mlflow.db", "users.db"}
    with running(pod, tmp_path, SECRETS, port) as address:
        assert check_study(address) == run_id
