"""Counters, and how Prometheus sees them."""

import socket
import urllib.request
from collections.abc import Iterator

import pytest

from components.runtime import metrics


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
    metrics.count("data_wait_seconds", 0.5)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'ceteris_storage_retries_total{operation="get_object",reason="SlowDown"} 3.0' in text
    assert "# TYPE ceteris_data_wait_seconds_total counter" in text


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


def test_a_gauge_is_its_last_value(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv(metrics.PORT_VARIABLE, str(port))
    assert metrics.serve() == ""
    metrics.gauge("step_seconds", 2.0, rank="1")
    metrics.gauge("step_seconds", 0.5, rank="1")
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'ceteris_step_seconds{rank="1"} 0.5' in text and "# TYPE ceteris_step_seconds gauge" in text
