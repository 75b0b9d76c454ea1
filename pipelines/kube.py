"""The Kubernetes API as the command line needs it: the launcher's own view of a namespace, with less patience."""

import logging
from collections.abc import Mapping
from typing import Any

import urllib3
from kubernetes.client import ApiException

from components.launch.cluster import KubernetesCluster, connect
from components.runtime.errors import StageFailure
from pipelines.patience import CALL_TIMEOUT_S, patiently, reason_of

PATIENCE_S = 20.0  # a person waits


class Kube:
    """One cluster, seen from the namespace of the runs."""

    def __init__(self, namespace: str, user: str = "") -> None:
        """Reads the address: the cluster that we run in, else the kubeconfig's.

        Args:
            namespace: Namespace of the runs; empty: that of the kubeconfig's context.
            user: Whose rights `may` asks for, such as `system:serviceaccount:team:pipeline-runner`; empty: our own.

        Raises:
            BadInput: No cluster is known.
        """
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._api, found = connect()
        self.namespace = namespace or found
        self._as_user = {"Impersonate-User": user} if user else {}
        self.address = self._api.configuration.host
        self.cluster = KubernetesCluster(self.namespace, self._api, patience_s=PATIENCE_S)

    def get(self, path: str) -> dict[str, Any] | None:
        """Returns what is at a path of the API; None where nothing is.

        Raises:
            StageFailure: The cluster refuses, or doesn't answer.
        """
        return self._call("GET", path)

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Returns whether the user may do this in the namespace; `pods/log` is the part of a resource.

        Raises:
            StageFailure: The cluster refuses to say, or doesn't answer.
        """
        name, _, part = resource.partition("/")
        wanted = {"namespace": self.namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in wanted.items() if value or key == "group"}},
        }
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, self._as_user)
        return bool((answer or {}).get("status", {}).get("allowed"))

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any] | None:
        def once() -> Any:
            return self._api.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json", **(headers or {})},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=CALL_TIMEOUT_S,
            )

        try:
            return patiently(once, True)
        except ApiException as error:
            if error.status == 404:
                return None
            remedy = "ask for that right" if error.status in (401, 403) else "look at the API server's log"
            raise StageFailure(
                f"Kubernetes at {self.address} refused {method} {path} ({error.status} {error.reason}): {remedy}."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StageFailure(
                f"Kubernetes at {self.address} did not answer {method} {path} ({reason_of(error)}): check that "
                "`kubectl get pods` works."
            ) from error
