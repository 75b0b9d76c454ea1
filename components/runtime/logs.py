"""What a stage says while it works: JSON lines in a container, plain text and a bar on a terminal."""

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from components.runtime import process

PROGRESS_EVERY_S = 10.0


class Log:
    """Events of one stage, on stderr and, where `CETERIS_LOG_FILE` names one, in a file as JSON lines."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage = stage
        self.about = {"stage": stage} | ({"rank": process.rank()} if process.rank() else {})
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        path = os.environ.get("CETERIS_LOG_FILE")
        self.file = Path(path).open("a", buffering=1) if path else None  # noqa: SIM115, open as long as the process

    def event(self, event: str, **facts: Any) -> None:
        """Writes one event with its facts."""
        line = json.dumps({"time": round(time.time(), 3), **self.about, "event": event} | facts, default=str)
        if self.file:
            self.file.write(line + "\n")
        if self.is_terminal:
            shown = "  ".join(f"{k}={_short(v)}" for k, v in facts.items())
            line = f"  {self.stage}: {event.replace('_', ' ')}  {shown}".rstrip()
        self.stream.write(f"\r\x1b[K{line}\n" if self.is_terminal else line + "\n")
        self.stream.flush()

    def progress(self, total: int, unit: str) -> "Progress":
        """Returns a progress display over `total` units of work."""
        return Progress(self, total, unit)


class Progress:
    """A bar on a terminal, else an event every ten seconds; of several ranks, the first shows it.

    Use it as a context manager.
    """

    def __init__(self, log: Log, total: int, unit: str) -> None:
        self.log, self.total, self.unit = log, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        self.is_shown = process.rank() == 0
        if log.is_terminal and self.is_shown:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, desc=f"  {log.stage}", leave=False, file=log.stream, ncols=100)

    def advance(self, n: int = 1, **shown: float) -> None:
        """Counts `n` more units as done; `shown` stands beside the bar."""
        self.done += n
        if self.bar is not None:
            if shown:
                self.bar.set_postfix({k: _short(v) for k, v in shown.items()}, refresh=False)
            self.bar.update(n)
        elif self.is_shown and time.monotonic() - self.last >= PROGRESS_EVERY_S:
            self.last = time.monotonic()
            rate = self.done / (self.last - self.start)
            self.log.event("progress", done=self.done, total=self.total, unit=self.unit, per_s=round(rate, 2), **shown)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
