"""The training loop of every objective: loss, backward, clip, AdamW, and nothing that knows which arm it is.

Resuming is bit-identical on the same world size: weights, optimiser, counts and the objective's buffers come from the
checkpoint, the batches restart at its step, and nothing draws from a stateful generator. Another world size goes on
with the same global batches. The host waits for a device only when it reports or saves.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.core.objectives.objective import Objective
from components.core.training import distributed
from components.core.training.batches import BatchT, Ready, num_rows, on_device
from components.core.training.blocks import tuned_blocks
from components.core.training.checkpoint import NO_SETTINGS, Checkpoint, Checkpoints, Settings, Tell, log_event
from components.core.training.gradients import Gradients, clip_gradients
from components.core.training.guard import Guard
from components.core.training.memory import peak_gib, said_out_of_memory
from components.core.training.optimizer import build_optimizer, learning_rate_at, set_schedule, step_unless
from components.core.training.saved_state import SavedState
from components.core.training.sharding import shard, unshard, whole
from components.core.training.watchdog import BusyClock, Watchdog, all_busy_s, stragglers

Curve = list[tuple[int, dict[str, float]]]  # (steps done, metrics) of each report
Report = Callable[[int, dict[str, float]], dict[str, float] | None]


class Interrupted(Exception):
    """Training was asked to stop; the step was finished and saved, and the same call goes on from there."""


class Diverged(RuntimeError):
    """The loss or the gradient was not finite too many steps in a row; nothing of it was saved."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The numbers that all arms share.

    Attributes:
        num_steps: length of the run.
        learning_rate: peak, reached after warmup_steps, then a cosine to 0.
        warmup_steps: steps of linear warm-up.
        beta1, beta2, epsilon: AdamW's.
        clip_norm: greatest global norm of the gradient.
        checkpoint_every_steps: between checkpoints; the last step is saved anyway.
        log_every_steps: between reports; the last step is reported anyway.
        max_nonfinite_steps: this many skipped steps in a row end the run, at the next report.
        is_bfloat16: autocast to bfloat16 (GPUs; slow on CPUs without AVX-512).
        num_micro_batches: parts of a rank's batch that are computed one after the other: less memory, same result.
        is_compiled: transformer blocks through torch.compile.
        checkpoint_activations: transformer blocks keep their input only, and are computed again in the backward pass.
        parallel: ddp: every rank holds the whole objective; fsdp: a share of it, while a separable objective trains
            (sharding.py); it is whole again when `train` returns. It may change when a run is resumed.
        hang_slack_s: a step that takes this much beyond twice the slowest of the last ones ends the process, with the
            stacks of its threads; infinite: no watch.
        hang_patience_s: how long the first step, the call of `report`, and a checkpoint may take.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float
    checkpoint_every_steps: int
    log_every_steps: int
    max_nonfinite_steps: int
    is_bfloat16: bool = False
    num_micro_batches: int = 1
    is_compiled: bool = False
    checkpoint_activations: bool = False
    parallel: str = "ddp"
    hang_slack_s: float = 60.0
    hang_patience_s: float = 1_800.0


def train(
    objective: Objective,
    batches: Callable[[int], Iterator[BatchT]],
    config: LoopConfig,
    *,
    checkpoints: Checkpoints,
    report: Report,
    should_stop: Callable[[], bool],
    tell: Tell = log_event,
    settings: Settings = NO_SETTINGS,
) -> Curve:
    """Trains the objective in place until num_steps, from the newest whole checkpoint where there is one.

    With several ranks each calls this, with its share of the batches; see `distributed.start`. The curve that it
    returns is the same on all of them, and is kept in the checkpoints, so that a resumed run returns the whole of it.

    Args:
        objective: on its device already.
        batches: given the first step wanted, yields the rank's batch of that step, of the next, and so on; a
            dataclass with one row per sample.
        config: the numbers.
        checkpoints: where to save and resume; the first rank's is used.
        report: called on every rank with the number of steps done and the metrics: the objective's and the
            gradient's, which are the ranks' mean and also in the curve, and speed, memory and waits. What it returns is
            added to the curve's point.
        should_stop: asked after each step; where one rank is told so, all stop after the same step.
        tell: called on every rank with `resumed` (step, of), `settings_changed` (step, changes) and
            `metric_not_finite` (step, names), on the first with `straggler` (rank, busy_s, step).
        settings: what the run must have been begun with, to be resumed.

    Raises:
        Interrupted: should_stop said so; all steps done are saved.
        Diverged: max_nonfinite_steps steps in a row were skipped, or the last, and none was ever reported.
        ValueError: settings, model or its frozen part differ from the checkpoint's, num_micro_batches doesn't divide
            the batch, or parallel is not for this objective.
        OutOfMemory: a ValueError: a step doesn't fit.
    """
    run = _Run(objective, config, checkpoints, settings, tell)
    first_step = run.resume()
    objective.train()
    stream = batches(first_step) if first_step < config.num_steps else iter(())
    ready = on_device(stream, run.device)
    with (
        tuned_blocks(objective, is_compiled=config.is_compiled, checkpoint_activations=config.checkpoint_activations),
        Watchdog(slack_s=config.hang_slack_s, patience_s=config.hang_patience_s) as watchdog,
    ):
        _steps(run, zip(range(first_step, config.num_steps), ready, strict=False), watchdog, report, should_stop)
        with watchdog.patient():
            run.settle()
    unshard(objective)
    if run.saved_step < config.num_steps:
        raise RuntimeError(f"the batches ended before num_steps={config.num_steps}: they must not end")
    return run.curve


def columns(curve: Curve) -> dict[str, Any]:
    """Returns a curve's `steps`, and its `values` as one list per metric, None where one was not measured."""
    points = [(step, values) for step, values in curve if "loss" in values]
    names = dict.fromkeys(name for _, values in points for name in values)
    return {
        "steps": [step for step, _ in points],
        "values": {name: [values.get(name) for _, values in points] for name in names},
    }


def _steps(
    run: _Run,
    steps: Iterable[tuple[int, Ready[Any]]],
    watchdog: Watchdog,
    report: Report,
    should_stop: Callable[[], bool],
) -> None:
    """Does the steps, with the reports and checkpoints that fall due after each."""
    config = run.config
    for step, found in steps:
        metrics, norm = run.step(found, step)
        num_done = step + 1
        is_last = num_done == config.num_steps
        if num_done % config.log_every_steps == 0 or is_last:
            values = run.read(num_done, metrics, norm)
            with watchdog.patient():
                run.add_to_curve(num_done, report(num_done, values) or {})
                distributed.wait_for_all()
            run.begin_period(num_done)
        is_stopping = distributed.any_rank(should_stop())
        if num_done % config.checkpoint_every_steps == 0 or is_last or is_stopping:
            with watchdog.patient():
                run.save(num_done)
                distributed.wait_for_all()
        if is_stopping and not is_last:
            with watchdog.patient():
                run.settle()
            raise Interrupted(f"stopped after step {num_done} of {config.num_steps}, which is saved")
        watchdog.step_done()


class _Run:
    """What a run consists of, and what is done with it at a step, a report and a checkpoint."""

    def __init__(
        self, objective: Objective, config: LoopConfig, checkpoints: Checkpoints, settings: Settings, tell: Tell
    ) -> None:
        self.objective, self.config, self.checkpoints = objective, config, checkpoints
        self.settings, self.tell = settings, tell
        self.device = next(objective.parameters()).device
        self.saved = SavedState(objective)
        shard(objective, parallel=config.parallel, is_bfloat16=config.is_bfloat16)
        self.optimizer = build_optimizer(
            objective,
            learning_rate=config.learning_rate,
            beta1=config.beta1,
            beta2=config.beta2,
            epsilon=config.epsilon,
        )
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.guard = Guard().to(self.device)
        self.clock = BusyClock(self.device)
        self.curve: Curve = []
        self.changes: list[dict[str, Any]] = []
        self.saved_step = 0
        self.recent_ids: deque[tuple[int, list[int]]] = deque(
            maxlen=config.log_every_steps + config.max_nonfinite_steps
        )
        self.begin_period(0)

    def resume(self) -> int:
        """Restores the first rank's newest whole checkpoint on all ranks and returns the number of steps done."""
        checkpoint = self.checkpoints.latest() if distributed.world().rank == 0 else None
        said = distributed.from_first_rank((checkpoint.step, checkpoint.facts) if checkpoint else None)
        if said is not None:
            self._restore(Checkpoint(said[0], checkpoint.tensors if checkpoint else {}, said[1]))
        self.gradients = Gradients(
            self.objective,
            num_micro_batches=self.config.num_micro_batches,
            autocast=self._autocast,
            mark=self.clock.stop,
        )
        self.begin_period(self.saved_step)
        return self.saved_step

    def step(self, found: Ready[Any], step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Does one step and returns the metrics and the gradient's norm before clipping, all on the device."""
        self.num_rows = num_rows(found.batch)
        self.recent_ids.append((step, found.ids))
        set_schedule(self.optimizer, learning_rate=self._rate(step), weight_decay=self.objective.weight_decay(step))
        with said_out_of_memory(self.num_rows, self.config.num_micro_batches, self.device):
            self.clock.start(found.wait_s)
            self.optimizer.zero_grad(set_to_none=True)
            loss, metrics = self.gradients(found.batch, step)
            self.objective.before_update(step)
            norm = clip_gradients(self.trained, self.config.clip_norm)
            self.checkpoints.wait_until_copied()  # from here on, what it copies changes
            is_good, found_inf = self.guard.judge(loss, norm, step)
            step_unless(self.optimizer, found_inf)
            self.objective.after_update(step, is_good)
        return metrics, norm

    def read(self, num_done: int, metrics: dict[str, Tensor], norm: Tensor) -> dict[str, float]:
        """Returns what is reported, those that are finite, after adding the metrics to the curve.

        It is the only place where a device is waited for on purpose.

        Raises:
            Diverged: too many steps in a row were skipped.
        """
        tensors = metrics | {"gradient_norm": norm} | self.guard.counts()
        longest = {"longest": self.guard.longest, "longest_end": self.guard.longest_end}
        stacked = torch.stack([tensor.detach().float() for tensor in (tensors | longest).values()])
        *numbers, length, end = distributed.mean(stacked).tolist()
        self.guard.begin_anew()
        values = dict(zip(tensors, numbers, strict=True)) | {"learning_rate": self._rate(num_done - 1)}
        speeds = self._speeds(num_done)
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if not odd:
            self.curve.append((num_done, values))
        elif not values["skipped_in_a_row"]:
            self.tell("metric_not_finite", step=num_done, names=odd)
        has_nothing = num_done == self.config.num_steps and length > 0 and not self.curve
        if length >= self.config.max_nonfinite_steps or has_nothing:
            raise self._diverged(int(end) - int(length) + 1, int(length))
        return {name: value for name, value in values.items() if math.isfinite(value)} | speeds

    def add_to_curve(self, num_done: int, found: dict[str, float]) -> None:
        """Adds further values to this step's point of the curve, if it has one."""
        if self.curve and self.curve[-1][0] == num_done:
            self.curve[-1][1].update(found)

    def begin_period(self, num_done: int) -> None:
        """Starts the clock of the steps until the next report."""
        self.reported_step, self.reported_at = num_done, time.perf_counter()

    def save(self, num_done: int) -> None:
        """Begins to save weights, buffers, optimiser and counts; the first rank does, for whom the others gather."""
        self.saved_step = num_done
        tensors = self.saved.tensors(self.optimizer, self.guard)
        if distributed.world().rank:
            deque(whole(tensors), maxlen=0)
            return
        facts = {"num_steps": self.config.num_steps, "curve": self.curve, "changes": self.changes}
        facts |= {"settings": self.settings.values, "unsaved": self.saved.fingerprint}
        self.checkpoints.begin(num_done, tensors, facts)

    def settle(self) -> None:
        """Returns when what was saved is committed, on all ranks: the first to leave would end the others."""
        self.checkpoints.flush()
        distributed.wait_for_all()

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        if facts["num_steps"] != self.config.num_steps:
            raise ValueError(
                f"num_steps={self.config.num_steps} differs from the {facts['num_steps']} that the checkpoint "
                f"at step {checkpoint.step} was trained for: the schedules would break. Give the same number, or "
                "another folder."
            )
        changes = self.settings.changes_since(facts["settings"])
        self.changes = facts["changes"]
        if changes:
            self.changes.append({"step": checkpoint.step, "changes": changes})
            self.tell("settings_changed", step=checkpoint.step, changes=changes)
        if facts["unsaved"] != self.saved.fingerprint:
            raise ValueError(
                f"The frozen parameters of {type(self.objective).__name__}, which checkpoints leave out, are not those "
                f"of the checkpoint at step {checkpoint.step}: give the language model and revision that the run was "
                "begun with, or choose another folder."
            )
        self.saved.restore(checkpoint.tensors, self.optimizer, self.guard)
        self.curve = [(step, values) for step, values in facts["curve"]]
        self.saved_step = checkpoint.step
        self.tell("resumed", step=checkpoint.step, of=self.config.num_steps)

    def _speeds(self, num_done: int) -> dict[str, float]:
        """Returns what differs from run to run: seconds, images and memory."""
        num_steps = num_done - self.reported_step
        seconds = time.perf_counter() - self.reported_at
        busy_s = all_busy_s(self.clock)
        for rank in stragglers(busy_s) if distributed.world().rank == 0 else []:
            self.tell("straggler", rank=rank, busy_s=[round(value, 4) for value in busy_s], step=num_done)
        return {
            "step_s": seconds / num_steps,
            "data_wait_s": self.clock.take_wait_s(),
            "images_per_s": num_steps * self.num_rows * len(busy_s) / seconds,
            "memory_gib": max(distributed.of_all_ranks(peak_gib(self.device))),
        } | {f"busy_s/rank{rank}": value for rank, value in enumerate(busy_s)}

    def _diverged(self, first: int, length: int) -> Diverged:
        """Returns the error, after the skipped batches' ids were written down."""
        self.settle()
        own = {step: ids for step, ids in self.recent_ids if first <= step < first + length}
        of_ranks = distributed.objects_of_all_ranks(own)
        ids = {str(step + 1): [of_rank[step] for of_rank in of_ranks] for step in own}
        name = f"diverged-{first + length:09d}.json"
        if distributed.world().rank == 0:
            self.checkpoints.note(name, {"skipped_steps": [first + 1, first + length], "ids_by_step_and_rank": ids})
        distributed.wait_for_all()
        last = [sample for of_rank in ids[str(first + length)] for sample in of_rank]
        shown = ", ".join(map(str, last[:8])) + (", ..." if len(last) > 8 else "")
        return Diverged(
            f"Loss or gradient was not finite for {length} steps in a row, the last of them {first + length}; the "
            f"last good checkpoint is at step {self.saved_step}. Lower learning_rate, or look at the samples of these "
            f"steps ({shown or 'without ids'}), which {name} lists, beside the checkpoints."
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.is_bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _rate(self, step: int) -> float:
        config = self.config
        return learning_rate_at(
            step, peak=config.learning_rate, warmup_steps=config.warmup_steps, num_steps=config.num_steps
        )
