"""What a training says while it runs: to the screen, to MLflow and to Prometheus, at each report of the loop."""

from collections.abc import Callable
from typing import Any

import torch

from components.core.data.reader import ShardReader
from components.core.objectives.collapse import collapse
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints
from components.core.training.flops import PEAK_FLOPS
from components.pretrain.params import Params
from components.pretrain.probe import every
from components.runtime import metrics
from components.runtime.logs import Progress
from components.runtime.stage import Stage
from components.runtime.training_metrics import TrainingMetrics

COLLAPSED_REPORTS = 5  # in a row, before it is said
REPLACED = "samples_replaced"


class Reports:
    """Takes the loop's reports and events.

    Args:
        params: The run's.
        stage: Where events and curves go.
        bar: The progress display.
        reader: Tells which samples it replaced.
        checkpoints: Tells when the last one was committed.
        probe: Returns accuracies of the encoder as it is.
        flops_per_sample: Of the training, for the share of the device's peak.
    """

    def __init__(
        self,
        params: Params,
        stage: Stage,
        bar: Progress,
        reader: ShardReader,
        checkpoints: Checkpoints,
        probe: Callable[[], dict[str, float]],
        flops_per_sample: float,
    ) -> None:
        self.params, self.stage, self.bar, self.reader, self.checkpoints = params, stage, bar, reader, checkpoints
        self.prometheus = TrainingMetrics(params.num_steps)
        self.probe = every(params.probe_every_steps, params.log_every_steps, probe)
        self.flops_per_sample = flops_per_sample
        self.num_collapsed = 0
        self.lost: set[str] = set()

    def __call__(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Hands on the metrics of a report, and returns what belongs to the curve besides."""
        self.bar.advance(step - self.bar.done, **{name: v for name, v in values.items() if name == "loss"})
        found = {f"probe/{name}": value for name, value in self.probe(step).items()}
        if found:
            self.stage.log("probed", step=step, **{name: round(value, 4) for name, value in found.items()})
        found |= self._replaced(step)
        values = values | self._utilisation(values) | found
        self.prometheus.report(step, values, self.checkpoints.committed_at)
        samples = float(step * self.params.batch_size)
        self.stage.metrics(step, values | {"samples_seen": samples})
        self._watch_collapse(step, values)
        return found

    def tell(self, event: str, **facts: Any) -> None:
        """Hands on an event of the loop."""
        if event == "resumed":
            self.bar.advance(facts["step"] - self.bar.done)
            self.prometheus.resumed(facts["step"])
        self.stage.log(event, **facts)

    def _replaced(self, step: int) -> dict[str, float]:
        """Returns how many samples of all ranks were replaced since the last report, and names lost shards once."""
        if not self.reader.replaces_lost:
            return {}
        for name in self.reader.lost.keys() - self.lost:
            self.lost.add(name)
            self.stage.log("shard_lost", step=step, shard=name, problem=self.reader.lost[name])
        return {REPLACED: sum(distributed.of_all_ranks(float(self.reader.take_num_replaced())))}

    def _utilisation(self, values: dict[str, float]) -> dict[str, float]:
        """Returns the share of the devices' peak that the training reaches; nothing for a device without a figure."""
        if "images_per_s" not in values or not torch.cuda.is_available():
            return {}
        name = torch.cuda.get_device_name()
        peak = next((flops for device, flops in PEAK_FLOPS.items() if device in name), 0.0)
        return (
            {"mfu": values["images_per_s"] * self.flops_per_sample / (peak * distributed.world().size)} if peak else {}
        )

    def _watch_collapse(self, step: int, values: dict[str, float]) -> None:
        if "teacher_entropy" not in values:
            return
        sentence = collapse(values, self.params.dino_out_dim)
        self.num_collapsed = self.num_collapsed + 1 if sentence else 0
        if distributed.world().rank == 0:
            metrics.gauge("train_collapsed", float(bool(sentence)))
        if self.num_collapsed == COLLAPSED_REPORTS:
            self.stage.log("collapsed", step=step, problem=sentence)
