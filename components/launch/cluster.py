"""A cluster in six calls, and the Kubernetes API server behind them: each call bounded, repeated where that is safe."""

import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.watch.watch import iter_resp_lines

from components.runtime.errors import BadInput, StageFailure

Object = dict[str, Any]

PATHS = {
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Job": "/apis/batch.volcano.sh/v1alpha1/namespaces/{namespace}/jobs",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "PodGroup": "/apis/scheduling.volcano.sh/v1beta1/namespaces/{namespace}/podgroups",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "Workflow": "/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows",
}
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

PATIENCE_S = 900.0  # an API server that is upgraded is away for minutes, and the gang goes on without it
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
CONNECT_S, ANSWER_S = 5.0, 30.0
PAGE = 500
LOG_BYTES = 4 << 20
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class Cluster(Protocol):
    """What the life cycle of a gang needs of a cluster: one namespace of it, objects as plain dicts."""

    namespace: str

    def create(self, job: Object) -> str:
        """Makes sure that a job of this name is there.

        Returns:
            Why there is no room for it yet; empty: it is there, made now or before.

        Raises:
            BadInput: The cluster refuses it, whenever it is sent.
        """
        ...

    def read(self, kind: str, name: str) -> Object | None:
        """Returns one object, or None where it isn't there."""
        ...

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """Returns the objects that the selectors choose."""
        ...

    def delete(self, job: Object) -> None:
        """Begins to delete this very job and its pods; another one of the same name is left alone."""
        ...

    def wait(self, job: Object | None, seconds: float) -> None:
        """Returns when the job is no longer as given, or after some seconds; sooner does no harm."""
        ...

    def log(self, pod: Object, since: str = "") -> bytes:
        """Returns what the pod's first container has said, at most 4 MiB, each line behind its time.

        Args:
            pod: The pod.
            since: A line's time, from whose second on the lines are wanted; empty: from the first one on.
        """
        ...


class Forbidden(StageFailure):
    """The service account lacks a right; the text is the API server's, which names it."""


class KubernetesCluster:
    """One namespace of a real cluster."""

    def __init__(
        self,
        namespace: str,
        api: client.ApiClient,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepares to call; nothing is sent yet.

        Args:
            namespace: Where the gang lives.
            api: The connection, as `connect` makes it.
            patience_s: How long one call is repeated while the API server is away or busy.
            clock: Seconds that pass.
            sleep: Lets them pass.
        """
        self.namespace = namespace
        self._api, self._patience_s, self._clock, self._sleep = api, patience_s, clock, sleep

    def create(self, job: Object) -> str:
        try:
            self._ask("POST", self._path("Job"), body=job)
        except ApiException as error:
            text = _said(error)
            if error.status == 409:
                return ""
            if error.status == 403 and "exceeded quota" in text:
                return text
            if error.status == 404:
                text = "Volcano isn't installed, or the namespace isn't there"
            raise BadInput(
                f"The cluster refuses the job {job['metadata']['name']} in namespace {self.namespace} ({text}): "
                "correct the node pool, or what `python -m pipelines doctor` finds."
            ) from error
        return ""

    def read(self, kind: str, name: str) -> Object | None:
        try:
            return self._ask("GET", f"{self._path(kind)}/{name}")
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._failure(error) from error

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> list[Object]:
        chosen = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE)}
        found: list[Object] = []
        token = ""
        while True:
            try:
                page = self._ask(
                    "GET", self._path(kind), {k: v for k, v in (chosen | {"continue": token}).items() if v}
                )
            except ApiException as error:
                if error.status == 410:  # the list changed too much between two pages
                    found, token = [], ""
                    self._sleep(FIRST_PAUSE_S)
                    continue
                raise self._failure(error) from error
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    def delete(self, job: Object) -> None:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        try:
            self._ask("DELETE", f"{self._path('Job')}/{name}", body=options | {"preconditions": {"uid": uid}})
        except ApiException as error:
            if error.status not in (404, 409):  # gone, or another one has taken its name
                raise self._failure(error) from error

    def wait(self, job: Object | None, seconds: float) -> None:
        if job is None:
            self._sleep(seconds)
            return
        about = job["metadata"]
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={about['name']}",
            "resourceVersion": about["resourceVersion"],
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        try:
            answer = self._send("GET", self._path("Job"), query, None, seconds + ANSWER_S)
            try:
                is_change = any(json.loads(line)["type"] != "ERROR" for line in iter_resp_lines(answer))
            finally:
                answer.close()
        except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError):
            is_change = False
        if not is_change:  # also 410 and a dropped watch: the caller reads anew, but not without a pause
            self._sleep(FIRST_PAUSE_S)

    def log(self, pod: Object, since: str = "") -> bytes:
        query = {"timestamps": "true", "limitBytes": str(LOG_BYTES), "container": pod["spec"]["containers"][0]["name"]}
        path = f"{self._path('Pod')}/{pod['metadata']['name']}/log"
        try:
            return self._ask("GET", path, query | ({"sinceTime": since} if since else {}), parse=bytes)
        except ApiException as error:
            if error.status in (400, 404):  # it hasn't started, or is gone
                return b""
            raise self._failure(error) from error

    def may(self, verb: str, kind: str) -> bool:
        """Returns whether this service account has the right to do `verb` to objects of `kind` in the namespace."""
        parts = PATHS[kind].split("/")
        group = "" if parts[1] == "api" else parts[2]
        wanted = {"namespace": self.namespace, "verb": verb, "group": group, "resource": parts[-1]}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        try:
            answer = self._ask("POST", REVIEWS, body=review | {"spec": {"resourceAttributes": wanted}})
        except ApiException as error:
            raise self._failure(error) from error
        return bool(answer["status"]["allowed"])

    def _path(self, kind: str) -> str:
        return PATHS[kind].format(namespace=self.namespace)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        parse: Callable[[bytes], Any] = json.loads,
    ) -> Any:
        """Returns the answer to a call that may be sent twice, after as many tries as patience allows.

        Raises:
            ApiException: The API server refuses it, and would again.
            StageFailure: It gave no answer for too long.
        """
        deadline = self._clock() + self._patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return parse(self._send(method, path, query or {}, body, ANSWER_S).data)
            except ApiException as error:
                if error.status not in TRANSIENT:
                    raise
                reason = f"{error.status} {error.reason}"
                wanted_s = float((error.headers or {}).get("Retry-After") or 0)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # ValueError: half an answer
                reason, wanted_s = f"{type(error).__name__}: {error}", 0.0
            if self._clock() >= deadline:
                raise StageFailure(
                    f"The API server did not answer {method} {path} for {self._patience_s:.0f} s ({reason}). The gang "
                    "was left as it is: the same step, run again, attaches to it."
                )
            self._sleep(min(max(wanted_s, pause_s * random.uniform(0.5, 1)), LONGEST_PAUSE_S))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _send(self, method: str, path: str, query: Mapping[str, str], body: Object | None, answer_s: float) -> Any:
        return self._api.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(CONNECT_S, answer_s),
        )

    def _failure(self, error: ApiException) -> StageFailure:
        kind = Forbidden if error.status in (401, 403) else StageFailure
        return kind(f"The API server refused a call in namespace {self.namespace}: {_said(error)}.")


def connect() -> tuple[client.ApiClient, str]:
    """Returns a connection and the namespace: a pod's own service account, else the current kubeconfig context.

    Raises:
        BadInput: There is neither.
    """
    settings = client.Configuration()
    namespace = "default"
    try:
        if NAMESPACE_FILE.exists():
            config.load_incluster_config(client_configuration=settings)
            namespace = NAMESPACE_FILE.read_text().strip()
        else:
            config.load_kube_config(client_configuration=settings)
            namespace = config.list_kube_config_contexts()[1]["context"].get("namespace", namespace)
    except config.ConfigException as error:
        raise BadInput(
            f"No cluster is known here ({error}): run in a pod with a service account, or point KUBECONFIG at a file."
        ) from error
    settings.retries = False  # repeated by us, within bounds, and never a POST without looking
    return client.ApiClient(settings), namespace


def _said(error: ApiException) -> str:
    """Returns the API server's own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return f"{error.status} {error.reason}"
