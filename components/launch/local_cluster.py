"""A gang on this machine, in the words of a cluster's: so that its life is the same, budgets, logs and verdicts too."""

import dataclasses
import datetime
import time
from typing import Any, Protocol

from components.launch.attempts import ATTEMPT
from components.launch.cluster import Object
from components.launch.sight import JOB_LABEL, TASK_LABEL

CONTAINER = "stage"
POLL_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replica:
    """One node of a gang on this machine.

    Attributes:
        node: Its number.
        name: Its name.
        uid: Of the attempt that it belongs to; empty: of a launcher that is no more.
        attempt: The attempt's number.
        started_at: Seconds since 1970.
        code: Exit code; None: it runs.
        ended_at: Seconds since 1970, when it has ended.
        reason: Why it ended, such as OOMKilled.
        is_leaving: It was asked to end and is to be forgotten.
    """

    node: int
    name: str
    uid: str
    attempt: str
    started_at: float
    code: int | None = None
    ended_at: float = 0.0
    reason: str = ""
    is_leaving: bool = False


class Engine(Protocol):
    """What starts the nodes of one gang: processes or containers."""

    def start(self, attempt: str) -> None:
        """Starts every node."""
        ...

    def replicas(self) -> list[Replica]:
        """Returns the nodes that there are, ended ones too until `stop`."""
        ...

    def stop(self) -> None:
        """Asks all nodes to end, kills the late ones, forgets those that have ended; called until none is left."""
        ...

    def log(self, node: int, since: str) -> bytes:
        """Returns what a node has said after the mark `since`, each line behind its own, later mark."""
        ...


class LocalCluster:
    """One gang on this machine, as `cluster.Cluster` has it."""

    namespace = ""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_stopping = False

    def create(self, job: Object) -> str:
        """Starts the gang, where nothing of it is there."""
        self._is_stopping = False
        if not self._engine.replicas():
            self._engine.start(job["metadata"].get("annotations", {}).get(ATTEMPT, "1"))
        return ""

    def read(self, kind: str, name: str) -> Object | None:
        """Returns the job, which is there as long as its nodes are; there is nothing else."""
        if self._is_stopping:
            self._engine.stop()
        replicas = [found for found in self._engine.replicas() if found.uid]
        return _job(name, replicas) if kind == "Job" and replicas else None

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """Returns the nodes as pods; those that a killed launcher has left are asked to go."""
        replicas = self._engine.replicas() if kind == "Pod" else []
        if any(not found.uid for found in replicas):
            self._engine.stop()
        return [_pod(labels.partition("=")[2], found) for found in replicas]

    def delete(self, job: Object) -> None:
        """Asks all nodes to end."""
        self._is_stopping = True
        self._engine.stop()

    def wait(self, job: Object | None, seconds: float) -> None:
        """Returns when a node has ended, or after some seconds."""
        before = self._engine.replicas()
        deadline = time.monotonic() + (seconds if before and not self._is_stopping else min(seconds, POLL_S))
        while time.monotonic() < deadline and self._engine.replicas() == before:
            time.sleep(POLL_S)

    def log(self, pod: Object, since: str = "") -> bytes:
        """Returns what a node has said after the mark."""
        return self._engine.log(int(pod["metadata"]["labels"][TASK_LABEL].rpartition("-")[2]), since)


def _job(name: str, replicas: list[Replica]) -> Object:
    first = replicas[0]
    about: dict[str, Any] = {"name": name, "uid": first.uid, "creationTimestamp": _time(first.started_at)}
    about |= {"resourceVersion": "0", "annotations": {ATTEMPT: first.attempt}}
    if any(found.is_leaving for found in replicas):
        about["deletionTimestamp"] = _time(time.time())
    codes = [found.code for found in replicas]
    phase = "Running" if None in codes else "Failed" if any(codes) else "Completed"
    tasks = [{"name": f"node-{found.node}", "replicas": 1} for found in replicas]
    return {"metadata": about, "spec": {"tasks": tasks}, "status": {"state": {"phase": phase}}}


def _pod(job: str, found: Replica) -> Object:
    state: dict[str, Any] = {"running": {"startedAt": _time(found.started_at)}}
    if found.code is not None:
        times = {"startedAt": _time(found.started_at), "finishedAt": _time(found.ended_at)}
        code = 128 - found.code if found.code < 0 else found.code
        state = {"terminated": times | {"exitCode": code, "reason": found.reason}}
    about: dict[str, Any] = {"name": found.name, "labels": {JOB_LABEL: job, TASK_LABEL: f"node-{found.node}"}}
    if found.uid:
        about["ownerReferences"] = [{"uid": found.uid}]
    phase = "Running" if found.code is None else "Failed" if found.code else "Succeeded"
    return {
        "metadata": about,
        "spec": {"nodeName": "this machine", "containers": [{"name": CONTAINER}]},
        "status": {"phase": phase, "containerStatuses": [{"name": CONTAINER, "state": state}]},
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
