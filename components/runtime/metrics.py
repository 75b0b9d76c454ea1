"""Counters and gauges of what a stage does; Prometheus scrapes them where a port is given.

Counting is a dictionary update, so that it may stand in a hot loop and in worker processes: a worker drains its
counts into its result, and the parent merges them.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

PREFIX = "ceteris_"
PORT_VARIABLE = "CETERIS_METRICS_PORT"
HELP = {
    "images_read": "Pictures that were decoded.",
    "images_rejected": "Pictures that were left out, by reason.",
    "bytes_read": "Bytes read from storage.",
    "bytes_written": "Bytes written to storage.",
    "downloads": "Pictures asked for over HTTP, by outcome.",
    "download_retries": "Downloads that were tried again, by reason.",
    "storage_retries": "Storage calls that were repeated, by operation and reason.",
    "data_wait_seconds": "Seconds that training waited for its next batch.",
    "cache_hits": "Shards that the node's cache had.",
    "cache_misses": "Shards that the node's cache did not have.",
    "cache_failures": "Times that the node's cache could not be used, by reason.",
}

Key = tuple[str, tuple[tuple[str, str], ...]]
Counts = list[tuple[Key, float]]

_counts: dict[Key, float] = {}
_gauges: dict[Key, float] = {}
_lock = threading.Lock()


def count(name: str, amount: float = 1, **labels: str) -> None:
    """Adds `amount` to the counter `name` with these labels."""
    key = (name, tuple(sorted(labels.items())))
    with _lock:
        _counts[key] = _counts.get(key, 0.0) + amount


def gauge(name: str, value: float, **labels: str) -> None:
    """Sets the gauge `name` with these labels."""
    with _lock:
        _gauges[name, tuple(sorted(labels.items()))] = value


def totals() -> dict[str, float]:
    """Returns every counter by its name, with labels as `name{label=value,...}`, sorted."""
    with _lock:
        return {_shown(key): value for key, value in sorted(_counts.items())}


def drain() -> Counts:
    """Returns all counts and begins anew: what a worker hands to its parent."""
    with _lock:
        found = list(_counts.items())
        _counts.clear()
    return found


def merge(counts: Iterable[tuple[Key, float]]) -> None:
    """Adds what a worker drained."""
    for (name, labels), amount in counts:
        count(name, amount, **dict(labels))


class _Collector:
    """Gives prometheus-client the numbers as they are when it asks."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with _lock:
            found = [(CounterMetricFamily, sorted(_counts.items())), (GaugeMetricFamily, sorted(_gauges.items()))]
        for family_class, values in found:
            for name in sorted({name for (name, _), _ in values}):
                own = [(dict(labels), value) for (n, labels), value in values if n == name]
                label_names = sorted({label for labels, _ in own for label in labels})
                family = family_class(PREFIX + name, HELP.get(name, name), labels=label_names)
                for labels, value in own:
                    family.add_metric([labels.get(label, "") for label in label_names], value)
                yield family


def serve() -> str:
    """Serves the counters on the port in `CETERIS_METRICS_PORT`, if there is one.

    Returns:
        Why they can't be served, empty when they are or needn't be: metrics never stop a stage.
    """
    port = os.environ.get(PORT_VARIABLE, "")
    if not port:
        return ""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector())
    try:
        start_http_server(int(port), registry=registry)
    except (OSError, ValueError, OverflowError) as error:
        return f"{PORT_VARIABLE}={port} can't be served ({error})"
    return ""


def _shown(key: Key) -> str:
    name, labels = key
    return name + ("{" + ",".join(f"{k}={v}" for k, v in labels) + "}" if labels else "")
