"""What the tests of the launcher start: a small job, the launcher before a simulated cluster, and what it said."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.launch.cluster import KubernetesCluster
from components.launch.lifecycle import Limits, run_gang
from components.launch.stopping import Stop
from components.runtime.logs import Log
from components.runtime.manifest import Manifest, write_manifest
from components.runtime.storage import LocalFolder
from tests.launch.api_server import api_client
from tests.launch.simulated_cluster import End, SimulatedCluster

NAME = "run7-pretrain-clip-1a2b"
LIMITS = Limits(code_restarts=1, infrastructure_restarts=3, queue_timeout_s=3600, run_timeout_s=7200)


def job(num_nodes: int = 2, **spec: Any) -> dict[str, Any]:
    """Returns a Volcano job with a task per node."""
    pod = {"spec": {"containers": [{"name": "stage", "image": "ceteris/train@sha256:1"}], **spec}}
    tasks = [{"name": f"node-{node}", "replicas": 1, "template": pod} for node in range(num_nodes)]
    labels = {"ceteris.io/run": "run7", "ceteris.io/managed": "true"}
    return {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"minAvailable": num_nodes, "tasks": tasks},
    }


def said(event: str, at: float, **facts: Any) -> str:
    """Returns a line of the stage's log."""
    return json.dumps({"time": at, "stage": "pretrain", "event": event} | facts)


def crash(rank: int = 1) -> dict[int, End]:
    """Returns the end of one rank by an exception; the others hang in a collective."""
    line = said("failed", 1.0, problem="RuntimeError: index out of bounds")
    return {rank: End(code=1, lines=["step 41", line, "failed (exitcode: 1) local_rank: 3 (pid: 9)"])}


def preempted() -> dict[int, End]:
    """Returns the end of all ranks that were asked to stop; torchrun exits with 1 all the same."""
    return {rank: End(code=1, lines=[said("preempted", 1.0, reason="asked to stop")]) for rank in range(2)}


class StopWhen(Stop):
    """A request to stop that comes when the test says so."""

    def __init__(self, is_stopping: Callable[[], bool], own_pod: str) -> None:
        super().__init__(own_pod)
        self.is_asked = is_stopping  # type: ignore[method-assign]


class Launch:
    """A launcher's world: the cluster behind the server, the stage's folder, the launcher's words."""

    def __init__(self, server: SimulatedCluster, folder: Path) -> None:
        self.server = server
        self.out = LocalFolder(folder)
        self.num_jobs_when_done = 0
        self.owners: list[dict[str, Any]] = []
        self.words = io.StringIO()
        self.screen = io.StringIO()
        server.on_done = self.write_manifest

    def write_manifest(self) -> None:
        self.num_jobs_when_done = self.num_jobs_when_done or len(self.server.created)
        write_manifest(
            self.out,
            Manifest(
                kind="M", stage="pretrain", params={}, inputs={}, files={}, counts={}, summary={}, cost={}, code={}
            ),
        )

    def cluster(self, api: Any = None) -> KubernetesCluster:
        server = self.server
        return KubernetesCluster("runs", api or api_client(server), clock=server.clock, sleep=server.sleep)

    def run(
        self,
        api: Any = None,
        limits: Limits = LIMITS,
        the_job: dict[str, Any] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        own_pod: str = "",
    ) -> int:
        """Runs one launcher to its end and returns its exit code."""
        return run_gang(
            the_job or job(),
            self.cluster(api),
            self.out,
            log=Log("launch", self.words),
            limits=limits,
            clock=self.server.clock,
            screen=self.screen,
            stop=StopWhen(is_stopping, own_pod),
        )

    def events(self, event: str) -> list[dict[str, Any]]:
        """Returns what the launcher said of one kind."""
        found = (json.loads(line) for line in self.words.getvalue().splitlines())
        return [line for line in found if line["event"] == event]

    def problem(self) -> str:
        """Returns the sentence that the launcher ended with."""
        return str(self.events("failed")[-1]["problem"])

    def is_empty(self) -> bool:
        """Returns whether the cluster holds no job and no pod of a gang any more."""
        return not self.server.of("Job") and not self.server.of("Pod")
