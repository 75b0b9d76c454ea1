"""A stand-in for the API server of Kubeflow Pipelines 2.17: what the SDK calls, as strict as the real one."""

import contextlib
import datetime
import email
import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines.json_server import JsonHandler, served

API = "/apis/v2beta1"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Fault:
    """What goes wrong with the next calls: an HTTP status, or 0 for a connection that is closed without an answer."""

    method: str
    path: str
    status: int
    times: int


@dataclass
class KfpServer:
    """What the server holds and has seen.

    Attributes:
        url: Its address.
        version: What it says of its own version.
        polls_to_cancel: How often a terminated run is still CANCELING.
        calls: Method and path of every request.
    """

    url: str = ""
    version: str = "2.17.0"
    polls_to_cancel: int = 1
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Returns the answer to one request."""
        routes = (
            ("GET", "/healthz", lambda: {"multi_user": False, "tag_name": self.version}),
            ("GET", "/experiments", lambda: self._page("experiments", self.experiments, query)),
            ("POST", "/experiments", lambda: self._make_experiment(body)),
            ("GET", "/experiments/([^/:]+)", lambda i: self._one(self.experiments, "experiment", i)),
            ("GET", "/pipelines", lambda: self._page("pipelines", self.pipelines, query)),
            ("POST", "/pipelines", lambda: self._make_pipeline(body)),
            ("GET", "/pipelines/([^/:]+)/versions", lambda i: self._versions(i, query)),
            ("POST", "/pipelines/upload_version", lambda: self._take_version(body, query)),
            ("GET", "/runs", lambda: self._page("runs", self.runs, query)),
            ("POST", "/runs", lambda: self._make_run(body)),
            ("GET", "/runs/([^/:]+)", self._look),
            ("POST", "/runs/([^/:]+):terminate", self._terminate),
        )
        for wanted, pattern, act in routes:
            found = re.fullmatch(API + pattern, path)
            if found and wanted == method:
                return act(*found.groups())
        raise Refused(404, f"{method} {path} is none of this server's calls")

    def end(self, run_id: str, state: str, tasks: dict[str, str]) -> None:
        """Lets a run end (or go on) with tasks in the given states."""
        run = self.runs[run_id]
        run["state"] = state
        times = {"create_time": run["created_at"], "start_time": run["created_at"], "end_time": _now()}
        run["run_details"] = {"task_details": [{"display_name": n, "state": s, **times} for n, s in tasks.items()]}
        if state in ENDED:
            run["finished_at"] = _now()

    def _make_experiment(self, body: Any) -> Any:
        names = [each["display_name"] for each in self.experiments.values()]
        if not body.get("display_name"):
            raise Refused(400, "Experiment name is empty")
        if body["display_name"] in names:
            raise Refused(409, f"Already exist. Please specify a new name: {body['display_name']}")
        made = {"experiment_id": str(uuid.uuid4()), "display_name": body["display_name"], "created_at": _now()}
        self.experiments[made["experiment_id"]] = made | {"storage_state": "AVAILABLE"}
        return self.experiments[made["experiment_id"]]

    def _make_pipeline(self, body: Any) -> Any:
        name = body.get("name") or body.get("display_name")
        if not name:
            raise Refused(400, "name is required")
        if name in [each["name"] for each in self.pipelines.values()]:
            raise Refused(409, f"The name {name} already exist. Please specify a new name")
        made = {"pipeline_id": str(uuid.uuid4()), "name": name, "display_name": name, "created_at": _now()}
        self.pipelines[made["pipeline_id"]] = body | made
        return self.pipelines[made["pipeline_id"]]

    def _versions(self, pipeline_id: str, query: dict[str, str]) -> Any:
        self._one(self.pipelines, "pipeline", pipeline_id)
        held = {key: each for key, each in self.versions.items() if each["pipeline_id"] == pipeline_id}
        return self._page("pipeline_versions", held, query)

    def _take_version(self, file: bytes, query: dict[str, str]) -> Any:
        self._one(self.pipelines, "pipeline", query.get("pipelineid", ""))
        documents = list(yaml.safe_load_all(file))
        if not documents:
            raise Refused(400, "Failed to create a pipeline version")
        both = {"pipeline_spec": documents[0], "platform_spec": documents[1] if documents[1:] else {}}
        _parsed(both)
        made = {"pipeline_version_id": str(uuid.uuid4()), "created_at": _now(), "pipeline_spec": both}
        names = {"name": query["name"], "display_name": query["name"], "pipeline_id": query["pipelineid"]}
        if query["name"] in [v["name"] for v in self.versions.values() if v["pipeline_id"] == query["pipelineid"]]:
            raise Refused(409, "Failed to create a pipeline version")
        self.versions[made["pipeline_version_id"]] = made | names
        return self.versions[made["pipeline_version_id"]]

    def _make_run(self, body: Any) -> Any:
        self._one(self.experiments, "experiment", body.get("experiment_id", ""))
        if not body.get("display_name"):
            raise Refused(400, "The run name is empty. Please specify a valid name")
        document = body.get("pipeline_spec") or {}
        spec = _parsed(document)
        _check_arguments(spec, (body.get("runtime_config") or {}).get("parameters") or {})
        made = {"run_id": str(uuid.uuid4()), "created_at": _now(), "scheduled_at": _now(), "state": "PENDING"}
        run = body | made | {"storage_state": "AVAILABLE"}
        self.runs[run["run_id"]] = run
        return run

    def _look(self, run_id: str) -> Any:
        run = self._one(self.runs, "run", run_id)
        if run["state"] == "CANCELING":
            run["polls"] = run.get("polls", 0) + 1
            if run["polls"] > self.polls_to_cancel:
                run["state"] = "CANCELED"
        return {key: value for key, value in run.items() if key != "polls"}

    def _terminate(self, run_id: str) -> Any:
        run = self._one(self.runs, "run", run_id)
        if run["state"] in ENDED:
            raise Refused(400, f"Failed to cancel run {run_id}: it is in the terminal state {run['state']}")
        run["state"] = "CANCELING"
        return {}

    def _one(self, held: dict[str, Any], kind: str, key: str) -> Any:
        if key not in held:
            raise Refused(404, f"ResourceNotFoundError: {kind} {key} not found.")
        return held[key]

    def _page(self, kind: str, held: dict[str, Any], query: dict[str, str]) -> Any:
        found = list(held.values())
        if query.get("sort_by"):
            name, _, order = query["sort_by"].partition(" ")
            if name not in ("created_at", "display_name"):
                raise Refused(400, f"Invalid sorting field: {name}")
            found.sort(key=lambda each: each[name], reverse=order == "desc")
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["operation"] not in (1, "EQUALS") or predicate["key"] != "display_name":
                raise Refused(400, f"Invalid predicate: {predicate}")
            found = [each for each in found if each["display_name"] == predicate["stringValue"]]
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
        page = {kind: found[start : start + size], "total_size": len(found)}
        return page | ({"next_page_token": str(start + size)} if start + size < len(found) else {})


def _parsed(document: dict[str, Any]) -> Any:
    """Returns the pipeline of a package, alone or beside what its platform is to do."""
    spec = pipeline_spec_pb2.PipelineSpec()
    try:
        json_format.ParseDict(document.get("pipeline_spec", document), spec)
        json_format.ParseDict(document.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refused(400, f"Failed to parse the pipeline spec: {error}") from error
    return spec


def _file_in(content_type: str, body: bytes) -> bytes:
    """Returns the file that a form uploads."""
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    (part,) = message.get_payload()  # type: ignore[misc]
    if part.get_param("name", header="Content-Disposition") != "uploadfile":  # type: ignore[union-attr]
        raise Refused(400, "Failed to read pipeline from file")
    return bytes(part.get_payload(decode=True))  # type: ignore[arg-type, union-attr]


def _check_arguments(spec: Any, given: dict[str, Any]) -> None:
    known = spec.root.input_definitions.parameters
    for name, value in given.items():
        if name not in known:
            raise Refused(400, f"parameter(s) provided are not required by the pipeline: {name}")
        kind = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(known[name].parameter_type)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        right = {
            "STRING": isinstance(value, str),
            "BOOLEAN": isinstance(value, bool),
            "NUMBER_DOUBLE": is_number,
            "NUMBER_INTEGER": is_number and float(value).is_integer(),
        }
        if not right[kind]:
            raise Refused(400, f"input parameter {name} requires type {kind}, but the parameter value is {value!r}")
    for name, parameter in known.items():
        if name not in given and not parameter.is_optional and not parameter.HasField("default_value"):
            raise Refused(400, f"parameter {name} is not optional, yet has neither default value nor user value")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


class _Handler(JsonHandler):
    server_version = "KfpStandIn"
    state: KfpServer

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        data, kind = self.rfile.read(length), self.headers.get("Content-Type") or ""
        body = _file_in(kind, data) if kind.startswith("multipart/") else json.loads(data or "null")
        with self.state.lock:
            self.state.calls.append((self.command, url.path))
            for fault in self.state.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, url.path):
                    fault.times -= 1
                    return self._refuse(fault.status)
            try:
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                return self._send(200, self.state.answer(self.command, url.path, query, body))
            except Refused as error:
                return self._send(error.status, {"code": error.status, "message": error.message})

    def _refuse(self, status: int) -> None:
        if status:
            return self._send(status, {"code": status, "message": "as the test wants it"})
        self.close_connection = True
        return None


@contextlib.contextmanager
def kfp_server() -> Iterator[KfpServer]:
    """Yields a server that runs until the end of the block."""
    state = KfpServer()
    with served(_Handler, state) as state.url:
        yield state
