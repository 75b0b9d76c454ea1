"""MLflow tracking that can't stop or slow a stage: events go to a spool file, and from there to the server.

A stage only ever appends to its spool. Where `MLFLOW_TRACKING_URI` is set (a cluster), a thread of the stage sends
the spool on; on a laptop the pipeline runner does so for all stages, which spares each of them MLflow's import.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from components.runtime import metrics, process

SEND_EVERY_S = 5.0
LAST_SEND_S = 20.0
CALL_TIMEOUT_S = 5
LINES_TAG = "ceteris.spooled_lines"
TASK_TAG = "ceteris.task"
RUN_TAG = "ceteris.run"
METRICS_PER_CALL = 1000  # MLflow's limit for one batch
PARAMS_PER_CALL = 100


class Spool:
    """An append-only file of tracking events, one JSON line each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.num_events = 0
        self._file = path.open("a", buffering=1)

    def params(self, values: dict[str, Any]) -> None:
        """Records the stage's parameters."""
        self._append(op="params", values={k: str(v) for k, v in values.items()})

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Records one point of each curve."""
        self._append(op="metrics", step=step, time_ms=int(time.time() * 1000), values=values)

    def tags(self, values: dict[str, str]) -> None:
        """Records facts about the run, such as where its manifest lies."""
        self._append(op="tags", values=values)

    def end(self, status: str) -> None:
        """Records how it ended: FINISHED, FAILED or KILLED."""
        self._append(op="end", status=status)

    def _append(self, **event: Any) -> None:
        self._file.write(json.dumps(event) + "\n")
        self.num_events += 1


class Sender:
    """Brings a spool into MLflow: one experiment per study, a parent run per pipeline run, a nested run per task.

    Sending twice adds nothing: the run remembers how many lines it has.
    """

    def __init__(self, tracking_uri: str, experiment: str, run: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CALL_TIMEOUT_S))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri)
        found = self.client.get_experiment_by_name(experiment)
        self.experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        self.parent_id = self._find_or_create(RUN_TAG, run, run, {})

    def send(self, spool: Path, task: str, run_id: str = "") -> None:
        """Sends what the spool holds beyond what its MLflow run has; with `run_id`, that run is continued."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = run_id or self._find_or_create(TASK_TAG, task, task, {"mlflow.parentRunId": self.parent_id})
        run = self.client.get_run(run_id)
        sent = int(run.data.tags.get(LINES_TAG, 0))
        lines = spool.read_text().splitlines()
        events = [json.loads(line) for line in lines[sent:]]
        metrics = [
            Metric(name, float(value), event["time_ms"], event["step"])
            for event in events
            if event["op"] == "metrics"
            for name, value in event["values"].items()
        ]
        known = set(run.data.params)  # a resumed stage records them again, and MLflow refuses a second value
        params = {k: v for e in events if e["op"] == "params" for k, v in e["values"].items() if k not in known}
        tags = [RunTag(k, v) for e in events if e["op"] == "tags" for k, v in e["values"].items()]
        rows = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(rows), PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=rows[start : start + PARAMS_PER_CALL])
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        if events:
            self.client.log_batch(run_id, tags=[*tags, RunTag(LINES_TAG, str(len(lines)))])
        for event in events:
            if event["op"] == "end":
                self.client.set_terminated(run_id, event["status"])

    def end(self, status: str) -> None:
        """Closes the parent run."""
        self.client.set_terminated(self.parent_id, status)

    def _find_or_create(self, tag: str, value: str, name: str, tags: dict[str, str]) -> str:
        parent = tags.get("mlflow.parentRunId")
        condition = f"tags.`{tag}` = '{value}'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
        found = self.client.search_runs([self.experiment_id], condition, max_results=1)
        if found:
            return found[0].info.run_id
        return self.client.create_run(self.experiment_id, run_name=name, tags=tags | {tag: value}).info.run_id


class Tracking:
    """A stage's own tracking: the spool, and the thread that sends it where a server is named.

    Of several ranks only the first is tracked; the others' spools are thrown away.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        is_tracked = process.rank() == 0
        path = (is_tracked and os.environ.get("CETERIS_SPOOL")) or str(
            Path(tempfile.mkdtemp(prefix="ceteris-")) / "spool.jsonl"
        )
        self.spool = Spool(Path(path))
        self.failure = ""
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        if is_tracked and os.environ.get("MLFLOW_TRACKING_URI"):
            self._thread = threading.Thread(target=self._send_until_finished, daemon=True)
            self._thread.start()

    def finish(self, status: str) -> None:
        """Ends the run with a status, and waits a bounded time until everything is sent."""
        self.spool.end(status)
        self._finished.set()
        if self._thread:
            self._thread.join(LAST_SEND_S)

    def _send_until_finished(self) -> None:
        sender: Sender | None = None
        is_last, num_sent = False, 0
        metrics.count("tracking_failures", 0)
        metrics.gauge("tracking_sent_timestamp_seconds", time.time())
        while not is_last:
            is_last = self._finished.wait(SEND_EVERY_S)
            num_events = self.spool.num_events
            try:
                if sender is None:
                    sender = Sender(
                        os.environ["MLFLOW_TRACKING_URI"],
                        os.environ.get("MLFLOW_EXPERIMENT_NAME", "ceteris"),
                        os.environ.get("CETERIS_RUN", "run"),
                    )
                sender.send(self.spool.path, self.task, os.environ.get("MLFLOW_RUN_ID", ""))
                self.failure, num_sent = "", num_events
                metrics.gauge("tracking_sent_timestamp_seconds", time.time())
            except (
                Exception
            ) as error:  # the next round sends the same lines; finish() leaves the last failure to the log
                self.failure = f"{type(error).__name__}: {error}"
                metrics.count("tracking_failures")
            metrics.gauge("tracking_backlog_events", float(self.spool.num_events - num_sent))
