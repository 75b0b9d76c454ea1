"""The guide's commands parse, its values render, and nodes have the labels and taints that the pools look for."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.launch.gang import read_pools
from pipelines.arguments import parsers
from tests.charts.rendering import CHART, run_helm

K8S = CHART.parents[1] / "k8s"
PAGES = sorted(K8S.rglob("*.md"))
POOLS = ("cpu", "gpu", "gang")
LABEL, TAINT = "ceteris.io/pool", {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
PROVISIONED = ("eks-karpenter.yaml", "gke.md", "aks.md", "bare-metal.md")


def blocks(path: Path, language: str) -> list[str]:
    """Returns the fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[list[str]]:
    """Returns the words of each command of the guide that begins like this."""
    text = "\n".join(blocks(K8S / "README.md", "bash")).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def pools(values: Path) -> dict[str, Any]:
    """Returns the pools as the chart hands them on with these values."""
    given = yaml.safe_load(values.read_text())
    done = run_helm("4.2", "template", f"--values={CHART / 'ci' / 'minimal-values.yaml'}", values=given)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    (config,) = (one for one in documents if one["metadata"]["name"] == "ceteris-pools")
    return read_pools(config["data"]["pools.yaml"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(K8S)))
def test_shell_and_yaml_on_a_page_parse(path: Path) -> None:
    for block in blocks(path, "bash"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for block in blocks(path, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(K8S)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_command_line_takes_every_command_of_the_guide() -> None:
    parser, _ = parsers()
    found = commands("python -m pipelines")
    assert {words[3] for words in found} >= {"doctor", "submit", "status", "cancel"}
    for words in found:
        parser.parse_args([word for word in words[3:] if word != "$IMAGES"])


def test_helm_takes_every_value_of_the_guide() -> None:
    (example,) = (yaml.safe_load(block) for block in blocks(K8S / "README.md", "yaml"))
    for image in example["images"].values():
        image["digest"] = "sha256:" + "0" * 64
    found = commands("helm install ceteris")
    assert len(found) == 2 and found[0][3:6] == ["charts/ceteris", "-n", "kubeflow"]
    for words in found:
        files = [words[n + 1] for n, word in enumerate(words) if word == "-f"]
        values = [f"--values={K8S.parent / name}" for name in files if name != "my-values.yaml"]
        done = run_helm("4.2", "template", *values, values=example if "my-values.yaml" in files else None)
        assert done.returncode == 0, done.stderr


def test_versions_stand_once_and_are_pinned() -> None:
    text = (K8S / "README.md").read_text()
    for words in commands("helm install"):
        assert "ceteris" in words[2] or "--version" in words, words
    assert set(re.findall(r"\?ref=([^\"]+)", text)) == {"2.17.0"}
    for version in ("2.17.0", "1.15.1", "88.5.3", "v26.3.3"):
        assert text.count(version) >= 2, version
    assert not re.search(r"\blatest\b", text)


@pytest.mark.parametrize("name", PROVISIONED)
def test_nodes_have_the_labels_and_taints_that_the_pools_look_for(name: str) -> None:
    wanted = pools(K8S / "nodes" / "pools-values.yaml")
    assert set(wanted) == set(POOLS)
    text = (K8S / "nodes" / name).read_text()
    for pool in POOLS:
        assert wanted[pool].node_selector == {LABEL: pool}
        assert f"{LABEL}={pool}" in text or f"{LABEL}: {pool}" in text
    for pool in ("gpu", "gang"):
        assert {"key": TAINT["key"], "operator": "Exists", "effect": TAINT["effect"]} in list(wanted[pool].tolerations)
    assert not wanted["cpu"].tolerations
    assert "nvidia.com/gpu=present:NoSchedule" in text or str(TAINT["value"]) in text


def test_karpenters_pools_are_whole() -> None:
    documents = list(yaml.safe_load_all((K8S / "nodes" / "eks-karpenter.yaml").read_text()))
    classes = {d["metadata"]["name"] for d in documents if d["kind"] == "EC2NodeClass"}
    found = {d["spec"]["template"]["metadata"]["labels"][LABEL]: d for d in documents if d["kind"] == "NodePool"}
    assert set(found) == set(POOLS)
    for pool, document in found.items():
        spec = document["spec"]["template"]["spec"]
        assert spec["nodeClassRef"]["name"] in classes and document["spec"]["limits"]
        assert spec.get("taints", []) == ([] if pool == "cpu" else [TAINT])
        for each in spec["requirements"]:
            selector = {"nodeSelectorTerms": [{"matchExpressions": [each]}]}
            affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}
            pod = {"containers": [{"name": "a", "image": "b"}], "affinity": affinity}
            thing = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}
            assert kubernetes_validate.validate(thing, "1.34", strict=True) == "1.34"


def test_the_laptops_nodes_are_those_that_its_pools_look_for() -> None:
    config = yaml.safe_load((K8S / "laptop" / "kind.yaml").read_text())
    assert config["kind"] == "Cluster" and config["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    labels = [node.get("labels", {}) for node in config["nodes"]]
    images = {node["image"] for node in config["nodes"]}
    assert len(images) == 1 and re.fullmatch(r"kindest/node:v1\.(29|3[0-5])\.\d+", images.pop())
    for pool in pools(K8S / "laptop" / "values.yaml").values():
        assert any(label.items() >= dict(pool.node_selector).items() for label in labels)


def test_the_fake_gpus_want_a_number() -> None:
    script = K8S / "laptop" / "fake-gpus.sh"
    done = subprocess.run([str(script), "two"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "two is no number of GPUs" in done.stderr
