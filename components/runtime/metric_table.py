"""Every metric that a process of Ceteris serves to Prometheus: name, kind, unit, labels and meaning, written once.

A name is `ceteris_<what>_<unit>`, with `_total` behind a counter's; units are base units, shares lie between 0 and 1.
Each label takes few values. Which run, stage, arm and pod a number is of is told by the scraper, which knows the pod.
"""

from dataclasses import dataclass

PREFIX = "ceteris_"
COUNTER, GAUGE = "counter", "gauge"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As `metrics.count` and `metrics.gauge` are given it.
        kind: `counter` (it only grows) or `gauge`.
        unit: What one of it is.
        help: What it says.
        labels: Its own labels, with what they tell apart.
        of: Which processes serve it.
    """

    name: str
    kind: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    of: str

    @property
    def exported(self) -> str:
        """The name under which Prometheus has it."""
        return PREFIX + self.name + ("_total" if self.kind == COUNTER else "")


def _counter(name: str, unit: str, of: str, help: str, *labels: str) -> Metric:
    return Metric(name=name, kind=COUNTER, unit=unit, help=help, labels=labels, of=of)


def _gauge(name: str, unit: str, of: str, help: str, *labels: str) -> Metric:
    return Metric(name=name, kind=GAUGE, unit=unit, help=help, labels=labels, of=of)


STAGES, TRACKED, DATA, READERS = "every stage", "tracked stages, rank 0", "build_shards", "stages that read or write S3"
CACHED, RANKS, FIRST, PRETRAIN, LAUNCHER = (
    "pretrain with a shard cache",
    "trainings, each rank",
    "trainings, rank 0",
    "pretrain, rank 0",
    "the launcher",
)

ALL = (
    _gauge("stage_start_timestamp_seconds", "seconds since 1970", STAGES, "When the stage began its work."),
    _counter(
        "gpu_seconds", "GPU seconds", STAGES, "GPUs that the pod holds, times seconds; a pod's first rank counts it."
    ),
    _counter("images_read", "pictures", DATA, "Pictures that were decoded."),
    _counter("images_rejected", "pictures", DATA, "Pictures that were left out, by reason.", "reason"),
    _counter("downloads", "pictures", DATA, "Pictures asked for over HTTP, by outcome.", "outcome"),
    _counter("download_retries", "requests", DATA, "Downloads that were tried again, by reason.", "reason"),
    _counter("storage_read_bytes", "bytes", READERS, "Bytes read from storage."),
    _counter("storage_written_bytes", "bytes", READERS, "Bytes written to storage."),
    _counter(
        "storage_retries",
        "requests",
        READERS,
        "Storage calls that were repeated, by operation and reason.",
        "operation",
        "reason",
    ),
    _counter("cache_hits", "shards", CACHED, "Shards that the node's cache had."),
    _counter("cache_misses", "shards", CACHED, "Shards that the node's cache did not have."),
    _counter("cache_failures", "uses", CACHED, "Times that the node's cache could not be used, by reason.", "reason"),
    _counter("train_seconds", "seconds", RANKS, "Time of optimiser steps, waiting included."),
    _counter("train_data_wait_seconds", "seconds", RANKS, "Time that this rank waited for its next batch."),
    _gauge(
        "train_busy_seconds",
        "seconds per step",
        RANKS,
        "Time that this rank works in a step before it may have to wait for others.",
    ),
    _counter("train_steps", "optimiser steps", FIRST, "Steps done by this process."),
    _counter("train_samples", "samples", FIRST, "Samples of all ranks that this process's steps have seen."),
    _gauge("train_progress_ratio", "0 to 1", FIRST, "Share of the planned steps that is done, earlier runs included."),
    _gauge("train_loss", "the objective's", FIRST, "Loss of the last reported step, mean of all ranks."),
    _gauge("train_gradient_norm", "the objective's", FIRST, "Norm of the whole gradient before clipping."),
    _gauge("train_learning_rate", "AdamW's", FIRST, "Learning rate of the last reported step."),
    _gauge(
        "train_measure",
        "the measure's",
        FIRST,
        "The objective's other numbers, such as batch_accuracy, teacher_entropy or logit_scale, by name.",
        "measure",
    ),
    _counter(
        "train_nonfinite_steps", "optimiser steps", FIRST, "Steps skipped because loss or gradient was no number."
    ),
    _counter(
        "train_gradient_explosions", "optimiser steps", FIRST, "Steps whose gradient was over 10 times the usual norm."
    ),
    _gauge("train_memory_bytes", "bytes", FIRST, "Greatest memory that any rank's device has had in use."),
    _gauge("checkpoint_timestamp_seconds", "seconds since 1970", FIRST, "Last checkpoint; at first: the start."),
    _gauge("train_collapsed", "0 or 1", PRETRAIN, "Whether an arm with DINO's loss has collapsed."),
    _gauge("train_flops_ratio", "0 to 1", PRETRAIN, "Share of the devices' peak that the training reaches."),
    _gauge("train_probe_ratio", "0 to 1", PRETRAIN, "Accuracy of a probe of the encoder as it is, by probe.", "probe"),
    _counter("train_replaced_samples", "samples", PRETRAIN, "Samples that stand in the place of lost ones."),
    _gauge("tracking_backlog_events", "events", TRACKED, "Events that MLflow hasn't got yet."),
    _gauge(
        "tracking_sent_timestamp_seconds",
        "seconds since 1970",
        TRACKED,
        "Last success with MLflow; at first: the start.",
    ),
    _counter("tracking_failures", "attempts", TRACKED, "Times that MLflow could not be reached or refused."),
    _gauge("gang_state", "0 or 1", LAUNCHER, "1 for the state in which the gang is.", "state"),
    _gauge(
        "gang_queue_seconds",
        "seconds",
        LAUNCHER,
        "How long this attempt has waited for nodes; it stays when it has some.",
    ),
    _counter("gang_attempts", "attempts", LAUNCHER, "Attempts that have ended, by how.", "ending"),
)
TABLE = {metric.name: metric for metric in ALL}


def markdown() -> str:
    """Returns the table as Markdown."""
    rows = ["| name | kind | unit | labels | served by | |", "|---|---|---|---|---|---|"]
    for metric in ALL:
        labels = ", ".join(metric.labels)
        rows.append(f"| `{metric.exported}` | {metric.kind} | {metric.unit} | {labels} | {metric.of} | {metric.help} |")
    return "\n".join(rows) + "\n"
