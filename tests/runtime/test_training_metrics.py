"""What Prometheus is told of a training, report by report."""

import time
from collections.abc import Iterator

import pytest

from components.runtime import metrics
from components.runtime.training_metrics import TrainingMetrics

VALUES = {
    "loss": 2.5,
    "gradient_norm": 1.5,
    "gradient_norm_max": 3.0,
    "gradient_explosions": 0.0,
    "skipped_steps": 0.0,
    "skipped_in_a_row": 0.0,
    "learning_rate": 0.001,
    "teacher_entropy": 1.25,
    "step_s": 0.5,
    "data_wait_s": 0.75,
    "images_per_s": 64.0,
    "memory_gib": 2.0,
    "busy_s/rank0": 0.3,
    "busy_s/rank1": 0.4,
    "probe/knn_object": 0.7,
}


@pytest.fixture(autouse=True)
def gauges(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Takes the place of the gauges: what a test sets, by name and labels' values."""
    kept = metrics.drain()
    found: dict[str, float] = {}

    def gauge(name: str, value: float, **labels: str) -> None:
        found["/".join([name, *labels.values()])] = value

    monkeypatch.setattr(metrics, "gauge", gauge)
    yield found
    metrics.drain()
    metrics.merge(kept)


def test_reports_become_counters_and_gauges(gauges: dict[str, float]) -> None:
    training = TrainingMetrics(40)
    assert metrics.totals()["train_nonfinite_steps"] == 0 and gauges["train_progress_ratio"] == 0
    training.report(10, VALUES, 0.0)
    started = gauges["checkpoint_timestamp_seconds"]
    training.report(20, VALUES | {"skipped_steps": 2.0}, 1234.5)
    assert started == pytest.approx(time.time(), abs=60) and gauges["checkpoint_timestamp_seconds"] == 1234.5
    assert metrics.totals() == {
        "train_data_wait_seconds": 1.5,
        "train_gradient_explosions": 0,
        "train_nonfinite_steps": 2,
        "train_samples": 640,
        "train_seconds": 10,
        "train_steps": 20,
    }
    assert gauges["train_progress_ratio"] == 0.5 and gauges["train_memory_bytes"] == 2 << 30
    assert gauges["train_probe_ratio/knn_object"] == 0.7 and gauges["train_busy_seconds"] == 0.3
    assert {name for name in gauges if name.startswith("train_measure")} == {"train_measure/teacher_entropy"}


def test_what_was_counted_before_a_restart_is_not_counted_again(gauges: dict[str, float]) -> None:
    training = TrainingMetrics(40)
    training.resumed(20)
    assert gauges["train_progress_ratio"] == 0.5
    training.report(30, VALUES | {"skipped_steps": 7.0}, 0.0)
    training.report(40, VALUES | {"skipped_steps": 8.0}, 0.0)
    totals = metrics.totals()
    assert totals["train_steps"] == 20 and totals["train_nonfinite_steps"] == 1


def test_another_rank_tells_its_own_times_only(gauges: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    training = TrainingMetrics(40)
    training.report(10, VALUES, 1234.5)
    assert gauges == {"train_busy_seconds": 0.4}
    assert metrics.totals() == {"train_data_wait_seconds": 0.75, "train_seconds": 5}


def test_a_number_that_is_not_finite_is_left_out_by_the_loop_and_its_last_value_stays(gauges: dict[str, float]) -> None:
    training = TrainingMetrics(40)
    training.report(10, VALUES, 0.0)
    rest = {name: value for name, value in VALUES.items() if name not in ("loss", "gradient_norm")}
    training.report(20, rest | {"skipped_steps": 10.0, "skipped_in_a_row": 10.0}, 0.0)
    assert gauges["train_loss"] == 2.5 and metrics.totals()["train_nonfinite_steps"] == 10
