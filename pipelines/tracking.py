"""Brings what the stages of a local run spool into MLflow, beside the run and never in its way."""

import json
import os
import threading
from pathlib import Path

from components.runtime.tracking import Sender

EXPERIMENT = "encoder-study"
SEND_EVERY_S = 5.0
LAST_SEND_S = 30.0


class Forwarder:
    """A thread that sends spools to `<run>/mlflow.db`; MLflow is imported only when there is something to send."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._spools = run / "tracking"
        self._sent_file = self._spools / "sent.json"
        self._status = ""
        self._failure = ""
        self._finished = threading.Event()
        self._sender: Sender | None = None
        self._thread = threading.Thread(target=self._send_until_finished, daemon=True)

    def start(self) -> None:
        """Begins to send."""
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # both are read when MLflow is imported
        self._thread.start()

    def finish(self, status: str) -> str:
        """Sends the rest, closes the run in MLflow with its status, and returns why that failed, or nothing."""
        self._status = status
        self._finished.set()
        self._thread.join(LAST_SEND_S)
        return f"still sending after {LAST_SEND_S:.0f} s" if self._thread.is_alive() else self._failure

    def _send_until_finished(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._finished.wait(SEND_EVERY_S)
            try:
                self._send(is_last)
                self._failure = ""
            except Exception as error:  # MLflow must not stop a study; the next round, or run, sends the same again
                self._failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def _send(self, is_last: bool) -> None:
        sent = json.loads(self._sent_file.read_text()) if self._sent_file.exists() else {}
        sizes = {
            path.relative_to(self._spools).with_suffix("").as_posix(): path.stat().st_size
            for path in sorted(self._spools.rglob("*.jsonl"))
        }
        grown = [task for task, size in sizes.items() if size != sent.get(task)]
        if grown and self._sender is None:
            self._sender = Sender(f"sqlite:///{self._run / 'mlflow.db'}", EXPERIMENT, self._run.name)
        for task in grown:
            assert self._sender is not None
            self._sender.send(self._spools / f"{task}.jsonl", task)
            sent[task] = sizes[task]
            self._sent_file.write_text(json.dumps(sent, indent=1))
        if is_last and self._sender is not None:
            self._sender.end(self._status)
