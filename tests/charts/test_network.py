"""Who reaches whom under the chart's NetworkPolicies, judged as Kubernetes judges them."""

import ipaddress
from typing import Any

import pytest

from tests.charts.rendering import VARIATIONS, objects, pod_templates

GANG = {"app.kubernetes.io/part-of": "ceteris", "ceteris.io/managed": "true", "app.kubernetes.io/instance": "gang-1"}
STEP = {"app.kubernetes.io/part-of": "ceteris", "pipeline/runid": "7", "ceteris.io/stage": "evaluate"}
Place = tuple[str, dict[str, str]]  # a namespace and a pod's labels, or an address and nothing


def own(component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ceteris",
        "app.kubernetes.io/instance": "ceteris",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "ceteris",
    }


def chooses(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for wish in selector.get("matchExpressions", []):
        there = wish["key"] in labels
        right = {
            "In": there and labels.get(wish["key"]) in wish.get("values", []),
            "Exists": there,
            "DoesNotExist": not there,
        }
        if not right[wish["operator"]]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: dict[str, Any], place: Place, home: str) -> bool:
    where, labels = place
    if "ipBlock" in peer:
        if not where[0].isdigit():
            return False
        address, block = ipaddress.ip_address(where), peer["ipBlock"]
        out = any(address in ipaddress.ip_network(cidr) for cidr in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not out
    if where[0].isdigit():
        return False
    if "namespaceSelector" in peer:
        if not chooses(peer["namespaceSelector"], {"kubernetes.io/metadata.name": where}):
            return False
    elif where != home:
        return False
    return chooses(peer.get("podSelector", {}), labels)


def lets(variation: str, direction: str, pod: Place, other: Place, port: int, protocol: str = "TCP") -> bool:
    """Returns whether the policies let a pod take (Ingress) or begin (Egress) a connection."""
    home, labels = pod
    policies = [
        policy["spec"]
        for policy in objects(variation, "NetworkPolicy")
        if policy["metadata"]["namespace"] == home
        and chooses(policy["spec"]["podSelector"], labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if not policies:
        return True
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return any(
        (side not in rule or any(is_peer(peer, other, home) for peer in rule[side]))
        and ("ports" not in rule or {"protocol": protocol, "port": port} in rule["ports"])
        for policy in policies
        for rule in policy.get(key, [])
    )


def connects(variation: str, one: Place, other: Place, port: int, protocol: str = "TCP") -> bool:
    out = one[0][0].isdigit() or lets(variation, "Egress", one, other, port, protocol)
    return out and (other[0][0].isdigit() or lets(variation, "Ingress", other, one, port, protocol))


MINE = ("kubeflow", GANG)
MLFLOW = ("platform", own("tracking"))
DNS = ("kube-system", {"k8s-app": "kube-dns"})
REAPER, UPLOAD = ("kubeflow", own("reaper")), ("platform", own("upload"))
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
S3, METADATA, API = ("52.95.110.1", {}), ("169.254.169.254", {}), ("10.96.0.1", {})
OPEN = [
    (MINE, ("kubeflow", GANG), 29500, "ranks meet"),
    (MINE, ("kubeflow", GANG), 41123, "NCCL takes any port"),
    (MINE, DNS, 53, "names"),
    (MINE, ("169.254.20.10", {}), 53, "names, from the node's own server"),
    (MINE, S3, 443, "the bucket"),
    (MINE, MLFLOW, 5000, "tracking"),
    (("kubeflow", STEP), MLFLOW, 5000, "a step's tracking"),
    (("kubeflow", {"app": "ml-pipeline"}), MLFLOW, 5000, "KFP's own tracking"),
    (("ingress-nginx", {}), MLFLOW, 5000, "browsers"),
    (PROMETHEUS, MINE, 9400, "scrapes"),
    (MLFLOW, S3, 443, "files"),
    (MLFLOW, ("10.3.2.1", {}), 5432, "the database"),
    (REAPER, API, 443, "the API server"),
    (UPLOAD, ("kubeflow", {"app": "ml-pipeline"}), 8888, "Kubeflow Pipelines"),
    (("kubeflow", STEP), ("kubeflow", {"app": "ml-pipeline"}), 8887, "a step is Kubeflow's to shut off"),
    (("kubeflow", {"app": "other"}), ("kubeflow", {"app": "third"}), 80, "other pods are left alone"),
]
SHUT = [
    (("kubeflow", {"app": "other"}), MINE, 29500, "a neighbour joins the ranks"),
    (("elsewhere", GANG), MINE, 29500, "another namespace's gang joins the ranks"),
    (MINE, METADATA, 80, "the node's credentials by the metadata service"),
    (MINE, METADATA, 443, "the node's credentials by the metadata service"),
    (MINE, ("10.96.0.1", {}), 6443, "a training talks to the API server"),
    (MINE, ("kubeflow", {"app": "ml-pipeline"}), 8888, "a training starts pipelines"),
    (MINE, S3, 22, "another port"),
    (("elsewhere", {}), MLFLOW, 5000, "another namespace's tracking"),
    (MLFLOW, ("10.96.0.1", {}), 6443, "MLflow talks to the API server"),
    (PROMETHEUS, REAPER, 9400, "a job that serves nothing"),
    (REAPER, ("10.3.2.1", {}), 5432, "the database is MLflow's"),
]


@pytest.mark.parametrize(("one", "other", "port", "why"), OPEN, ids=[case[3] for case in OPEN])
def test_what_is_needed_is_open(one: Place, other: Place, port: int, why: str) -> None:
    assert connects("production", one, other, port), why


@pytest.mark.parametrize(("one", "other", "port", "why"), SHUT, ids=[f"{c[3]} {c[2]}" for c in SHUT])
def test_all_else_is_shut(one: Place, other: Place, port: int, why: str) -> None:
    assert not connects("production", one, other, port), why


def test_an_air_gapped_gang_reaches_its_own_store_and_nothing_outside() -> None:
    gang = ("platform", GANG)
    assert connects("airgapped", gang, ("10.1.2.3", {}), 9000)
    assert connects("airgapped", gang, ("10.1.2.3", {}), 8080), "the mirror of the hub"
    assert not connects("airgapped", gang, S3, 443)


def test_one_tenants_pods_do_not_reach_the_others() -> None:
    assert connects("multi-tenant", ("team-one", GANG), ("team-one", GANG), 29500)
    assert not connects("multi-tenant", ("team-one", GANG), ("team-two", GANG), 29500)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_pod_of_the_chart_is_shut_off_by_default(variation: str) -> None:
    for thing in objects(variation):
        for pod in pod_templates(thing):
            place = (thing["metadata"]["namespace"], pod["metadata"]["labels"])
            assert lets(variation, "Ingress", place, ("elsewhere", {}), 1) is (variation == "no-monitoring")
