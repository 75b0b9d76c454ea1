"""Counters, and how Prometheus sees them."""

import ast
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime import metrics
from components.runtime.metric_table import ALL, COUNTER, TABLE
from components.runtime.readme import METRICS_README, with_metrics
from components.runtime.training_metrics import COUNTED, NAMED

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    kept = metrics.drain()
    yield
    metrics.drain()
    metrics.merge(kept)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_counts_add_up_by_label() -> None:
    metrics.count("images_rejected", reason="decode")
    metrics.count("images_rejected", 2, reason="decode")
    metrics.count("images_rejected", reason="empty")
    metrics.count("images_read", 5)
    assert metrics.totals() == {
        "images_read": 5,
        "images_rejected{reason=decode}": 3,
        "images_rejected{reason=empty}": 1,
    }


def test_what_a_worker_drains_the_parent_merges() -> None:
    metrics.count("images_read", 5)
    drained = metrics.drain()
    assert metrics.totals() == {}
    metrics.merge(drained)
    metrics.merge(drained)
    assert metrics.totals() == {"images_read": 10}


def test_prometheus_scrapes_the_counters_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv(metrics.PORT_VARIABLE, str(port))
    assert metrics.serve() == ""
    metrics.count("storage_retries", 3, operation="get_object", reason="SlowDown")
    metrics.count("train_data_wait_seconds", 0.5)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'ceteris_storage_retries_total{operation="get_object",reason="SlowDown"} 3.0' in text
    assert "# TYPE ceteris_train_data_wait_seconds_total counter" in text


@pytest.mark.parametrize("port", ["taken", "no number", "99999999"])
def test_a_port_that_can_not_be_served_is_told_and_stops_nothing(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        number = str(other.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv(metrics.PORT_VARIABLE, number)
        assert number in metrics.serve()


def test_without_a_port_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(metrics.PORT_VARIABLE, raising=False)
    assert metrics.serve() == ""


def scraped(port: int) -> str:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()


def test_a_gauge_is_its_last_value(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv(metrics.PORT_VARIABLE, str(port))
    assert metrics.serve() == ""
    metrics.gauge("train_measure", 2.0, measure="logit_scale")
    metrics.gauge("train_measure", 0.5, measure="logit_scale")
    text = scraped(port)
    assert 'ceteris_train_measure{measure="logit_scale"} 0.5' in text and "# TYPE ceteris_train_measure gauge" in text


def test_ranks_of_a_pod_serve_on_ports_of_their_own_and_say_which_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, value in {metrics.PORT_VARIABLE: str(port - 3), "LOCAL_RANK": "3", "RANK": "11"}.items():
        monkeypatch.setenv(name, value)
    assert metrics.serve() == ""
    metrics.gauge("train_busy_seconds", 0.25)
    metrics.count("storage_retries", operation="read", reason="SlowDown")
    text = scraped(port)
    assert 'ceteris_train_busy_seconds{rank="11"} 0.25' in text
    assert 'ceteris_storage_retries_total{operation="read",rank="11",reason="SlowDown"} 1.0' in text


@pytest.mark.parametrize(("local_rank", "is_counted"), [("0", True), ("1", False)])
def test_the_first_rank_of_a_pod_counts_its_gpus(
    local_rank: str, is_counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    values = {metrics.PORT_VARIABLE: str(port - int(local_rank)), "LOCAL_RANK": local_rank, metrics.GPUS_VARIABLE: "8"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    assert metrics.serve() == ""
    first = float(dict(metrics.drain()).get(("gpu_seconds", ()), 0.0))
    time.sleep(0.05)
    scraped(port)
    seconds = first + dict(metrics.drain()).get(("gpu_seconds", ()), 0.0)
    assert (0.4 <= seconds <= 8 * (time.monotonic() - started)) if is_counted else seconds == 0


def test_another_name_or_label_than_the_tables_is_refused() -> None:
    for wrong in (
        lambda: metrics.count("images_red"),
        lambda: metrics.count("train_loss"),
        lambda: metrics.gauge("images_read", 1.0),
        lambda: metrics.count("images_rejected"),
        lambda: metrics.count("images_read", shard="00001.tar"),
    ):
        with pytest.raises((AssertionError, KeyError)):
            wrong()


def calls() -> list[tuple[Path, ast.Call]]:
    """Returns every call of `count` and `gauge` in the code, with its file."""
    found = []
    for folder in ("components", "pipelines"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                own = path.name == "metrics.py" and ast.unparse(node.func) in ("count", "gauge")
                if own or ast.unparse(node.func) in ("metrics.count", "metrics.gauge"):
                    found.append((path, node))
    return found


def test_the_code_counts_what_the_table_has_and_the_table_has_what_the_code_counts() -> None:
    used = {}
    for path, call in calls():
        name, kind = call.args[0], ast.unparse(call.func).rpartition(".")[2].replace("count", COUNTER)
        if isinstance(name, ast.Constant):
            used[name.value] = kind
            assert {k.arg for k in call.keywords} == set(TABLE[name.value].labels), f"{path}:{call.lineno}"
        else:
            assert path.name in ("metrics.py", "training_metrics.py"), f"{path}:{call.lineno}: write the name here"
    used |= dict.fromkeys(COUNTED.values(), COUNTER) | dict.fromkeys(NAMED.values(), "gauge")
    assert used == {metric.name: metric.kind for metric in ALL}


def test_names_follow_prometheus() -> None:
    for metric in ALL:
        assert re.fullmatch(r"ceteris_[a-z]+(_[a-z]+)*", metric.exported)
        assert not re.search(r"_(total|gib|ms|percent|s)(_|$)", metric.name)
        for word, unit in (("seconds", "seconds"), ("bytes", "bytes"), ("0 to 1", "ratio"), ("events", "events")):
            if word in metric.unit.partition(" per ")[0]:
                assert metric.name.endswith(f"_{unit}"), metric
        assert "rank" not in metric.labels  # the collector adds it


def test_the_readme_has_the_table() -> None:
    readme = METRICS_README.read_text()
    assert readme == with_metrics(readme), "run `make docs`"
