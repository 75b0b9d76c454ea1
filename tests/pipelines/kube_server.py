"""A stand-in for a Kubernetes API server: objects by path, lists by label, access reviews; what the commands ask."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.pipelines.json_server import JsonHandler, served

JOBS = "/apis/batch.volcano.sh/v1alpha1/namespaces/team/jobs"
PODS = "/api/v1/namespaces/team/pods"


@dataclass
class KubeServer:
    """What the cluster holds and has seen.

    Attributes:
        objects: What is at a path, such as a queue or a list of an API's kinds.
        lists: Objects of a list, by its path.
        denied: Verb, group and resource (with subresource) that nobody has a right to.
        stubborn: Names of jobs that stay however often they are deleted.
        asked: Path of each request, and whom the caller asked as.
        deleted: Names of jobs that were deleted, in order.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {JOBS: [], PODS: []})
    denied: set[tuple[str, str, str]] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, name: str, labels: dict[str, str], **rest: Any) -> None:
        """Adds an object to a list."""
        about = {"name": name, "uid": f"uid-{name}", "labels": labels, "resourceVersion": "1"}
        self.lists[path].append({"metadata": about, **rest})

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Returns status and answer of one request."""
        if method == "POST" and path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource", ""))))
            assert asked["namespace"] == "team", asked
            return 201, body | {"status": {"allowed": (asked["verb"], asked["group"], resource) not in self.denied}}
        if method == "GET" and path in self.lists:
            wanted = dict(pair.split("=") for pair in filter(None, query.get("labelSelector", "").split(",")))
            chosen = [each for each in self.lists[path] if wanted.items() <= each["metadata"]["labels"].items()]
            return 200, {"items": chosen, "metadata": {"resourceVersion": "1"}}
        if method == "GET" and path in self.objects:
            return 200, self.objects[path]
        if method == "DELETE" and path.startswith(f"{JOBS}/"):
            return self._delete(path.rpartition("/")[2], body)
        return 404, {"kind": "Status", "code": 404, "message": f"{method} {path} is not there"}

    def _delete(self, name: str, options: Any) -> tuple[int, Any]:
        self.deleted.append(name)
        job = next((each for each in self.lists[JOBS] if each["metadata"]["name"] == name), None)
        if job is None:
            return 404, {"kind": "Status", "code": 404, "message": f"{name} is not there"}
        if options.get("preconditions", {}).get("uid", job["metadata"]["uid"]) != job["metadata"]["uid"]:
            return 409, {"kind": "Status", "code": 409, "message": "another one of this name"}
        if name not in self.stubborn:
            self.lists[JOBS].remove(job)
            self.lists[PODS] = [p for p in self.lists[PODS] if p["metadata"]["labels"].get("job") != name]
        return 200, {"kind": "Status", "status": "Success"}


class _Handler(JsonHandler):
    state: KubeServer

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self.state.lock:
            self.state.asked.append((url.path, self.headers.get("Impersonate-User", "")))
            status, answer = self.state.answer(self.command, url.path, query, body)
        self._send(status, answer)


@contextlib.contextmanager
def kube_server(folder: Path) -> Iterator[tuple[KubeServer, Path]]:
    """Yields a server and a kubeconfig for it, whose namespace is `team`."""
    state = KubeServer()
    kubeconfig = folder / "kubeconfig"
    context = {"cluster": "test", "user": "test", "namespace": "team"}
    with served(_Handler, state) as address:
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": context}],
        }
        kubeconfig.write_text(yaml.safe_dump(known))
        yield state, kubeconfig
