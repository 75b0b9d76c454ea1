"""What Prometheus is told of a training: from the reports of the training loop to the metrics of metric_table.py."""

import time

from components.runtime import metrics, process

COUNTED = {"skipped_steps": "train_nonfinite_steps", "gradient_explosions": "train_gradient_explosions"}
NAMED = {
    "loss": "train_loss",
    "gradient_norm": "train_gradient_norm",
    "learning_rate": "train_learning_rate",
    "mfu": "train_flops_ratio",
}
GIB = 1 << 30
ELSEWHERE = frozenset(  # told above, or to be had from the others
    {"skipped_in_a_row", "gradient_norm_max", "images_per_s", "step_s", "data_wait_s", "memory_gib"}
)
BUSY, PROBE = "busy_s/rank", "probe/"


class TrainingMetrics:
    """Takes a training's reports; each rank tells its own times, the first one what is the same for all.

    Args:
        num_steps: Of the whole training.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.rank = num_steps, process.rank()
        self._step = 0
        self._is_resumed = False
        self._counted = dict.fromkeys(COUNTED, 0.0)
        metrics.count("train_seconds", 0)
        metrics.count("train_data_wait_seconds", 0)
        if self.rank == 0:
            for name in ("train_steps", "train_samples", *COUNTED.values()):
                metrics.count(name, 0)
            metrics.gauge("train_progress_ratio", 0.0)
            metrics.gauge("checkpoint_timestamp_seconds", time.time())

    def resumed(self, step: int) -> None:
        """Says that the training goes on behind `step`; what was counted before belongs to another process."""
        self._step, self._is_resumed = step, True
        if self.rank == 0:
            metrics.gauge("train_progress_ratio", step / self.num_steps)

    def report(self, step: int, values: dict[str, float], committed_at: float) -> None:
        """Hands on one report of the loop.

        Args:
            step: Steps done.
            values: The loop's metrics, and what the stage adds; those that aren't finite are left out.
            committed_at: When the last checkpoint was committed, in seconds since 1970; 0: none yet.
        """
        num_new, self._step = step - self._step, step
        metrics.count("train_seconds", values["step_s"] * num_new)
        metrics.count("train_data_wait_seconds", values["data_wait_s"])
        metrics.gauge("train_busy_seconds", values[f"{BUSY}{self.rank}"])
        if self.rank:
            return
        metrics.count("train_steps", num_new)
        metrics.count("train_samples", round(values["images_per_s"] * values["step_s"] * num_new))
        metrics.gauge("train_progress_ratio", step / self.num_steps)
        metrics.gauge("train_memory_bytes", values["memory_gib"] * GIB)
        if committed_at:
            metrics.gauge("checkpoint_timestamp_seconds", committed_at)
        for name, value in values.items():
            self._show(name, value)
        self._is_resumed = False

    def _show(self, name: str, value: float) -> None:
        if name in COUNTED:
            before = value if self._is_resumed else self._counted[name]
            metrics.count(COUNTED[name], value - before)
            self._counted[name] = value
        elif name in NAMED:
            metrics.gauge(NAMED[name], value)
        elif name.startswith(PROBE):
            metrics.gauge("train_probe_ratio", value, probe=name.removeprefix(PROBE))
        elif name == "samples_replaced":
            metrics.count("train_replaced_samples", value)
        elif name not in ELSEWHERE and not name.startswith(BUSY):
            metrics.gauge("train_measure", value, measure=name)
