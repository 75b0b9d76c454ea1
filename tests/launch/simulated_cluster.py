"""What lies behind the API server of the tests: objects, Volcano's controller and the kubelets, in a time of their own.

Time passes when somebody sleeps or watches, so hours take milliseconds. Phases, conditions and messages are those that
Volcano 1.15 and Kubernetes write (JobState, PodGroupCondition, the kubelet's waiting reasons).
"""

import copy
import datetime
import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
START = 1_800_000_000.0
SURVIVORS_S = 120.0


@dataclass
class End:
    """How one rank ends: exit code and words, or what the cluster does to it."""

    code: int = 0
    lines: list[str] = field(default_factory=list)
    reason: str = ""  # of the container: OOMKilled, Error
    pod_reason: str = ""  # of the pod: Evicted ...
    is_disrupted: bool = False
    is_node_lost: bool = False


@dataclass
class Plan:
    """What becomes of one attempt; a rank without an end goes on until it is killed.

    `ends=None` is success: all exit with 0, and `on_done` writes the manifest.
    """

    queue_s: float = 5.0
    unschedulable: str = ""
    pull_s: float = 3.0
    waiting: tuple[str, str] = ("", "")
    events: list[tuple[str, str]] = field(default_factory=list)
    run_s: float = 60.0
    ends: dict[int, End] | None = None
    leaves_s: float = 5.0


@dataclass
class Call:
    """One request as it came in."""

    number: int
    method: str
    path: str
    query: dict[str, str]


class SimulatedCluster:
    """The store, the time, and the controllers that act on it."""

    def __init__(self) -> None:
        self.now = START
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str], Object] = {}
        self.logs: dict[str, list[tuple[float, str]]] = {}
        self.plans: list[Plan] = []
        self.on_done: Callable[[], None] = lambda: None
        self.fault: Callable[[Call], str] = lambda call: ""
        self.forbidden: set[tuple[str, str]] = set()
        self.refusal: tuple[int, str] | None = None
        self.calls: list[Call] = []
        self.created: list[str] = []
        self.most_at_once = 0
        self.oldest_version = 0
        self.address = ""
        self._version = 100
        self._serial = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pass_until(self.now + seconds, lambda: False)

    def pass_until(self, end: float, is_enough: Callable[[], bool]) -> None:
        with self.lock:
            while not is_enough() and self._agenda and self._agenda[0][0] <= end:
                self.now, _, act = heapq.heappop(self._agenda)
                act()
            if not is_enough():
                self.now = max(self.now, end)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._serial), act))

    def stamp(self, seconds: float = 0.0) -> str:
        time = datetime.datetime.fromtimestamp(self.now + seconds, datetime.UTC)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ")

    def put(self, kind: str, thing: Object) -> Object:
        self._version += 1
        about = thing["metadata"]
        about.setdefault("uid", f"uid-{next(self._serial)}")
        about.setdefault("creationTimestamp", self.stamp())
        about["resourceVersion"] = str(self._version)
        self.objects[kind, about["name"]] = thing
        return thing

    def add(self, kind: str, name: str, **rest: Any) -> Object:
        return self.put(kind, {"kind": kind, "metadata": {"name": name} | rest.pop("metadata", {}), **rest})

    def of(self, kind: str) -> list[Object]:
        return [thing for (k, _), thing in sorted(self.objects.items()) if k == kind]

    def drop(self, kind: str, name: str) -> None:
        self._version += 1
        self.objects.pop((kind, name), None)

    def job_of(self, uid: str) -> Object | None:
        return next((job for job in self.of("Job") if job["metadata"]["uid"] == uid), None)

    def pods_of(self, uid: str) -> list[Object]:
        return [pod for pod in self.of("Pod") if uid in [o["uid"] for o in pod["metadata"].get("ownerReferences", [])]]

    def kubelet_says(self, pod: str, line: str) -> None:
        self.logs.setdefault(pod, []).append((self.now, line))

    def admit(self, job: Object) -> Object:
        """Stores a new job and begins to play what becomes of it."""
        job = copy.deepcopy(job)
        job["status"] = {"state": {"phase": "Pending"}}
        self.put("Job", job)
        self.created.append(job["metadata"]["name"])
        plan = self.plans[min(len(self.created), len(self.plans)) - 1] if self.plans else Plan()
        uid = job["metadata"]["uid"]
        self.later(1, lambda: self._if_alive(uid, lambda: self._make_pods(uid, plan)))
        return job

    def _if_alive(self, uid: str, act: Callable[[], None]) -> None:
        job = self.job_of(uid)
        if job and "deletionTimestamp" not in job["metadata"]:
            act()

    def _phase(self, uid: str, phase: str) -> None:
        job = self.job_of(uid)
        if job:
            job["status"]["state"] = {"phase": phase, "lastTransitionTime": self.stamp()}
            self.put("Job", job)

    def _make_pods(self, uid: str, plan: Plan) -> None:
        job = self.job_of(uid)
        assert job is not None
        name = job["metadata"]["name"]
        if any(pod["metadata"].get("labels", {}).get("volcano.sh/job-name") == name for pod in self.of("Pod")):
            return  # pods of a former job bear the names: Volcano never starts this one (#2284)
        owner = [{"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "name": name, "uid": uid}]
        conditions = []
        if plan.unschedulable:
            conditions = [
                {
                    "type": "Unschedulable",
                    "status": "True",
                    "reason": "NotEnoughResources",
                    "message": plan.unschedulable,
                }
            ]
        self.put(
            "PodGroup",
            {
                "metadata": {"name": f"{name}-{uid}", "ownerReferences": owner},
                "status": {"phase": "Inqueue", "conditions": conditions},
            },
        )
        for task in job["spec"]["tasks"]:
            for index in range(task.get("replicas", 1)):
                labels = {"volcano.sh/job-name": name, "volcano.sh/task-spec": task["name"]}
                about = {"name": f"{name}-{task['name']}-{index}", "labels": labels, "ownerReferences": owner}
                spec = copy.deepcopy(task["template"]["spec"])
                scheduled = {"type": "PodScheduled", "status": "False", "message": plan.unschedulable}
                status = {"phase": "Pending", "conditions": [scheduled] if plan.unschedulable else []}
                self.put("Pod", {"metadata": about, "spec": spec, "status": status, "leaves_s": plan.leaves_s})
        for number, (reason, message) in enumerate(plan.events):
            about = {"metadata": {"name": f"{name}.{number}"}, "involvedObject": {"name": f"{name}-{uid}"}}
            self.put("Event", about | {"reason": reason, "message": message, "type": "Warning"})
        self.later(plan.queue_s, lambda: self._if_alive(uid, lambda: self._place(uid, plan)))

    def _place(self, uid: str, plan: Plan) -> None:
        for number, pod in enumerate(self.pods_of(uid)):
            pod["spec"]["nodeName"] = f"node-{number}"
            reason, message = plan.waiting
            self._container(pod, {"waiting": {"reason": reason or "ContainerCreating", "message": message}})
        self._count_running()
        if not plan.waiting[0]:
            self.later(plan.pull_s, lambda: self._if_alive(uid, lambda: self._run(uid, plan)))

    def _run(self, uid: str, plan: Plan) -> None:
        for rank, pod in enumerate(self.pods_of(uid)):
            pod["status"]["phase"] = "Running"
            self._container(pod, {"running": {"startedAt": self.stamp()}})
            self.kubelet_says(pod["metadata"]["name"], f"rank {rank} begins")
        self._phase(uid, "Running")
        self.later(plan.run_s, lambda: self._if_alive(uid, lambda: self._end(uid, plan)))

    def _end(self, uid: str, plan: Plan) -> None:
        pods = self.pods_of(uid)
        if plan.ends is None:
            self.on_done()
        ends = {rank: End() for rank in range(len(pods))} if plan.ends is None else plan.ends
        for rank, end in ends.items():
            self.finish(pods[rank], end)
        if all(pod["status"]["phase"] == "Succeeded" for pod in pods):
            self._phase(uid, "Completing")
            self.later(1, lambda: self._if_alive(uid, lambda: self._phase(uid, "Completed")))
        elif all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in pods):
            self._phase(uid, "Failed")
        else:
            self._phase(uid, "Running")  # its counts have changed
            self.later(SURVIVORS_S, lambda: self._if_alive(uid, lambda: self._terminate(uid)))

    def _terminate(self, uid: str) -> None:
        self._phase(uid, "Terminating")
        for pod in self.pods_of(uid):
            if pod["status"]["phase"] == "Running":
                self._evict(pod)
        self.later(10, lambda: self._if_alive(uid, lambda: self._phase(uid, "Terminated")))

    def finish(self, pod: Object, end: End) -> None:
        """Lets a pod end."""
        name = pod["metadata"]["name"]
        for line in end.lines:
            self.kubelet_says(name, line)
        if end.is_disrupted:
            pod["status"].setdefault("conditions", []).append(
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            )
        if end.is_node_lost:
            pod["status"].setdefault("conditions", []).append({"type": "Ready", "status": "False"})
            self.put("Pod", pod)
            return
        pod["status"]["phase"] = "Failed" if end.code else "Succeeded"
        if end.pod_reason:
            pod["status"]["reason"] = end.pod_reason
        started = pod["status"]["containerStatuses"][0]["state"].get("running", {}).get("startedAt", self.stamp())
        ended = {"exitCode": end.code, "reason": end.reason or ("Error" if end.code else "Completed")}
        self._container(pod, {"terminated": ended | {"startedAt": started, "finishedAt": self.stamp()}})

    def _container(self, pod: Object, state: Object) -> None:
        pod["status"]["containerStatuses"] = [{"name": pod["spec"]["containers"][0]["name"], "state": state}]
        self.put("Pod", pod)

    def _evict(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            return
        pod["metadata"] |= {"deletionTimestamp": self.stamp(30), "deletionGracePeriodSeconds": 30}
        self.put("Pod", pod)
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]

        def go() -> None:
            if self.objects.get(("Pod", name), {}).get("metadata", {}).get("uid") == uid:
                self.drop("Pod", name)
                self.logs.pop(name, None)

        self.later(pod["leaves_s"], go)

    def begin_delete(self, job: Object, policy: str) -> None:
        """Deletes as the garbage collector does: foreground waits for the pods, background does not."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        if "deletionTimestamp" not in job["metadata"]:
            job["metadata"]["deletionTimestamp"] = self.stamp()
            self.put("Job", job)
            for pod in self.pods_of(uid):
                self._evict(pod)
        if policy == "Background":
            self._remove(name, uid)
        else:
            self._remove_when_empty(name, uid)

    def _remove_when_empty(self, name: str, uid: str) -> None:
        if self.pods_of(uid):
            self.later(1, lambda: self._remove_when_empty(name, uid))
        else:
            self._remove(name, uid)

    def _remove(self, name: str, uid: str) -> None:
        if self.job_of(uid):
            self.drop("Job", name)
            self.drop("PodGroup", f"{name}-{uid}")

    def _count_running(self) -> None:
        """Notes how many gangs hold nodes at once, whatever their names are."""
        holding = [pod for pod in self.of("Pod") if pod["spec"].get("nodeName")]
        alive = [pod for pod in holding if pod["status"]["phase"] in ("Pending", "Running")]
        owners = {
            pod["metadata"]["ownerReferences"][0]["uid"] for pod in alive if pod["metadata"].get("ownerReferences")
        }
        self.most_at_once = max(self.most_at_once, len(owners))
