"""Counters and gauges of what a process does; Prometheus scrapes them where a port is given.

Their names stand in metric_table.py. Where ranks work together, each serves on a port of its own: torchrun starts
several in a pod, which all get the same environment.

Counting is a dictionary update, so that it may stand in a hot loop and in worker processes: a worker drains its
counts into its result, and the parent merges them.
"""

import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from components.runtime.metric_table import COUNTER, GAUGE, PREFIX, TABLE

PORT = 9400
PORT_VARIABLE = "CETERIS_METRICS_PORT"
GPUS_VARIABLE = "CETERIS_GPUS"

Key = tuple[str, tuple[tuple[str, str], ...]]
Counts = list[tuple[Key, float]]

_counts: dict[Key, float] = {}
_gauges: dict[Key, float] = {}
_lock = threading.Lock()


def count(name: str, amount: float = 1, **labels: str) -> None:
    """Adds `amount` to the counter `name` with these labels; 0 shows it before anything happened."""
    assert TABLE[name].kind == COUNTER and set(labels) == set(TABLE[name].labels), (name, labels)
    key = (name, tuple(sorted(labels.items())))
    with _lock:
        _counts[key] = _counts.get(key, 0.0) + amount


def gauge(name: str, value: float, **labels: str) -> None:
    """Sets the gauge `name` with these labels."""
    assert TABLE[name].kind == GAUGE and set(labels) == set(TABLE[name].labels), (name, labels)
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
    """Gives prometheus-client the numbers as they are when it asks.

    Args:
        gpus: That this process answers for.
        rank: Which rank it is, as a label of all its numbers; empty: no label.
    """

    def __init__(self, gpus: float, rank: str) -> None:
        self.gpus, self.rank = gpus, rank
        self._lock = threading.Lock()
        self._counted_at = time.monotonic()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self._count_gpus()
        with _lock:
            found = sorted([*_counts.items(), *_gauges.items()])
        own = {"rank": self.rank} if self.rank else {}
        for name, rows in itertools.groupby(found, key=lambda item: item[0][0]):
            metric = TABLE[name]
            family_class = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
            family = family_class(PREFIX + name, metric.help, labels=[*metric.labels, *own])
            for (_, pairs), value in rows:
                labels = dict(pairs) | own
                family.add_metric([labels[label] for label in (*metric.labels, *own)], value)
            yield family

    def _count_gpus(self) -> None:
        if not self.gpus:
            return
        with self._lock:
            now = time.monotonic()
            count("gpu_seconds", self.gpus * (now - self._counted_at))
            self._counted_at = now


def serve() -> str:
    """Serves the counters on the port in `CETERIS_METRICS_PORT` plus the rank's number on its node, if there is one.

    Returns:
        Why they can't be served, empty when they are or needn't be: metrics never stop a stage.
    """
    port = os.environ.get(PORT_VARIABLE, "")
    if not port:
        return ""
    from prometheus_client import CollectorRegistry, start_http_server

    try:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = 0.0 if local_rank else float(os.environ.get(GPUS_VARIABLE, "0"))
        registry = CollectorRegistry()
        registry.register(_Collector(gpus, os.environ.get("RANK", "")))
        start_http_server(int(port) + local_rank, registry=registry)
    except (OSError, ValueError, OverflowError) as error:
        return f"{PORT_VARIABLE}={port} can't be served ({error})"
    return ""


def _shown(key: Key) -> str:
    name, labels = key
    return name + ("{" + ",".join(f"{k}={v}" for k, v in labels) + "}" if labels else "")
