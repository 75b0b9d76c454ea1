"""Every variation of the chart, by both versions of helm: valid for each Kubernetes, restricted, labelled, removed."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from pipelines.arguments import parsers
from tests.charts.rendering import (
    APIS,
    CHART,
    CLUSTER_SCOPED,
    EACH_HELM,
    NAMESPACE,
    RELEASE,
    VARIATIONS,
    VERSIONS,
    is_hook,
    objects,
    only,
    pod_templates,
    rendered,
    run_helm,
)
from tests.launch.pod_security import violations

SCHEMAS = Path(__file__).parent / "schemas"
OLDEST, NEWEST = 29, 36
KUBERNETES = [
    pytest.param(f"1.{minor}", marks=() if minor in (OLDEST, NEWEST) else pytest.mark.slow)  # a rendering each
    for minor in range(OLDEST, NEWEST + 1)
]
CUSTOM = {"scheduling.volcano.sh/v1beta1", "monitoring.coreos.com/v1"}
KEPT = {"PersistentVolumeClaim"}  # after `helm uninstall`, as the chart's README says


def pods(variation: str) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{o['kind']} {o['metadata']['name']}", pod) for o in objects(variation) for pod in pod_templates(o)]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_there_is_a_variation_for_each_kind_of_site() -> None:
    assert set(VARIATIONS) == {
        "airgapped",
        "minimal",
        "multi-tenant",
        "no-monitoring",
        "openshift",
        "production",
    }


@pytest.mark.parametrize("version", EACH_HELM)
@pytest.mark.parametrize("variation", VARIATIONS)
def test_helm_finds_nothing_wrong(variation: str, version: str) -> None:
    values = f"--values={CHART / 'ci' / f'{variation}-values.yaml'}"
    done = run_helm(version, "lint", "--strict", values)
    assert done.returncode == 0 and "0 chart(s) failed" in done.stdout, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout + done.stderr


@pytest.mark.slow  # renders everything twice
@pytest.mark.parametrize("variation", VARIATIONS)
def test_both_versions_of_helm_render_the_same(variation: str) -> None:
    old, new = (sorted(rendered(variation, version), key=json.dumps) for version in VERSIONS)
    assert old == new and len(old) > 5


@pytest.mark.parametrize("kube", KUBERNETES)
@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_object_is_valid(variation: str, kube: str) -> None:
    for thing in objects(variation, kube=f"{kube}.0"):
        if thing["apiVersion"] not in CUSTOM:
            assert kubernetes_validate.validate(thing, kube, strict=True) == kube


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_custom_object_fits_its_type(variation: str) -> None:
    for thing in objects(variation):
        if thing["apiVersion"] in CUSTOM:
            schema = json.loads((SCHEMAS / f"{thing['kind'].lower()}.schema.json").read_text())
            jsonschema.Draft202012Validator(schema).validate(thing)


@pytest.mark.parametrize("kube", ["1.28.0", "1.27.3"])
def test_an_older_kubernetes_is_refused(kube: str) -> None:
    done = run_helm("4.2", "template", f"--kube-version={kube}")
    assert done.returncode != 0 and ">=1.29.0-0" in done.stderr


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_pod_is_restricted_and_bounded(variation: str) -> None:
    for name, pod in pods(variation):
        assert list(violations(pod["spec"])) == [], name
        assert pod["spec"]["automountServiceAccountToken"] is any(w in name for w in ("reaper", "doctor")), name
        assert pod["spec"]["enableServiceLinks"] is False
        for volume in pod["spec"]["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), name
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert {"name": "scratch", "mountPath": "/tmp"} in container["volumeMounts"], name
            for amounts in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][amounts].keys(), name
            assert container["command"][0] == "python", "no shell comes between a signal and the program"


def test_openshift_chooses_users_and_groups_itself() -> None:
    for _, pod in pods("openshift"):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys()
    for _, pod in pods("minimal"):
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_object_carries_the_releases_labels(variation: str) -> None:
    wanted = {
        "app.kubernetes.io/name": "ceteris",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/version": "0.1.0",
        "app.kubernetes.io/part-of": "ceteris",
        "app.kubernetes.io/managed-by": "Helm",
    }
    for thing in objects(variation):
        labels = thing["metadata"]["labels"]
        assert wanted.items() <= labels.items() and labels["app.kubernetes.io/component"], thing
        for pod in pod_templates(thing):
            assert wanted.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("variation", VARIATIONS)
def test_nothing_is_left_of_a_release_but_what_the_readme_names(variation: str) -> None:
    for thing in objects(variation):
        annotations = thing["metadata"].get("annotations", {})
        assert (annotations.get("helm.sh/resource-policy") == "keep") is (thing["kind"] in KEPT), thing
        if is_hook(thing):
            policy = annotations["helm.sh/hook-delete-policy"]
            assert "before-hook-creation,hook-succeeded" in policy
            assert "hook-failed" in policy or thing["spec"]["ttlSecondsAfterFinished"] <= 3600
            assert "hook-failed" in annotations["helm.sh/hook-output-log-policy"], "what is deleted is shown before"
        assert not thing["metadata"].get("finalizers")


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_object_has_its_place_and_its_name_once(variation: str) -> None:
    seen = set()
    for thing in objects(variation):
        about = thing["metadata"]
        assert ("namespace" in about) is (thing["kind"] not in CLUSTER_SCOPED), thing
        assert len(about["name"]) <= 63
        key = (thing["kind"], about.get("namespace"), about["name"])
        assert key not in seen
        seen.add(key)


def test_long_names_of_namespaces_stay_apart() -> None:
    sets = ("runNamespaces={team-engineering-alpha,team-engineering-beta}", f"fullnameOverride={'c' * 36}")
    for kind, number in (("Pod", 2), ("Job", 4)):
        names = {thing["metadata"]["name"] for thing in objects("multi-tenant", kind, sets=sets)}
        assert len(names) == number and max(map(len, names)) <= 63


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_template_makes_one_kind_of_object(variation: str) -> None:
    kinds: dict[str, set[str]] = {}
    for source, thing in rendered(variation):
        kinds.setdefault(source, set()).add(thing["kind"])
    assert all(len(found) == 1 for found in kinds.values()), kinds


def test_without_volcano_and_prometheus_their_objects_are_left_out() -> None:
    assert "Queue" in {thing["kind"] for thing in objects("production")}
    bare = objects("production", apis=())
    assert not CUSTOM & {thing["apiVersion"] for thing in bare} and len(bare) > 10


def test_what_belongs_to_the_cluster_can_be_left_to_an_admin() -> None:
    assert not set(CLUSTER_SCOPED) & {thing["kind"] for thing in objects("multi-tenant")}
    assert set(CLUSTER_SCOPED) <= {thing["kind"] for thing in objects("production")}


def test_a_tenant_has_all_of_it_in_each_namespace_of_his() -> None:
    per_namespace = {}
    for namespace in ("team-one", "team-two"):
        found = [o for o in objects("multi-tenant") if o["metadata"].get("namespace") == namespace]
        per_namespace[namespace] = sorted((o["kind"], o["metadata"]["name"]) for o in found)
    assert per_namespace["team-one"] == per_namespace["team-two"]
    assert {"Role", "RoleBinding", "ServiceAccount", "CronJob", "NetworkPolicy", "ResourceQuota", "ConfigMap"} <= {
        kind for kind, _ in per_namespace["team-one"]
    }
    uploads = [o["metadata"]["name"] for o in objects("multi-tenant", "Job")]
    assert len(uploads) == 4 and all(name.endswith(("-team-one", "-team-two")) for name in uploads)


def test_the_reaper_never_runs_twice_at_once() -> None:
    spec = only("minimal", "CronJob", "-reaper")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid" and spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "components.launch.reaper"] and "args" not in container
    dry = only("minimal", "CronJob", "-reaper", sets=("reaper.dryRun=true",))
    assert dry["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"] == ["--dry-run"]


def test_images_are_by_digest_where_one_is_given() -> None:
    for _, pod in pods("production"):
        for container in containers(pod):
            assert container["image"] == f"registry.example/ml/ceteris/launcher@sha256:{64 * '2'}"
    for _, pod in pods("minimal"):
        assert {container["image"] for container in containers(pod)} == {"ceteris/launcher:0.1.0"}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_notes_name_the_next_commands(variation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    done = run_helm("4.2", "install", "--dry-run=client", f"--values={CHART / 'ci' / f'{variation}-values.yaml'}")
    notes = done.stdout.partition("\nNOTES:\n")[2]
    assert done.returncode == 0 and "<no value>" not in notes and "%!" not in notes, done.stderr + notes
    for command in ("helm test", "port-forward", "get configmap ceteris-pools"):
        assert command in notes
    verbs = parsers()[1]
    for line in re.findall(r"python -m pipelines ((?:.*\\\n)*.*)", notes.replace("$IMAGES", "--image cpu=x@sha256:1")):
        verb, *words = line.replace("\\\n", " ").split()
        assert not verbs[verb].parse_known_args(words)[1], line
    assert {"doctor", "upload", "submit", "status"} <= set(re.findall(r"python -m pipelines (\w+)", notes))
    assert "Volcano is not here yet" in notes


def test_no_secret_is_made_and_none_is_written_out() -> None:
    for variation in VARIATIONS:
        assert not objects(variation, "Secret")
        for _, pod in pods(variation):
            for container in containers(pod):
                for variable in container.get("env", []):
                    if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "ACCESS_KEY", "SESSION_TOKEN")):
                        assert "secretKeyRef" in variable["valueFrom"], variable


def test_the_release_lives_in_its_namespace_and_the_runs() -> None:
    assert {o["metadata"].get("namespace", NAMESPACE) for o in objects("production", apis=APIS)} == {
        NAMESPACE,
        "kubeflow",
    }
