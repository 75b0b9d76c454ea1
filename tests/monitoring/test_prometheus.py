"""A real Prometheus, with the chart's rules and monitors, scrapes a training in two ranks and a launcher."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.build_shards.params import Params as BuildShards
from components.launch.volcano import volcano_job
from components.runtime import metrics
from components.runtime.metric_table import ALL
from components.runtime.stage import run_stage
from tests.charts.rendering import only
from tests.launch.gangs import gang
from tests.monitoring.scraping import scrape_config
from tests.monitoring.watching import MONITORED, groups, queries, rules, tool
from tests.pretrain.test_pretrain import SMALL
from tests.s3 import s3_server, use_s3

ROOT = Path(__file__).parents[2]
NAMESPACE = "kubeflow"
RUN = "0b6f6f2e-4f3c-4f0a-9d5e-2f1f0c9a7b11"
SHORT = ("--num_samples_seen", "--checkpoint_every_steps")
LONG = [word for word in SMALL if not word.startswith(SHORT)] + [
    "--arm=dino",
    "--num_samples_seen=1600000",
    "--checkpoint_every_steps=500",
    "--lost_shards=replace",
    "--probe_every_steps=10",
]


def free_ports(num: int) -> int:
    """Returns the first of so many free ports in a row."""
    for first in range(21_400, 29_000, num):
        sockets = [socket.socket() for _ in range(num)]
        try:
            for n, each in enumerate(sockets):
                each.bind(("0.0.0.0", first + n))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no free ports")


class Prometheus:
    """A server that runs, and what it answers."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **query: str) -> Any:
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.loads(answer.read())["data"]

    def ask(self, expr: str) -> list[dict[str, Any]]:
        return self.get("query", query=expr)["result"]


def gang_pod(base_port: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns the pod of a gang with two ranks on one node, on ports that are free here."""
    monkeypatch.setattr(metrics, "PORT", base_port)
    job = volcano_job(gang("h100", 1, arm="dino", run_id=RUN))
    template = job["spec"]["tasks"][0]["template"]
    template["metadata"] |= {"name": "gang-0", "namespace": NAMESPACE}
    ports = template["spec"]["containers"][0]["ports"]
    template["spec"]["containers"][0]["ports"] = ports[:3]  # the meeting point, and the ports of two ranks
    return template


def step_pod() -> dict[str, Any]:
    """Returns the pod of the launcher, as KFP makes it: no ports, Argo's containers beside the step's own."""
    labels = {"app.kubernetes.io/part-of": "ceteris", "ceteris.io/stage": "pretrain", "ceteris.io/arm": "clip"}
    labels |= {"pipeline/runid": RUN, "pipelines.kubeflow.org/v2_component": "true"}
    return {
        "metadata": {"name": "step-0", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "initContainers": [{"name": "init"}, {"name": "kfp-launcher"}],
            "containers": [{"name": "main"}, {"name": "wait"}],
        },
    }


@pytest.fixture
def prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a training of two ranks from S3, whose MLflow is away, and a launcher."""
    base = free_ports(4)  # of two ranks, the step, and Prometheus itself
    step_port, web = base + 2, base + 3
    pods = [gang_pod(base, monkeypatch), step_pod()]
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **environment: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CETERIS_", "MLFLOW_"))}
        with (tmp_path / f"log-{len(started)}").open("wb") as log:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=kept | {"OMP_NUM_THREADS": "1"} | environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.client("s3").create_bucket(Bucket="studies")
        for purpose in ("pretrain", "probe"):
            size = ["--num_samples=80", "--image_size_px=24", "--min_shards=4"]
            assert run_stage(BuildShards, [f"--out_uri=s3://studies/{purpose}", f"--purpose={purpose}", *size]) == 0
        own = ["--out_uri=s3://studies/dino", "--shards=s3://studies/pretrain", "--probe_shards=s3://studies/probe"]
        try:
            start(
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
                *("-m", "components.pretrain", *own, f"--shard_cache={tmp_path / 'cache'}", *LONG),
                CETERIS_METRICS_PORT=str(base),
                CETERIS_GPUS="2",
                MLFLOW_TRACKING_URI="http://127.0.0.1:9",
            )
            start(
                *(sys.executable, "-m", "tests.monitoring.launcher_process", str(tmp_path / "gang")),
                CETERIS_METRICS_PORT=str(step_port),
            )
            config = write_config(tmp_path, pods, step_port)
            start(
                *(tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"),
                f"--web.listen-address=127.0.0.1:{web}",
            )
            yield Prometheus(f"http://127.0.0.1:{web}")
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


def write_config(folder: Path, pods: list[dict[str, Any]], step_port: int) -> Path:
    """Writes Prometheus's configuration: the chart's rules, evaluated each second, and its monitors."""
    for group in (found := json.loads(json.dumps(groups()))):
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(json.dumps({"groups": found}))
    monitors = [only(MONITORED, "PodMonitor", name) for name in ("-gangs", "-steps")]
    here = json.loads(json.dumps(monitors).replace(":9400", f":{step_port}"))
    ips = {"gang-0": "127.0.0.1", "step-0": "127.0.0.1"}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [scrape_config(monitor, pods, ips, "1s") for monitor in here],
    }
    path = folder / "prometheus.yaml"
    path.write_text(json.dumps(config))
    checked = subprocess.run([tool("promtool"), "check", "config", str(path)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return path


def unanswered(server: Prometheus) -> list[str]:
    """Returns which queries, recordings and metrics have no data yet."""
    asked = dict(queries()) | {name: name for name in rules("record")} | {m.exported: m.exported for m in ALL}
    return [name for name, expr in asked.items() if not server.ask(expr)]


@pytest.mark.slow
def test_every_query_and_every_recording_has_data_of_a_running_training(prometheus: Prometheus, tmp_path: Path) -> None:
    """Slow: a training under torchrun, and half a minute of scrapes."""
    left = ["everything"]
    for _ in range(240):
        with contextlib.suppress(OSError):  # it starts
            left = unanswered(prometheus)
        if not left:
            break
        time.sleep(0.5)
    logs = {path.name: path.read_text()[-2000:] for path in tmp_path.glob("log-*")}
    assert not left, (left, logs)
    targets = prometheus.get("targets", state="active")["activeTargets"]
    assert {target["health"] for target in targets} == {"up"} and len(targets) == 3
    shown = [{key: target["labels"][key] for key in ("role", "run", "stage", "arm", "pod")} for target in targets]
    about = {"run": RUN, "stage": "pretrain"}
    assert shown.count(about | {"role": "gang", "arm": "dino", "pod": "gang-0"}) == 2
    assert shown.count(about | {"role": "step", "arm": "clip", "pod": "step-0"}) == 1
    health = {rule["name"]: rule["health"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
    assert set(health.values()) == {"ok"} and len(health) == len(rules("record")) + len(rules("alert"))
    assert {one["metric"]["rank"] for one in prometheus.ask("ceteris_train_busy_seconds")} == {"0", "1"}
    (gpus,) = prometheus.ask('deriv(ceteris_gpu_seconds_total{arm="dino"}[15s])')
    assert float(gpus["value"][1]) == pytest.approx(2, rel=0.2)
    (steps,) = prometheus.ask('sum by (rank) (rate(ceteris_train_steps_total{rank="0"}[1m]))')
    assert float(steps["value"][1]) > 0
