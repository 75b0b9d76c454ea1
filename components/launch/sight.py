"""What is seen of a gang at one moment, and the state that it is in: a pure function of what is seen."""

import dataclasses
import datetime
import enum
from collections.abc import Iterator
from typing import Any

from components.launch.cluster import Cluster, Object

JOB_LABEL = "volcano.sh/job-name"
TASK_LABEL = "volcano.sh/task-spec"
DELETED = "it was deleted"  # by somebody, or by Volcano because of another pod: its time tells
FINAL_PHASES = frozenset({"Completed", "Failed", "Terminated", "Aborted"})
RUNNING_PHASES = frozenset({"Running", "Completing", "Aborting", "Terminating"})


class State(enum.StrEnum):
    """Where a gang is; lifecycle.py says what is done in each."""

    ABSENT = "absent"  # no job, and no pod of one
    LEAVING = "leaving"  # the job is being deleted, or pods of a former one are still there
    QUEUED = "queued"  # a pod has no node yet
    STARTING = "starting"  # every pod has a node, not all run
    RUNNING = "running"
    BROKEN = "broken"  # a pod has failed or is lost, and others go on
    ENDED = "ended"


@dataclasses.dataclass(frozen=True)
class Sight:
    """A job, its pods in rank order and its PodGroup, as the API server had them."""

    name: str
    job: Object | None
    pods: list[Object]
    strays: list[Object]
    pod_group: Object | None

    @property
    def uid(self) -> str:
        """The job's uid; empty: there is none."""
        return self.job["metadata"]["uid"] if self.job else ""

    @property
    def phase(self) -> str:
        """Volcano's word for the job."""
        return dig(self.job or {}, "status", "state", "phase", default="Pending")

    def created_at(self) -> float:
        """Returns when the job was made."""
        return seconds_of((self.job or {})["metadata"]["creationTimestamp"])

    def ran_s(self, now: float) -> float:
        """Returns for how long containers of the gang have run."""
        starts, ends = [], []
        for pod in self.pods:
            state = container_state(pod)
            for found in (state.get("running"), state.get("terminated")):
                if found and found.get("startedAt"):
                    starts.append(seconds_of(found["startedAt"]))
                    ends.append(seconds_of(found["finishedAt"]) if found.get("finishedAt") else now)
        return max(0.0, max(ends) - min(starts)) if starts else 0.0


def look(cluster: Cluster, name: str) -> Sight:
    """Returns what there is of the gang `name` now."""
    job = cluster.read("Job", name)
    uid = job["metadata"]["uid"] if job else ""
    found = cluster.list("Pod", labels=f"{JOB_LABEL}={name}")
    own = [pod for pod in found if uid and uid in owner_uids(pod)]
    tasks = [task["name"] for task in job["spec"]["tasks"]] if job else []
    order = {task: rank for rank, task in enumerate(tasks)}
    own.sort(key=lambda pod: (order.get(pod["metadata"].get("labels", {}).get(TASK_LABEL), len(order)), name_of(pod)))
    pod_group = cluster.read("PodGroup", f"{name}-{uid}") if uid else None  # Volcano's name for it
    return Sight(name, job, own, [pod for pod in found if pod not in own], pod_group)


def state_of(sight: Sight) -> State:
    """Returns the state of a gang."""
    if sight.strays or (sight.job and sight.job["metadata"].get("deletionTimestamp")):
        return State.LEAVING
    if sight.job is None:
        return State.ABSENT
    if sight.phase in FINAL_PHASES:
        still_there = any(dig(pod, "status", "phase") == "Running" for pod in sight.pods)
        return State.BROKEN if still_there and sight.phase != "Completed" else State.ENDED
    if any(is_lost(pod) or dig(pod, "status", "phase") == "Failed" for pod in sight.pods):
        ended = [dig(pod, "status", "phase") in ("Failed", "Succeeded") for pod in sight.pods]
        return State.ENDED if all(ended) else State.BROKEN
    if sight.phase in RUNNING_PHASES:
        return State.RUNNING
    num_wanted = sum(task.get("replicas", 1) for task in sight.job["spec"]["tasks"])
    num_placed = sum(bool(pod["spec"].get("nodeName")) for pod in sight.pods)
    return State.STARTING if num_placed >= num_wanted else State.QUEUED


def is_lost(pod: Object) -> str:
    """Returns why the pod's end is the cluster's doing and not the program's; empty: it isn't, or it hasn't ended."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return condition.get("reason", "DisruptionTarget")
        if condition["type"] == "Ready" and condition["status"] == "False" and not condition.get("reason"):
            return "NodeNotReady"  # a kubelet gives a reason; the controller that misses the kubelet gives none
    if status.get("phase") == "Failed" and status.get("reason"):
        return str(status["reason"])  # Evicted, NodeLost, NodeShutdown ...: the kubelet gives containers other words
    return DELETED if pod["metadata"].get("deletionTimestamp") else ""


def container_state(pod: Object) -> dict[str, Any]:
    """Returns the state of a pod's first container, which is the stage's."""
    first = pod["spec"]["containers"][0]["name"]
    states = (s for s in dig(pod, "status", "containerStatuses", default=None) or [] if s["name"] == first)
    return dig(next(states, None), "state", default=None) or {}


def waiting(sight: Sight) -> Iterator[tuple[Object, str, str]]:
    """Yields pod, reason and message of the first containers (those that prepare, too) that wait."""
    for pod in sight.pods:
        status = pod.get("status", {})
        for found in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
            if state := (found.get("state") or {}).get("waiting"):
                yield pod, state.get("reason", ""), state.get("message", "")


def owner_uids(thing: Object) -> list[str]:
    """Returns the uids of an object's owners."""
    return [owner["uid"] for owner in thing["metadata"].get("ownerReferences") or []]


def name_of(thing: Object) -> str:
    """Returns an object's name."""
    return str(thing["metadata"]["name"])


def seconds_of(time: str) -> float:
    """Returns a Kubernetes time in seconds since 1970."""
    return datetime.datetime.fromisoformat(time).timestamp()


def dig(thing: Any, *path: str, default: Any = "") -> Any:
    """Returns what lies at a path of keys, or the default where it doesn't go that deep."""
    for key in path:
        if not isinstance(thing, dict) or key not in thing:
            return default
        thing = thing[key]
    return thing
