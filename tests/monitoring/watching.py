"""What the tests of the monitoring share: the rules and the dashboard as the chart renders them, and Debian's tools."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import only

MONITORED = "production"
OURS = re.compile(r"\bceteris[_:][a-z0-9_:]+")


def tool(name: str) -> str:
    """Returns where a program of Debian's package `prometheus` is."""
    found = shutil.which(name)
    if found:
        return found
    assert os.environ.get("CI") != "true", f"{name} is missing: .ci/run installs Debian's package prometheus"
    pytest.skip(f"needs {name}: install Debian's package prometheus")


def groups(**how: Any) -> list[dict[str, Any]]:
    """Returns the groups of rules."""
    return only(MONITORED, "PrometheusRule", "ceteris", **how)["spec"]["groups"]


def rules(key: str) -> dict[str, dict[str, Any]]:
    """Returns the rules that `record` or `alert`, by name."""
    return {rule[key]: rule for group in groups() for rule in group["rules"] if key in rule}


def write_rules(folder: Path) -> Path:
    """Writes the rules as Prometheus reads them."""
    path = folder / "rules.yaml"
    path.write_text(json.dumps({"groups": groups()}))
    return path


def dashboard() -> dict[str, Any]:
    """Returns the Grafana dashboard."""
    (text,) = only(MONITORED, "ConfigMap", "-dashboard")["data"].values()
    return json.loads(text)


def queries() -> Iterator[tuple[str, str]]:
    """Yields each query of the dashboard behind its panel's title, as Grafana sends it when all is chosen."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield (
                f"{panel['title']} {target['refId']}",
                re.sub(r'"\$(namespace|run|stage|arm)"', '".*"', target["expr"]),
            )
