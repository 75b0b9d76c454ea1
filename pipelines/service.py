"""Kubeflow Pipelines as the command line needs it: calls that end in time, failures in a sentence."""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from components.runtime.errors import BadInput, StageFailure
from pipelines.patience import CALL_TIMEOUT_S, patiently, reason_of

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # both are the SDK's own
KFP_NAMESPACE = "kubeflow"
API = "/apis/v2beta1"
PAGE = 100
ACTIVE = (None, "RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED", "CANCELING")


class _Client(kfp.Client):
    """The SDK's client, which asks once how its server is, where the SDK's tries for minutes and prints stacks."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=CALL_TIMEOUT_S)

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace  # the SDK's also writes it into the home folder


class Service:
    """One KFP server. Every method raises StageFailure where the server can't be reached or refuses."""

    def __init__(self, host: str, namespace: str) -> None:
        """Connects.

        Args:
            host: Its address; empty: `KF_PIPELINES_ENDPOINT`, else the cluster that we run in or that kubectl uses.
            namespace: Namespace of the runs.

        Raises:
            BadInput: No address is known.
        """
        host = host or os.environ.get(HOST_VARIABLE, "")
        if not host and not _is_cluster_known():
            raise BadInput(
                f"No address of Kubeflow Pipelines is known: give --host=http://..., set {HOST_VARIABLE}, or have a "
                "kubeconfig."
            )
        self.address = host or "the cluster's own KFP"
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each try; the last one is said here
        credentials = ServiceAccountTokenVolumeCredentials() if os.environ.get(TOKEN_VARIABLE) else None
        with self._said("reach it"), _quiet():
            self._client = _Client(host=host or None, namespace=KFP_NAMESPACE, credentials=credentials)
        if namespace != KFP_NAMESPACE:
            self._client.set_user_namespace(namespace)
        api = self._client._run_api.api_client
        api.call_api = _bounded(api.call_api)

    def health(self) -> dict[str, Any]:
        """Returns what the server says of itself, its version (`tag_name`) among it, which the SDK leaves out."""
        with self._said("ask for its health"):
            api = self._client._run_api.api_client
            answer = api.call_api(f"{API}/healthz", "GET", response_type="object", auth_settings=["Bearer"])
        return dict(answer[0] or {})

    def submit(
        self,
        package: Path,
        *,
        experiment: str,
        name: str,
        arguments: Mapping[str, Any],
        caching: bool | None,
        service_account: str,
    ) -> Any:
        """Starts a run and returns it; the experiment is made where it isn't there.

        Args:
            package: The compiled pipeline.
            experiment: Name of the experiment.
            name: Name of the run.
            arguments: The pipeline's inputs.
            caching: False: no task is taken from KFP's cache; None: as compiled.
            service_account: Account of the steps; empty: the server's default.
        """
        with self._said(f"make the experiment {experiment}"), _quiet():
            found = self._client.create_experiment(experiment)
        with self._said(f"start the run {name}"), _quiet():
            return self._client.run_pipeline(
                experiment_id=found.experiment_id,
                job_name=name,
                pipeline_package_path=str(package),
                params=dict(arguments),
                enable_caching=caching,
                service_account=service_account or None,
            )

    def runs(self, most: int) -> list[Any]:
        """Returns the newest runs, newest first."""
        found: list[Any] = []
        token = ""
        with self._said("list its runs"):
            while len(found) < most:
                page = self._client.list_runs(page_token=token, page_size=PAGE, sort_by="created_at desc")
                found += page.runs or []
                token = page.next_page_token or ""
                if not token:
                    break
        return found[:most]

    def find(self, run: str) -> Any:
        """Returns the run of that id, or the only one of that name.

        Raises:
            BadInput: There is none, or there are several.
        """
        try:
            with self._said(f"look up the run {run}"):
                return self._client.get_run(run)
        except StageFailure as error:
            cause = error.__cause__
            if not (isinstance(cause, kfp_server_api.ApiException) and cause.status in (400, 404)):
                raise
        with self._said(f"look up the run {run}"):
            page = self._client.list_runs(page_size=PAGE, sort_by="created_at desc", filter=_named(run))
        found = page.runs or []
        if not found:
            raise BadInput(f"The run {run} is not at {self.address}: `python -m pipelines status` lists the runs.")
        if len(found) > 1:
            ids = ", ".join(each.run_id for each in found[:5])
            raise BadInput(f"{len(found)} runs are called {run}: name one by its id ({ids}).")
        return self._client.get_run(found[0].run_id)

    def terminate(self, run_id: str) -> None:
        """Asks the server to end a run."""
        with self._said(f"terminate the run {run_id}"):
            self._client.terminate_run(run_id)

    def upload(self, package: Path, *, pipeline: str, version: str, about: str) -> tuple[str, bool]:
        """Makes sure that a pipeline has a version, both by name, and returns its page and whether it is new.

        Args:
            package: The compiled pipeline.
            pipeline: Name of the pipeline, which is made where it isn't there.
            version: Name of the version; one of that name is taken for the same package.
            about: What the pipeline's page says of it.
        """
        namespace = self._client.get_user_namespace() or None
        api, filters = self._client._pipelines_api, {"filter": _named(pipeline)}
        with self._said(f"look up the pipeline {pipeline}"):
            found = api.pipeline_service_list_pipelines(namespace=namespace, **filters).pipelines or []
        if not found:
            wanted = kfp_server_api.V2beta1Pipeline(
                name=pipeline, display_name=pipeline, description=about, namespace=namespace
            )
            with self._said(f"make the pipeline {pipeline}"):
                found = [api.pipeline_service_create_pipeline(wanted)]
        pipeline_id = found[0].pipeline_id
        with self._said(f"look up the version {version}"):
            there = api.pipeline_service_list_pipeline_versions(pipeline_id, filter=_named(version))
        versions = there.pipeline_versions or []
        if not versions:
            with self._said(f"take the version {version} of the pipeline {pipeline}"), _quiet():
                versions = [self._client.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id)]
        page = f"{self._client._get_url_prefix()}/#/pipelines/details/{pipeline_id}"
        return f"{page}/version/{versions[0].pipeline_version_id}", not there.pipeline_versions

    def link(self, run_id: str) -> str:
        """Returns the run's page."""
        return f"{self._client._get_url_prefix()}/#/runs/details/{run_id}"

    @contextlib.contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        try:
            yield
        except kfp_server_api.ApiException as error:
            remedy = {
                401: f"give the token's file in {TOKEN_VARIABLE}",
                403: "ask for the rights on runs in this namespace (--namespace)",
            }.get(error.status, "look at the log of the deployment ml-pipeline")
            raise StageFailure(
                f"Kubeflow Pipelines at {self.address} refused to {doing} ({error.status} {error.reason}: "
                f"{_message(error)}): {remedy}."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StageFailure(
                f"Kubeflow Pipelines at {self.address} did not answer when asked to {doing} ({reason_of(error)}): "
                f"check --host or {HOST_VARIABLE}, or forward a port with `kubectl -n {KFP_NAMESPACE} port-forward "
                "svc/ml-pipeline 8888`."
            ) from error


def arguments_of(run: Any) -> dict[str, Any]:
    """Returns the inputs that a run was started with."""
    return dict((run.runtime_config and run.runtime_config.parameters) or {})


def _named(name: str) -> str:
    """Returns the filter that chooses what has this name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _is_cluster_known() -> bool:
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(path).is_file() for path in kubeconfig.split(os.pathsep))


def _bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the SDK's way to call its server, with an end to each call, and reads repeated."""

    def bounded_call(resource: str, method: str, *args: Any, **kwargs: Any) -> Any:
        kwargs["_request_timeout"] = kwargs.get("_request_timeout") or CALL_TIMEOUT_S
        return patiently(lambda: call(resource, method, *args, **kwargs), method == "GET")

    return bounded_call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the SDK's links and warnings off the screen."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _message(error: kfp_server_api.ApiException) -> str:
    """Returns what the server said, in one line that isn't endless."""
    text = error.body or ""
    with contextlib.suppress(ValueError, AttributeError):
        body = json.loads(text)
        text = body.get("message") or body.get("error_message") or text
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:300]}..."
