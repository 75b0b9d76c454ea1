"""Rules, monitors and dashboard as the chart renders them: whole, and of names that the code serves."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from components.runtime.metric_table import ALL
from tests.charts.rendering import CHART, objects, only
from tests.monitoring.watching import MONITORED, OURS, dashboard, groups, queries, rules, tool, write_rules

ALERTS_PAGE = CHART.parents[1] / "k8s" / "alerts.md"
SERVED = {metric.exported for metric in ALL}
WIDTH = 24


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(write_rules(tmp_path))], capture_output=True, text=True, check=False
    )
    found = sum(len(group["rules"]) for group in groups())
    assert done.returncode == 0 and f"SUCCESS: {found} rules found" in done.stdout, done.stdout + done.stderr


def test_rules_and_dashboard_use_names_that_are_served_or_recorded() -> None:
    known = SERVED | rules("record").keys()
    asked = {rule["expr"] for key in ("record", "alert") for rule in rules(key).values()} | {q for _, q in queries()}
    asked |= {variable["definition"] for variable in dashboard()["templating"]["list"] if "definition" in variable}
    assert {name for text in asked for name in OURS.findall(text)} <= known


def test_the_dashboard_or_a_rule_shows_every_metric() -> None:
    asked = " ".join([*(q for _, q in queries()), *(rule["expr"] for rule in rules("record").values())])
    assert set(OURS.findall(asked)) >= SERVED


def test_every_recording_is_read_by_an_alert_or_the_dashboard() -> None:
    readers = " ".join(
        [*(q for _, q in queries()), *(r["expr"] for k in ("alert", "record") for r in rules(k).values())]
    )
    assert rules("record").keys() <= set(OURS.findall(readers))


def test_every_alert_says_how_bad_what_and_what_to_do() -> None:
    sections = set(re.findall(r"^## (\w+)$", ALERTS_PAGE.read_text(), re.MULTILINE))
    found = rules("alert")
    assert sections == found.keys() and len(found) >= 9
    for name, rule in found.items():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/k8s/alerts.md#{name.lower()}")
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= {
                "namespace", "run", "stage", "arm", "rank", "pod"
            }, name  # fmt: skip


def test_thresholds_come_from_the_values() -> None:
    names = set(re.findall(r"<([a-zA-Z]+)>", (CHART / "files" / "rules.yaml").read_text()))
    values = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["rules"]["thresholds"]
    schema = json.loads((CHART / "values.schema.json").read_text())
    rules_schema = schema["properties"]["monitoring"]["properties"]["rules"]["properties"]
    assert set(rules_schema["thresholds"]["properties"]) == names == values.keys()
    assert set(rules_schema["disabled"]["items"]["enum"]) == rules("alert").keys()
    whole = [f"monitoring.rules.thresholds.{name}={7_000 + n}" for n, name in enumerate(sorted(names))]
    ratios = [f"monitoring.rules.thresholds.{name}" for name in names if isinstance(values[name], float)]
    changed = json.dumps(groups(sets=tuple(pair for pair in whole if not pair.startswith(tuple(ratios)))))
    for n, name in enumerate(sorted(names)):
        assert (str(values[name]) if isinstance(values[name], float) else str(7_000 + n)) in changed, name
    assert not re.search(r"<[a-zA-Z]", changed)


def test_an_alert_can_be_left_out_and_all_can_carry_a_label() -> None:
    changed = groups(sets=("monitoring.rules.disabled={CeterisStraggler}", "monitoring.rules.alertLabels.team=vision"))
    alerts = {rule["alert"]: rule for group in changed for rule in group["rules"] if "alert" in rule}
    assert rules("alert").keys() - alerts.keys() == {"CeterisStraggler"}
    assert {alert["labels"]["team"] for alert in alerts.values()} == {"vision"}


def test_the_dashboard_fits_grafanas_model() -> None:
    schema = json.loads((Path(__file__).parent / "dashboard.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(dashboard())


def test_panels_have_their_own_id_and_place() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= WIDTH
        own = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not own & cells, panel["title"]
        cells |= own
        ids = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(ids)) == len(ids)


def test_grafana_finds_the_dashboard() -> None:
    config = only(MONITORED, "ConfigMap", "-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len(json.dumps(config)) < 1 << 20  # what a ConfigMap holds


@pytest.mark.parametrize("switch", ["podMonitors", "rules", "dashboard"])
def test_each_part_can_be_switched_off(switch: str) -> None:
    kind = {"podMonitors": "PodMonitor", "rules": "PrometheusRule", "dashboard": "ConfigMap"}[switch]
    before = {o["metadata"]["name"] for o in objects(MONITORED, kind)}
    after = {o["metadata"]["name"] for o in objects(MONITORED, kind, sets=(f"monitoring.{switch}.enabled=false",))}
    removed = {
        "podMonitors": {"ceteris-gangs", "ceteris-steps"},
        "rules": {"ceteris"},
        "dashboard": {"ceteris-dashboard"},
    }
    assert before - after == removed[switch]
