"""Who keeps the others waiting: a process that hangs, and a rank that is slower than the rest.

A rank that hangs makes all others wait in their next collective for ever. Each rank therefore watches itself: where a
step takes longer than twice the slowest of the last ones and a minute, it writes the stacks of all its threads to
stderr and exits with 1, so that torchrun ends the group and starts it anew from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from components.core.training import distributed

NUM_RECENT = 20
STDERR = 2
SLOW = 2.0  # times the median of the ranks


class Watchdog:
    """Ends the process with its stacks when `step_done` is not called in time; a context manager.

    Python's own thread watches, outside the interpreter's lock, so that a hang in C code is seen too. There is one per
    process.

    Args:
        slack_s: what a step may take beyond twice the slowest of the last 20; infinite: nothing is watched.
        patience_s: what the first step, a report or a checkpoint may take.
    """

    def __init__(self, *, slack_s: float, patience_s: float) -> None:
        if not slack_s > 0 or not patience_s > 0:
            raise ValueError(f"slack_s={slack_s} and patience_s={patience_s} are seconds over 0; inf: no watch.")
        self.slack_s, self.patience_s = slack_s, patience_s
        self._recent_s: deque[float] = deque(maxlen=NUM_RECENT)
        self._last = time.monotonic()

    def __enter__(self) -> Watchdog:
        self._arm(self.patience_s)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def step_done(self) -> None:
        """Says that a step has ended and the next begins."""
        now = time.monotonic()
        self._recent_s.append(now - self._last)
        self._last = now
        self._arm(self.limit_s)

    @property
    def limit_s(self) -> float:
        """What the step under way may take."""
        return 2 * max(self._recent_s, default=self.patience_s) + self.slack_s

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Gives time for what is no step, and leaves it out of the step's duration."""
        start = time.monotonic()
        self._arm(self.patience_s)
        try:
            yield
        finally:
            self._last += time.monotonic() - start
            self._arm(self.limit_s)

    def _arm(self, timeout_s: float) -> None:
        if math.isfinite(self.slack_s) and math.isfinite(timeout_s):
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)


class BusyClock:
    """How long this rank works before it may have to wait for others: for its data, and for its forward pass.

    On a GPU the forward pass is timed by events on the device, which are read when `take_s` is called: the loop has
    waited for the device by then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds, self._num_steps, self._start = 0.0, 0, 0.0
        self._wait_s = 0.0
        self._events: list[tuple[Any, Any]] = []

    def start(self, wait_s: float) -> None:
        """Begins a step whose batch was waited for."""
        self._seconds += wait_s
        self._wait_s += wait_s
        self._num_steps += 1
        self._start = time.perf_counter()
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((event, torch.cuda.Event(enable_timing=True)))

    def stop(self) -> None:
        """Says that from now on this rank may wait for others."""
        if self.device.type == "cuda":
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._start

    def take_s(self) -> float:
        """Returns the mean seconds per step since the last call."""
        self._seconds += sum(start.elapsed_time(stop) for start, stop in self._events) / 1_000
        mean_s = self._seconds / max(1, self._num_steps)
        self._seconds, self._num_steps = 0.0, 0
        self._events.clear()
        return mean_s

    def take_wait_s(self) -> float:
        """Returns the seconds that this rank has waited for its batches since the last call."""
        taken, self._wait_s = self._wait_s, 0.0
        return taken


def stragglers(busy_s: list[float]) -> list[int]:
    """Returns the ranks that are busy for over twice the median, for two ranks that of the faster one."""
    median_s = statistics.median_low(busy_s)
    return [rank for rank, seconds in enumerate(busy_s) if seconds > SLOW * median_s]


def all_busy_s(clock: BusyClock) -> list[float]:
    """Returns every rank's busy seconds per step, by rank."""
    return distributed.of_all_ranks(clock.take_s())
