"""The chart as helm renders it: objects by variation and by helm's version."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]

CHART = Path(__file__).parents[2] / "charts" / "ceteris"
VERSIONS = ("3.18", "4.2")
EACH_HELM = [pytest.param(VERSIONS[0], marks=pytest.mark.slow), VERSIONS[1]]  # the older one doubles a minute
VARIATIONS = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))
APIS = ("batch.volcano.sh/v1alpha1", "scheduling.volcano.sh/v1beta1", "monitoring.coreos.com/v1")
RELEASE, NAMESPACE = "ceteris", "platform"
CLUSTER_SCOPED = ("ClusterRole", "ClusterRoleBinding", "PriorityClass", "Queue")


def helm(version: str) -> str:
    """Returns a helm of this version: where `.ci/helm` puts it, or the one on PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ceteris" / "helm" / version / "helm"
    if cache.is_file():
        return str(cache)
    found = shutil.which("helm")
    if found and f"v{version}." in _run(found, "version", "--short").stdout:
        return found
    assert os.environ.get("CI") != "true", f"helm {version} is missing: .ci/helm installs it"
    pytest.skip(f"needs helm {version}: run .ci/helm")


def run_helm(version: str, command: str, *words: str, values: Mapping[str, Any] | None = None) -> Any:
    """Returns the finished `helm template`, `install` or `lint` of the chart, with these values on top."""
    name = [RELEASE] if command in ("template", "install") else []
    given = ["--values=-"] if values is not None else []
    text = yaml.safe_dump(dict(values)) if values is not None else ""
    return _run(helm(version), command, *name, str(CHART), f"--namespace={NAMESPACE}", *words, *given, text=text)


@functools.cache
def rendered(
    variation: str = "minimal",
    version: str = VERSIONS[-1],
    apis: Sequence[str] = APIS,
    sets: Sequence[str] = (),
    kube: str = "1.36.0",
) -> tuple[tuple[str, Object], ...]:
    """Returns the objects of a variation, hooks among them, each behind the template that it comes from."""
    words = [f"--values={CHART / 'ci' / f'{variation}-values.yaml'}", f"--kube-version={kube}"]
    words += [f"--api-versions={api}" for api in apis] + [f"--set={pair}" for pair in sets]
    done = run_helm(version, "template", *words)
    assert done.returncode == 0, done.stderr
    found = []
    for document in re.split(r"^---\n", done.stdout, flags=re.MULTILINE):
        if (thing := yaml.safe_load(document)) is not None:
            (source,) = set(re.findall(r"^# Source: ceteris/(\S+)$", document, re.MULTILINE))
            found.append((source, thing))
    return tuple(found)


def objects(variation: str = "minimal", kind: str = "", **how: Any) -> list[Object]:
    """Returns the objects of a variation, or those of one kind."""
    return [thing for _, thing in rendered(variation, **how) if kind in ("", thing["kind"])]


def only(variation: str, kind: str, name: str, **how: Any) -> Object:
    """Returns the first object of this kind whose name ends in this way."""
    return next(thing for thing in objects(variation, kind, **how) if thing["metadata"]["name"].endswith(name))


def pod_templates(thing: Object) -> list[Object]:
    """Returns the pods that an object makes, as metadata and spec."""
    if thing["kind"] == "Pod":
        return [thing]
    if thing["kind"] == "CronJob":
        return [thing["spec"]["jobTemplate"]["spec"]["template"]]
    return [thing["spec"]["template"]] if thing["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet") else []


def is_hook(thing: Object) -> bool:
    """Returns whether helm makes it at a certain moment and does not count it among the release."""
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


def _run(*command: str, text: str = "") -> Any:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
