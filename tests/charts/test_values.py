"""The chart's values: every one described, and every wrong one refused in a sentence that names it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from charts.readme import undocumented, values_of, with_descriptions, with_table
from tests.charts.rendering import CHART, EACH_HELM, run_helm

SOURCE = (CHART / "values.yaml").read_text()
SCHEMA = (CHART / "values.schema.json").read_text()

QUEUE, CLASS = {"name": "ceteris"}, {"name": "ceteris-gang", "value": 1000}


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def merged(*trees: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            both = isinstance(value, dict) and isinstance(found.get(name), dict)
            found[name] = merged(found[name], value) if both else value
    return found


MINIMAL = yaml.safe_load((CHART / "ci" / "minimal-values.yaml").read_text())
POSTGRES = nested("mlflow.database.existingSecret", "postgres")
REFUSED_BY_SCHEMA = [  # a value, what it is set to, and what the refusal names
    ("storage.accessKey", "AKIA", "storage", "accessKey"),
    ("storge", {}, "", "storge"),
    ("storage.out", "/data/studies", "storage/out", "pattern"),
    ("storage.out", "s3://B/x", "storage/out", "pattern"),
    ("storage.endpoint", "s3.internal:9000", "storage/endpoint", "pattern"),
    ("storage.endpoint", "https://user:pass@s3.internal", "storage/endpoint", "pattern"),
    ("storage.existingSecret", "Bucket", "storage/existingSecret", "pattern"),
    ("runNamespaces", ["team", "team"], "runNamespaces", "equal"),
    ("runNamespaces", "team", "runNamespaces", "want array"),
    ("image.pullPolicy", "Sometimes", "image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"),
    ("images.train.digest", "sha256:123", "images/train/digest", "pattern"),
    ("images.train.tag", "a b", "images/train/tag", "pattern"),
    ("images.trian", {}, "images", "trian"),
    ("kubeflow.multiUser", "yes", "kubeflow/multiUser", "want boolean"),
    ("kubeflow.host", "ml-pipeline:8888", "kubeflow/host", "pattern"),
    ("pools.gang.gpu", 8, "pools/gang", "gpu"),
    ("pools.gang.gpus", "8", "pools/gang/gpus", "want integer"),
    ("pools.gang.cpus", 0, "pools/gang/cpus", "minimum"),
    ("pools.gang.memoryGib", 1.5, "pools/gang/memoryGib", "want integer"),
    ("pools.gang.networkTopology.mode", "near", "pools/gang/networkTopology/mode", "'hard', 'soft'"),
    ("pools.gang.tolerations", [{"effect": "Never"}], "pools/gang/tolerations/0/effect", "NoSchedule"),
    ("pools.gang.env", {"NCCL_DEBUG": 1}, "pools/gang/env/NCCL_DEBUG", "want string"),
    ("pools.h100", {"cpus": 1, "memoryGib": 1}, "pools", "h100"),
    ("pods.runAsUser", 0, "pods/runAsUser", "minimum"),
    ("mlflow.replicas", 0, "mlflow/replicas", "minimum"),
    ("mlflow.auth.password", "secret", "mlflow/auth", "password"),
    ("mlflow.auth.defaultPermission", "ALL", "mlflow/auth/defaultPermission", "'READ'"),
    ("mlflow.persistence.size", "20", "mlflow/persistence/size", "pattern"),
    ("mlflow.service.port", 80, "mlflow/service/port", "minimum"),
    ("mlflow.allowedHosts", ["https://mlflow.example"], "mlflow/allowedHosts/0", "pattern"),
    ("networkPolicy.storageCidrs", ["everywhere"], "networkPolicy/storageCidrs/0", "pattern"),
    ("networkPolicy.dnsPorts", [], "networkPolicy/dnsPorts", "minItems"),
    ("pipelines.upload.presets", ["huge"], "pipelines/upload/presets/0", "'paper'"),
    ("pipelines.upload.presets", [], "pipelines/upload/presets", "minItems"),
    ("reaper.schedule", "often", "reaper/schedule", "pattern"),
    ("scheduling.queues", [{"weight": 1}], "scheduling/queues/0", "name"),
    ("scheduling.queues", [QUEUE | {"weight": 0}], "scheduling/queues/0/weight", "minimum"),
    ("scheduling.queues", [QUEUE | {"capability": {"cpu": "many"}}], "scheduling/queues/0/capability/cpu", "oneOf"),
    ("scheduling.priorityClasses", [CLASS | {"value": 2000000000}], "scheduling/priorityClasses/0/value", "maximum"),
]
REFUSED_BY_SENTENCE = [  # what is set, and the sentence's beginning and remedy
    (nested("mlflow.auth.existingSecret", ""), "mlflow.auth.existingSecret is empty", "name a Secret"),
    (nested("mlflow.clientSecret", ""), "mlflow.clientSecret is empty", "name a Secret"),
    (nested("mlflow.externalUri", "http://m"), "mlflow.externalUri is given", "mlflow.enabled=false"),
    (nested("mlflow.replicas", 2), "mlflow.replicas=2 needs a database", "mlflow.database.existingSecret"),
    (
        merged(nested("mlflow.replicas", 2), POSTGRES),
        "mlflow.replicas=2 needs files",
        "mlflow.artifacts.destination=s3://bucket/folder",
    ),
    (nested("mlflow.podDisruptionBudget.enabled", True), "mlflow.podDisruptionBudget", "mlflow.replicas=2"),
    (
        merged(nested("mlflow", {"replicas": 3, "database": {"upgrade": True}}), POSTGRES),
        "mlflow.database.upgrade=true with mlflow.replicas=3",
        "mlflow.replicas=1",
    ),
    (
        merged(
            nested("mlflow.persistence.existingClaim", "old"),
            POSTGRES,
            nested("mlflow.artifacts.destination", "s3://bucket/x"),
        ),
        "mlflow.persistence.existingClaim=old is not used",
        "leave it out",
    ),
    (
        {"kubeflow": {"multiUser": True}, "runNamespaces": ["team"]},
        "kubeflow.serviceAccount=pipeline-runner runs no step",
        "default-editor",
    ),
    (
        {"kubeflow": {"multiUser": True, "serviceAccount": "default-editor"}},
        "runNamespaces is empty and kubeflow.multiUser=true",
        "name the profiles' namespaces",
    ),
    (
        {"kubeflow": {"multiUser": True, "serviceAccount": "default-editor"}, "runNamespaces": ["kubeflow"]},
        "runNamespaces has kubeflow",
        "name the profiles' namespaces",
    ),
    (nested("pools.gang.queue", "ceterus"), "pools.gang.queue=ceterus is none of", "scheduling.createQueues=false"),
    (
        nested("pools.gpu.priorityClass", "high"),
        "pools.gpu.priorityClass=high is none of",
        "scheduling.createPriorityClasses=false",
    ),
    (nested("pools.gang.env", {"HF_TOKEN": "x"}), "pools.gang.env.HF_TOKEN looks like a secret", "envFromSecrets"),
    (
        nested("pools.cpu.env", {"PROXY": "http://me:pw@proxy"}),
        "pools.cpu.env.PROXY looks like a secret",
        "envFromSecrets",
    ),
    (nested("openshift.enabled", True), "pools.gang.userId=1000 is in no OpenShift", "openshift.io/sa.scc.uid-range"),
    (nested("pools.gang.gpus", 0), "pools.gang has no GPU", "pools.gang.gpus"),
    (nested("quota.enabled", True), "quota.enabled=true and quota.hard is empty", "give amounts"),
    (nested("limitRange.enabled", True), "limitRange.enabled=true", "give limits"),
    (nested("scheduling.queues", [QUEUE, QUEUE]), "scheduling.queues has ceteris twice", "leave one out"),
    (nested("scheduling.queues", [QUEUE, {"name": "root"}]), "scheduling.queues has root", "choose another name"),
    (
        nested("scheduling.queues", [QUEUE | {"parent": "ceteris"}]),
        "scheduling.queues: ceteris is its own parent",
        "name another queue",
    ),
    (
        nested("scheduling.queues", [QUEUE | {"guarantee": {"resource": {"cpu": 4}}}]),
        "scheduling.queues: ceteris has a guarantee of cpu",
        "give deserved.cpu",
    ),
    (nested("scheduling.priorityClasses", [CLASS, CLASS]), "has ceteris-gang twice", "leave one out"),
    (
        nested("scheduling.priorityClasses", [CLASS, CLASS | {"name": "system-gang"}]),
        "scheduling.priorityClasses has system-gang",
        "choose another name",
    ),
]


def refusal(version: str, *trees: dict[str, Any]) -> str:
    done = run_helm(version, "template", values=merged(MINIMAL, *trees))
    assert done.returncode != 0, "it was taken"
    return str(done.stderr)


@pytest.mark.parametrize("version", EACH_HELM)
@pytest.mark.parametrize(
    ("path", "value", "place", "why"), REFUSED_BY_SCHEMA, ids=[str(r[:2]) for r in REFUSED_BY_SCHEMA]
)
def test_a_wrong_value_is_refused_by_its_name(path: str, value: Any, place: str, why: str, version: str) -> None:
    said = refusal(version, nested(path, value))
    old, new = f"- {place.replace('/', '.') or '(root)'}: ", f"- at '{place and '/'}{place}': "
    line, *_ = [each for each in said.splitlines() if each.startswith(old if version == "3.18" else new)]
    assert version == "3.18" or why in line or (why == "pattern" and "does not match pattern" in line), line


@pytest.mark.parametrize("version", EACH_HELM)
@pytest.mark.parametrize(("values", "said", "remedy"), REFUSED_BY_SENTENCE, ids=[r[1] for r in REFUSED_BY_SENTENCE])
def test_what_cannot_work_together_gets_a_sentence(
    values: dict[str, Any], said: str, remedy: str, version: str
) -> None:
    lines = [line for line in refusal(version, values).splitlines() if said in line]
    assert len(lines) == 1 and remedy in lines[0] and lines[0].endswith("."), lines


def test_all_that_cannot_work_is_said_at_once() -> None:
    said = refusal("4.2", *(values for values, *_ in REFUSED_BY_SENTENCE[:2]), nested("quota.enabled", True))
    assert all(word in said for word in ("mlflow.auth.existingSecret", "mlflow.clientSecret", "quota.hard"))


def objects_in(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield path, schema
        for name, inner in schema.items():
            yield from objects_in(inner, f"{path}.{name}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from objects_in(inner, path)


def test_the_schema_is_closed_and_describes_everything() -> None:
    tree = json.loads(SCHEMA)
    documented = {value.path for value in values_of(SOURCE)}
    for path, schema in objects_in(tree):
        assert schema["additionalProperties"] is False, path
        for name, inner in schema["properties"].items():
            has_parts = inner.get("type") == "object" and "properties" in inner
            assert has_parts or inner.get("description"), f"{path}.{name}"
    for path in documented:
        inner = tree
        for name in path:
            inner = inner["properties"][name]


def test_every_value_has_its_comment() -> None:
    known = {value.path for value in values_of(SOURCE)}
    assert list(undocumented(yaml.safe_load(SOURCE), known)) == []
    assert list(undocumented({"a": {"b": 1}, "c": {}}, {("a", "b")})) == ["c"]


def test_the_readme_and_the_schema_are_the_values() -> None:
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, SOURCE), "run `make docs`"
    assert with_descriptions(SCHEMA, SOURCE) == SCHEMA, "run `make docs`"
