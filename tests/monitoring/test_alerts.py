"""Each alert fires on the bad series and stays silent on the good one: promtool plays both through the rules."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.watching import rules, tool, write_rules

TASK = {"namespace": "runs", "run": "r1", "stage": "pretrain", "arm": "clip"}
RANK = TASK | {"pod": "p-0", "role": "gang", "rank": "0"}
LAUNCHER = TASK | {"pod": "launcher", "role": "step"}

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """What one alert is tried on, one value a minute.

    Attributes:
        bad: Series on which it fires at minute `at`, and not yet at minute `before`.
        good: Sets of series on which it doesn't fire at minute `at`.
        value: How its text shows the value.
        labels: Of the alert, beside its severity.
    """

    bad: Series
    good: tuple[Series, ...]
    before: int
    at: int
    value: str = ""
    labels: tuple[str, ...] = tuple(TASK)


def series(name: str, labels: dict[str, str], **more: str) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in (labels | more).items()) + "}"


STEPS, PROGRESS = series("ceteris_train_steps_total", RANK), series("ceteris_train_progress_ratio", RANK)
NOT_FINITE = series("ceteris_train_nonfinite_steps_total", RANK)
COLLAPSED = series("ceteris_train_collapsed", RANK)
FAST, SLOW = series("ceteris_train_busy_seconds", RANK), series("ceteris_train_busy_seconds", RANK, rank="1")
WAIT, WORK = series("ceteris_train_data_wait_seconds_total", RANK), series("ceteris_train_seconds_total", RANK)
SAVED = series("ceteris_checkpoint_timestamp_seconds", RANK)
QUEUE, QUEUED = series("ceteris_gang_queue_seconds", LAUNCHER), series("ceteris_gang_state", LAUNCHER, state="queued")
LOST = series("ceteris_gang_attempts_total", LAUNCHER, ending="lost")
PREEMPTED = series("ceteris_gang_attempts_total", LAUNCHER, ending="preempted")
BEGAN = series("ceteris_stage_start_timestamp_seconds", RANK)
SENT, REFUSED = series("ceteris_tracking_sent_timestamp_seconds", RANK), series("ceteris_tracking_failures_total", RANK)

CASES = {
    "CeterisStalled": Case(
        bad={STEPS: "0+10x30 300x60", PROGRESS: "0.5x90"},
        good=(
            {STEPS: "0+10x90", PROGRESS: "0.5x90"},
            {STEPS: "0+10x30 300x60", PROGRESS: "0.5x30 1x60"},
            {STEPS: "_x50 0x30", PROGRESS: "_x50 0x30"},
        ),
        before=58,
        at=70,
        labels=tuple(RANK),
    ),
    "CeterisNotFinite": Case(
        bad={NOT_FINITE: "0+0x50 1+1x70"}, good=({NOT_FINITE: "0x20 3x100"},), before=40, at=110, value="60"
    ),
    "CeterisCollapsed": Case(
        bad={COLLAPSED: "0x5 1x30"}, good=({COLLAPSED: "0x40"}, {COLLAPSED: "0x5 1x5 0x30"}), before=12, at=20
    ),
    "CeterisStraggler": Case(
        bad={FAST: "0.3x40", SLOW: "1.5x40"},
        good=({FAST: "0.3x40", SLOW: "0.5x40"}, {FAST: "0.3x40", SLOW: "0.3x10 1.5x5 0.3x30"}),
        before=10,
        at=20,
        value="2.5",
        labels=tuple(RANK),
    ),
    "CeterisDataStarved": Case(
        bad={WAIT: "0+30x60", WORK: "0+60x60"},
        good=({WAIT: "0+6x60", WORK: "0+60x60"},),
        before=10,
        at=40,
        value="50%",
    ),
    "CeterisCheckpointOld": Case(
        bad={SAVED: "0x200", PROGRESS: "0.5x200"},
        good=({SAVED: "0+60x200", PROGRESS: "0.5x200"}, {SAVED: "0x200", PROGRESS: "1x200"}),
        before=110,
        at=130,
        value="2h 10m 0s",
    ),
    "CeterisQueueWait": Case(
        bad={QUEUE: "0+60x300", QUEUED: "1x300"},
        good=(
            {QUEUE: "0+60x250 15000x50", QUEUED: "1x250 0x50"},
            {QUEUE: "0+60x200", QUEUED: "1x300"},
        ),
        before=240,
        at=260,
        value="4h 20m 0s",
    ),
    "CeterisAttempts": Case(
        bad={LOST: "0+0x5 0+0.1x90"}, good=({LOST: "0x10 1x80"}, {PREEMPTED: "0+1x90"}), before=20, at=80, value="6"
    ),
    "CeterisGangOrphaned": Case(
        bad={BEGAN: "0x90"},
        good=({BEGAN: "0x90", QUEUED: "0x90"}, {series("ceteris_stage_start_timestamp_seconds", LAUNCHER): "0x90"}),
        before=35,
        at=45,
        value="1",
    ),
    "CeterisTrackingDown": Case(
        bad={SENT: "0x60", REFUSED: "0+1x60"},
        good=({SENT: "0+60x60", REFUSED: "0+1x60"}, {SENT: "0x60", REFUSED: "0x60"}),
        before=10,
        at=20,
        value="20m 0s",
    ),
    "CeterisNotScraped": Case(
        bad={series("up", RANK): "0x40"},
        good=({series("up", RANK): "1x40"}, {'up{job="node"}': "0x40"}),
        before=10,
        at=20,
        value="1",
        labels=(*TASK, "role"),
    ),
}


def played(name: str, case: Case) -> list[dict[str, Any]]:
    """Returns promtool's unit tests of an alert."""
    rule = rules("alert")[name]
    labels = {key: RANK[key] for key in case.labels}
    if name == "CeterisStraggler":
        labels["rank"] = "1"
    shown = {key: _filled(text, labels, case.value) for key, text in rule["annotations"].items()}
    fired = [{"exp_labels": labels | rule["labels"], "exp_annotations": shown}]
    found = [_test(case.bad, [_at(name, case.before, []), _at(name, case.at, fired)])]
    return found + [_test(good, [_at(name, case.at, [])]) for good in case.good]


def _filled(text: str, labels: dict[str, str], value: str) -> str:
    text = re.sub(r"\{\{\s*\$labels\.(\w+)\s*\}\}", lambda found: labels[found[1]], text)
    return re.sub(r"\{\{\s*\$value\s*\|[^}]*\}\}", value, text)


def _at(name: str, minute: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected}


def _test(values: Series, alert_tests: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": text} for name, text in values.items()]
    return {"interval": "1m", "input_series": given, "alert_rule_test": alert_tests}


def run_promtool(folder: Path, tests: list[dict[str, Any]]) -> Any:
    """Plays the tests with the chart's rules."""
    path = folder / "tests.yaml"
    path.write_text(json.dumps({"rule_files": [str(write_rules(folder))], "evaluation_interval": "1m", "tests": tests}))
    return subprocess.run(
        [tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False
    )


def test_every_alert_has_its_case() -> None:
    assert CASES.keys() == rules("alert").keys()


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_on_the_bad_series_and_not_on_the_good(name: str, tmp_path: Path) -> None:
    done = run_promtool(tmp_path, played(name, CASES[name]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_cases_can_fail(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    swapped = Case(bad=case.good[0], good=(case.bad,), before=case.before, at=case.at, value="", labels=case.labels)
    done = run_promtool(tmp_path, played(name, swapped))
    assert done.returncode != 0 and "FAILED" in done.stdout + done.stderr


def test_gpu_hours_of_a_study_add_up_over_its_stages_and_restarts(tmp_path: Path) -> None:
    gpus = "ceteris_gpu_seconds_total"
    given = {
        series(gpus, RANK): "0+480x60 _x30 0+480x60",  # 8 GPUs for two hours, with a restart between
        series(gpus, RANK, pod="p-1"): "0+480x120",  # the gang's other pod
        series(gpus, RANK, stage="train_vlm", pod="v-0"): "_x30 0+60x30",  # one GPU, half an hour
        series(gpus, RANK, run="r2"): "0+60x60",
    }
    hours = {"r1": 32.5, "r2": 1.0}
    expected = [{"labels": f'{{run="{run}"}}', "value": value} for run, value in hours.items()]
    expr = "round(sum by (run) (ceteris:gpu_hours:sum), 0.5)"
    test = _test(given, [])
    test["promql_expr_test"] = [{"expr": expr, "eval_time": "200m", "exp_samples": expected}]
    done = run_promtool(tmp_path, [test])
    assert done.returncode == 0, done.stdout + done.stderr
