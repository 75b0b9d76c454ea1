"""Who may do what: the Roles are what the programs call, no more and no less."""

import contextlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import kube_config

from components.launch.reaper import WORKFLOW_LABEL, reap
from components.runtime.errors import BadInput, StageFailure
from components.runtime.logs import Log
from pipelines.__main__ import main
from pipelines.doctor import RIGHTS
from tests.charts.rendering import VARIATIONS, objects, only, pod_templates
from tests.launch.api_server import api_server
from tests.launch.launchers import Launch, crash, job
from tests.launch.simulated_cluster import Call, Plan
from tests.pipelines.kfp_server import kfp_server
from tests.pipelines.kube_server import kube_server

PATH = re.compile(r"/(?:api|apis/(?P<group>[^/]+))/[^/]+/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)(?P<rest>/.*)?")
VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}
EVERYBODY = {"selfsubjectaccessreviews"}  # what Kubernetes grants to whoever it knows
Rights = set[tuple[str, str, str]]


def of_role(role: dict[str, Any]) -> Rights:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def of_call(method: str, path: str, is_watch: bool = False) -> Rights:
    """Returns the right that Kubernetes asks for before it answers; none for what everybody may."""
    found = PATH.fullmatch(path)
    if found is None or found["resource"] in EVERYBODY:
        return set()
    name, _, part = (found["rest"] or "/")[1:].partition("/")
    verb = VERBS[method] if name or method != "GET" else "watch" if is_watch else "list"
    return {(found["group"] or "", f"{found['resource']}/{part}" if part else found["resource"], verb)}


def of_calls(calls: Iterable[Call]) -> Rights:
    return {right for call in calls for right in of_call(call.method, call.path, "watch" in call.query)}


def launcher_calls(folder: Path) -> list[Call]:
    """Returns all that launchers call over gangs that wait, break, are tried again, get stuck and are cancelled."""
    calls: list[Call] = []
    container = {"name": "stage", "image": "i", "envFrom": [{"secretRef": {"name": "bucket"}}]}
    container["envFrom"].append({"configMapRef": {"name": "addresses"}})  # type: ignore[attr-defined]
    plans = {
        "success": [Plan(queue_s=600)],
        "failure": [Plan(ends=crash()), Plan(ends=crash())],
        "stuck": [Plan(waiting=("ErrImagePull", "not found"))],
        "cancelled": [Plan(ends={})],
    }
    for name, attempts in plans.items():
        with api_server() as server:
            launch = Launch(server, folder / name)
            server.plans = attempts
            for kind in ("Secret", "ConfigMap"):
                server.add(kind, "bucket" if kind == "Secret" else "addresses", data={})
            server.add("Pod", "step", spec={}, status={})
            end = server.now + 200
            stop = {"is_stopping": lambda s=server, at=end: s.now > at} if name == "cancelled" else {}
            with contextlib.suppress(StageFailure, BadInput):
                launch.run(the_job=job(containers=[container]), own_pod="step", **stop)
            calls += server.calls
    return calls


def reaper_calls(folder: Path) -> list[Call]:
    """Returns all that the reaper calls for a gang whose owner is a workflow, and for one whose owner is its step."""
    calls: list[Call] = []
    for is_step in (False, True):
        with api_server() as server:
            launch = Launch(server, folder)
            flow = server.add("Workflow", "flow", status={"phase": "Failed"})
            labels = {"labels": {WORKFLOW_LABEL: "flow"}}
            owner = server.add("Pod", "step", spec={}, status={}, metadata=labels) if is_step else flow
            about = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
            made = job()
            made["metadata"]["ownerReferences"] = [{"apiVersion": "v1"} | about]
            launch.cluster().create(made)
            seen = len(server.calls)
            assert reap(launch.cluster(), Log("reaper", io.StringIO()))
            calls += server.calls[seen:]
    return calls


@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_launchers_role_is_what_the_doctor_looks_for(variation: str) -> None:
    wanted = {(group, resource, verb) for group, resource, verbs in RIGHTS for verb in verbs}
    roles = [role for role in objects(variation, "Role") if role["metadata"]["name"].endswith("-launcher")]
    assert roles and all(of_role(role) == wanted for role in roles)


def test_the_roles_are_exactly_what_is_called(tmp_path: Path) -> None:
    reaped = of_calls(reaper_calls(tmp_path / "reaper"))
    assert of_role(only("minimal", "Role", "-reaper")) == reaped
    assert of_role(only("minimal", "Role", "-launcher")) == of_calls(launcher_calls(tmp_path)) | reaped


def test_the_doctors_roles_are_exactly_what_it_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = tmp_path / "pools.yaml"
    pods.write_text(only("minimal", "ConfigMap", "-pools")["data"]["pools.yaml"])
    queue = "/apis/scheduling.volcano.sh/v1beta1/queues/ceteris"
    with kfp_server() as kfp, kube_server(tmp_path) as (kube, kubeconfig):
        kube.objects[queue] = {"spec": {}, "status": {"state": "Open"}}
        kube.lists["/api/v1/namespaces/team/resourcequotas"] = []
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        words = ["--namespace=team", "--service-account=steps", f"--pools={pods}", f"--host={kfp.url}"]
        main(["doctor", *words])
    as_itself = {path for path, user in kube.asked if not user}
    assert {user for _, user in kube.asked} == {"", "system:serviceaccount:team:steps"}
    called = {right for path in as_itself for right in of_call("GET", path)}
    asked = {("", "serviceaccounts", "impersonate")}
    granted = of_role(only("minimal", "Role", "-doctor")) | of_role(only("minimal", "ClusterRole", "-doctor"))
    assert granted == called | asked
    (rule,) = [r for r in only("minimal", "Role", "-doctor")["rules"] if r["verbs"] == ["impersonate"]]
    assert rule["resourceNames"] == ["pipeline-runner"]


@pytest.mark.parametrize("variation", VARIATIONS)
def test_each_role_is_bound_to_one_account_that_is_there(variation: str) -> None:
    accounts = {(a["metadata"]["namespace"], a["metadata"]["name"]) for a in objects(variation, "ServiceAccount")}
    steps = "default-editor" if variation == "multi-tenant" else "pipeline-runner"
    for binding in objects(variation, "RoleBinding") + objects(variation, "ClusterRoleBinding"):
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        place = binding["metadata"].get("namespace")
        assert any(
            r["metadata"]["name"] == name and r["metadata"].get("namespace") == place for r in objects(variation, kind)
        )
        (subject,) = binding["subjects"]
        assert subject["kind"] == "ServiceAccount"
        if subject["name"] == steps:
            assert name.endswith("-launcher") and subject["namespace"] == place
        else:
            assert (subject["namespace"], subject["name"]) in accounts


@pytest.mark.parametrize("variation", VARIATIONS)
def test_no_role_has_a_wildcard_and_no_account_brings_its_token(variation: str) -> None:
    for role in objects(variation, "Role") + objects(variation, "ClusterRole"):
        assert "*" not in json.dumps(role["rules"])
    for account in objects(variation, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("variation", VARIATIONS)
def test_gangs_and_mlflow_have_no_rights(variation: str) -> None:
    bound = {b["subjects"][0]["name"] for b in objects(variation, "RoleBinding")}
    assert not bound & {"ceteris-gang", "ceteris-mlflow"}
    names = {pod["spec"]["serviceAccountName"] for thing in objects(variation) for pod in pod_templates(thing)}
    assert "default" not in names and "ceteris-gang" not in names
