"""Everything that a study needs of a cluster is looked at, whatever else is wrong, and each lack has its remedy."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import kube_config

from components.launch.gang import read_pools
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from pipelines import doctor, patience
from pipelines.__main__ import main
from pipelines.kube import Kube
from pipelines.placement import Site
from pipelines.presets import PRESETS
from pipelines.service import Service
from tests.pipelines.kfp_server import Fault, KfpServer, kfp_server
from tests.pipelines.kube_server import KubeServer, kube_server

DIGEST = "sha256:" + 64 * "0"
IMAGES = {name: f"registry/{name}@{DIGEST}" for name in ("cpu", "train", "vlm", "launcher")}
POOLS = "pools: {gang: {cpus: 96, memoryGib: 768, gpus: 8, shmGib: 64, queue: training}}"
QUEUE = "/apis/scheduling.volcano.sh/v1beta1/queues/training"
QUOTAS = "/api/v1/namespaces/team/resourcequotas"
NAMES = ["pipelines", "volcano", "rights", "queue", "quota", "bucket", "mlflow", "images", "preflight"]


class Ward:
    """A cluster in order, which a test then spoils, and the doctor's view of it."""

    def __init__(self, kfp: KfpServer, kube: KubeServer, folder: Path, mlflow: str) -> None:
        self.kfp, self.kube, self.out, self.mlflow = kfp, kube, str(folder / "out"), mlflow
        self.images, self.commands = dict(IMAGES), list[list[str]]()
        self.code, self.user, self.is_tried = 0, "", True
        for version in ("batch.volcano.sh/v1alpha1", "scheduling.volcano.sh/v1beta1"):
            kinds = ["jobs"] if version.startswith("batch") else ["queues", "podgroups", "podgroups/status"]
            kube.objects[f"/apis/{version}"] = {"resources": [{"name": name} for name in kinds]}
        kube.objects[QUEUE] = {"spec": {}, "status": {"state": "Open"}}
        kube.lists[QUOTAS] = []

    def _launch(self, command: Any) -> int:
        self.commands.append(list(command))
        return self.code

    def findings(self) -> dict[str, list[doctor.Finding]]:
        patient = doctor.Patient(
            service=lambda: Service(self.kfp.url, "kubeflow"),
            kube=lambda: Kube("team", self.user),
            out=self.out,
            mlflow=self.mlflow,
            site=Site(images=self.images, pools=read_pools(POOLS), scheduler="kubernetes"),
            hardware=PRESETS["paper"].hardware,
            needed=tuple(IMAGES),
            preflight=self._launch if self.is_tried else None,
        )
        found: dict[str, list[doctor.Finding]] = {}
        for name, finding in doctor.examine(patient):
            found.setdefault(name, []).append(finding)
        assert list(found) == NAMES
        return found

    def wrong(self) -> dict[str, doctor.Finding]:
        return {name: each for name, of in self.findings().items() for each in of if each.outcome == doctor.WRONG}


class _MlflowHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"OK" if self.path == "/health" else b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mlflow() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _MlflowHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ward(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mlflow: str) -> Iterator[Ward]:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    with kfp_server() as kfp, kube_server(tmp_path) as (kube, kubeconfig):
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        yield Ward(kfp, kube, tmp_path, mlflow)


def test_a_cluster_in_order_passes_every_check(ward: Ward) -> None:
    outcomes = {each.outcome for of in ward.findings().values() for each in of}
    assert outcomes == {doctor.OK}
    (command,) = ward.commands
    assert command[:4] == ["python", "-m", "components.launch", "--stage=preflight"]
    assert command[4].startswith(f"--out_uri={ward.out}/preflight-") and '"num_nodes": 2' in command[6]
    assert command[5] == "--min_shm_gib=64"
    assert list(Path(ward.out).rglob("*")) == [] or not any(p.is_file() for p in Path(ward.out).rglob("*"))


def _no_volcano(ward: Ward) -> None:
    ward.kube.objects.pop("/apis/batch.volcano.sh/v1alpha1")


def _no_rights(ward: Ward) -> None:
    ward.kube.denied |= {("create", "batch.volcano.sh", "jobs"), ("get", "", "pods/log")}


def _closed_queue(ward: Ward) -> None:
    ward.kube.objects[QUEUE]["status"]["state"] = "Closed"


def _no_queue(ward: Ward) -> None:
    ward.kube.objects.pop(QUEUE)


def _small_queue(ward: Ward) -> None:
    ward.kube.objects[QUEUE]["spec"] = {"capability": {"nvidia.com/gpu": "8", "memory": "4Ti"}}


def _small_quota(ward: Ward) -> None:
    status = {"hard": {"requests.memory": "1Ti", "requests.cpu": "1k"}, "used": {"requests.memory": "0"}}
    ward.kube.lists[QUOTAS].append({"metadata": {"name": "team-quota", "labels": {}}, "status": status})


def _old_backend(ward: Ward) -> None:
    ward.kfp.version = "2.5.0"


def _kfp_away(ward: Ward) -> None:
    ward.kfp.faults.append(Fault("GET", "healthz", 0, times=99))


def _unwritable(ward: Ward) -> None:
    Path(ward.out).write_text("a file")


def _no_mlflow(ward: Ward) -> None:
    ward.mlflow = "http://127.0.0.1:9"


def _another_server(ward: Ward) -> None:
    ward.mlflow += "/other"


def _tags(ward: Ward) -> None:
    ward.images["vlm"] = "registry/vlm:latest"


def _failed_gang(ward: Ward) -> None:
    ward.code = 1


@pytest.mark.parametrize(
    ("spoil", "check", "said", "remedy"),
    [
        (_kfp_away, "pipelines", "did not answer when asked to reach it", "--host"),
        (_old_backend, "pipelines", "The backend is 2.5.0 and the SDK 2.17.0", "upgrade the backend"),
        (_no_volcano, "volcano", "does not know Job (jobs.batch.volcano.sh)", "install Volcano"),
        (_no_rights, "rights", "create jobs.batch.volcano.sh; get pods/log.", '"apiGroups": ["batch.volcano.sh"]'),
        (_no_queue, "queue", "The Volcano queue training is not there", "create it"),
        (_closed_queue, "queue", "training is Closed", "open it"),
        (_small_queue, "queue", "wants 16 nvidia.com/gpu of 8", "raise the limit"),
        (_small_quota, "quota", "never has room for a gang that wants 1664Gi memory of 1Ti", "raise"),
        (_unwritable, "bucket", "can't be written", "writable"),
        (_no_mlflow, "mlflow", "MLflow does not answer at http://127.0.0.1:9/health", "correct the address"),
        (_another_server, "mlflow", "is not MLflow", "correct the address"),
        (_tags, "images", "vlm=registry/vlm:latest", "--image SET=repository@sha256"),
        (_failed_gang, "preflight", "ended with exit code 1", "components.launch --stage=preflight"),
    ],
)  # fmt: skip
def test_what_is_missing_is_found_and_nothing_else(
    ward: Ward, spoil: Callable[[Ward], None], check: str, said: str, remedy: str
) -> None:
    spoil(ward)
    wrong = ward.wrong()
    assert list(wrong) == [check]
    assert said in wrong[check].said and remedy in wrong[check].remedy


def test_a_full_quota_is_a_wait_and_no_lack(ward: Ward) -> None:
    status = {"hard": {"requests.nvidia.com/gpu": "16"}, "used": {"requests.nvidia.com/gpu": "8"}}
    ward.kube.lists[QUOTAS].append({"metadata": {"name": "gpus", "labels": {}}, "status": status})
    (finding,) = ward.findings()["quota"]
    assert finding.outcome == doctor.OK and "gangs wait: they want 16 nvidia.com/gpu, of 16 are 8 taken" in finding.said


def test_rights_are_asked_for_as_the_account_of_the_steps(ward: Ward) -> None:
    ward.user = "system:serviceaccount:team:pipeline-runner"
    ward.findings()
    reviews = [user for path, user in ward.kube.asked if path.endswith("/selfsubjectaccessreviews")]
    others = [user for path, user in ward.kube.asked if not path.endswith("/selfsubjectaccessreviews")]
    assert set(reviews) == {ward.user}
    assert set(others) == {""}, "the account of the steps has no right to look at a queue"


def test_a_store_that_ignores_conditions_is_found(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.runtime.storage import LocalFolder

    monkeypatch.setattr(LocalFolder, "write_once", lambda self, name, data: self.write(name, data) or True)
    assert "If-None-Match" in ward.wrong()["bucket"].said


def test_what_is_not_given_is_said_to_be_left_out(ward: Ward) -> None:
    ward.out = ward.mlflow = ""
    found = ward.findings()
    assert {name for name, of in found.items() if of[0].outcome == doctor.SKIPPED} == {"bucket", "mlflow", "preflight"}
    assert not ward.commands


def test_the_preflights_command_is_shown_where_it_is_not_run(ward: Ward) -> None:
    ward.is_tried = False
    (finding,) = ward.findings()["preflight"]
    assert finding.outcome == doctor.SKIPPED and not ward.commands
    assert f"python -m components.launch --stage=preflight --out_uri={ward.out}" in finding.remedy


def test_the_command_reports_all_and_counts(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pools.yaml").write_text(POOLS)
    argv = ["doctor", "--host", ward.kfp.url, "--namespace", "team", "--out", ward.out, "--mlflow", ward.mlflow]
    argv += ["--pools", str(tmp_path / "pools.yaml")]
    images = [f"--image={name}={image}" for name, image in IMAGES.items()]
    assert main([*argv, *images]) == EXIT_DONE
    assert "No problem" in capsys.readouterr().out
    _no_queue(ward)
    assert main(argv) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "FAIL queue" in said and "FAIL images" in said and "ok   quota" in said and "2 problems found." in said


def test_wrong_use_is_refused(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--host", ward.kfp.url, "--preflight", "--preset", "papre"]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("--preflight writes") and "--preset=paper" in said[1] and ward.kfp.calls == []
