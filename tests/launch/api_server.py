"""An API server to test against: real HTTP, strict about what it is sent, with faults at any call.

What it serves is a `SimulatedCluster`.
"""

import base64
import contextlib
import datetime
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from tests.launch.simulated_cluster import Call, Object, SimulatedCluster

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
KINDS = {
    ("", "configmaps"): "ConfigMap",
    ("", "events"): "Event",
    ("", "pods"): "Pod",
    ("", "resourcequotas"): "ResourceQuota",
    ("", "secrets"): "Secret",
    ("argoproj.io", "workflows"): "Workflow",
    ("batch.volcano.sh", "jobs"): "Job",
    ("scheduling.volcano.sh", "podgroups"): "PodGroup",
}
PATH = re.compile(
    r"/(?:api/v1|apis/([a-z0-9.]+)/v1(?:alpha1|beta1)?)/namespaces/([a-z0-9-]+)/([a-z]+)(?:/([a-z0-9.-]+))?(/log)?"
)
KNOWN_QUERY = {"labelSelector", "fieldSelector", "limit", "continue", "watch", "resourceVersion", "timeoutSeconds"}
LOG_QUERY = {"timestamps", "limitBytes", "container", "sinceTime"}


@contextlib.contextmanager
def api_server() -> Iterator[SimulatedCluster]:
    """Yields a server that listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    state = SimulatedCluster()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def api_client(server: SimulatedCluster) -> client.ApiClient:
    """Returns a connection to the server."""
    settings = client.Configuration(host=server.address)
    settings.retries = False
    return client.ApiClient(settings)


class _Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_call(self) -> None:
        state: SimulatedCluster = self.server.state  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with state.lock:
            call = Call(len(state.calls), self.command, parts.path, query)
            state.calls.append(call)
            fault = state.fault(call)
            if fault.isdigit():
                headers = {"Retry-After": "1"} if fault == "429" else {}
                self._answer(int(fault), _status(int(fault), "Injected", "injected"), headers)
                return
            if fault == "reset":
                self._reset()
                return
            try:
                status, answer = self._do(state, call, json.loads(body) if body else None)
            except _Refused as error:
                status, answer = error.status, _status(error.status, error.reason, str(error))
            if fault == "lose":
                self._reset()
            elif fault == "half":
                self._answer(status, answer, cut=True)
            else:
                self._answer(status, answer)

    do_GET = do_POST = do_DELETE = handle_call

    def _do(self, state: SimulatedCluster, call: Call, body: Any) -> tuple[int, bytes]:
        if call.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            wanted = body["spec"]["resourceAttributes"]
            kind = KINDS[wanted["group"], wanted["resource"]]
            return 201, _json(body | {"status": {"allowed": (wanted["verb"], kind) not in state.forbidden}})
        found = PATH.fullmatch(call.path)
        if not found or (found[1] or "", found[3]) not in KINDS:
            raise _Refused(404, "NotFound", "the server could not find the requested resource")
        kind, name = KINDS[found[1] or "", found[3]], found[4] or ""
        unknown = call.query.keys() - (LOG_QUERY if found[5] else KNOWN_QUERY)
        if unknown:
            raise _Refused(400, "BadRequest", f"unknown query {sorted(unknown)}")
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[call.method]
        if (verb, kind) in state.forbidden:
            raise _Refused(403, "Forbidden", f'User "launcher" cannot {verb} resource "{found[3]}" in the namespace')
        if call.method == "POST":
            return 201, _json(self._create(state, kind, body))
        if not name:
            return 200, self._watch(state, call) if "watch" in call.query else self._list(state, kind, call)
        thing = state.objects.get((kind, name))
        if thing is None:
            raise _Refused(404, "NotFound", f'{found[3]} "{name}" not found')
        if call.method == "DELETE":
            return 200, _json(self._delete(state, thing, body))
        return 200, self._log(state, thing, call) if found[5] else _json(thing)

    def _create(self, state: SimulatedCluster, kind: str, body: Any) -> Object:
        if kind != "Job" or body.get("kind") != "Job" or body.get("apiVersion") != "batch.volcano.sh/v1alpha1":
            raise _Refused(400, "BadRequest", "not a Volcano job")
        name = body["metadata"]["name"]
        if not DNS_1035.fullmatch(name):
            raise _Refused(422, "Invalid", f'Job "{name}" is invalid: metadata.name')
        if state.refusal:
            raise _Refused(state.refusal[0], "Forbidden", state.refusal[1])
        if there := state.objects.get(("Job", name)):
            being = "object is being deleted: " if "deletionTimestamp" in there["metadata"] else ""
            raise _Refused(409, "AlreadyExists", f'{being}jobs.batch.volcano.sh "{name}" already exists')
        return state.admit(body)

    def _delete(self, state: SimulatedCluster, thing: Object, body: Any) -> Object:
        wanted = (body or {}).get("preconditions", {}).get("uid")
        if wanted and wanted != thing["metadata"]["uid"]:
            raise _Refused(409, "Conflict", "the UID in the precondition does not match the UID in record")
        state.begin_delete(thing, (body or {}).get("propagationPolicy", "Background"))
        return thing

    def _list(self, state: SimulatedCluster, kind: str, call: Call) -> bytes:
        found = [t for t in state.of(kind) if _chosen(t, call.query)]
        start, size = 0, int(call.query.get("limit", 1 << 30))
        if token := call.query.get("continue"):
            start, version = json.loads(base64.b64decode(token))
            if version < state.oldest_version:
                raise _Refused(410, "Expired", "The provided continue parameter is too old")
        about = {"resourceVersion": str(state._version)}
        if start + size < len(found):
            about["continue"] = base64.b64encode(_json([start + size, state._version])).decode()
        return _json({"metadata": about, "items": found[start : start + size]})

    def _watch(self, state: SimulatedCluster, call: Call) -> bytes:
        name = call.query["fieldSelector"].removeprefix("metadata.name=")
        version = int(call.query["resourceVersion"])
        if version < state.oldest_version:
            return (
                _json({"type": "ERROR", "object": json.loads(_status(410, "Expired", "too old resource version"))})
                + b"\n"
            )

        def is_changed() -> bool:
            job = state.objects.get(("Job", name))
            return job is None or int(job["metadata"]["resourceVersion"]) > version

        state.pass_until(state.now + float(call.query["timeoutSeconds"]), is_changed)
        if not is_changed():
            return b""
        job = state.objects.get(("Job", name))
        return _json({"type": "MODIFIED" if job else "DELETED", "object": job or {}}) + b"\n"

    def _log(self, state: SimulatedCluster, pod: Object, call: Call) -> bytes:
        if call.query.get("container") != pod["spec"]["containers"][0]["name"]:
            raise _Refused(400, "BadRequest", "container is not valid for pod")
        if pod["status"]["phase"] == "Pending":
            raise _Refused(400, "BadRequest", "container is waiting to start: ContainerCreating")
        since = call.query.get("sinceTime", "")
        if since:
            datetime.datetime.fromisoformat(since)
        lines = []
        for number, (time, text) in enumerate(state.logs.get(pod["metadata"]["name"], [])):
            stamp = datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
            if stamp >= since[:19]:  # metav1.Time has whole seconds
                lines.append(f"{stamp}.{number:09d}Z {text}\n")
        return "".join(lines).encode()[: int(call.query["limitBytes"])]

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        if cut:
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


def _chosen(thing: Object, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = term.partition("=")
        if key not in ("metadata.name", "involvedObject.name"):
            raise _Refused(400, "BadRequest", f"field label not supported: {key}")
        head, tail = key.split(".")
        if thing.get(head, {}).get(tail) != value:
            return False
    return True


def _json(thing: Any) -> bytes:
    return json.dumps(thing).encode()


def _status(code: int, reason: str, message: str) -> bytes:
    return _json({"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message})
