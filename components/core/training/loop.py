"""The training loop of every objective: loss, backward, clip, AdamW, and nothing that knows which arm it is.

Resuming is bit-identical on the same world size: weights, optimiser and the objective's buffers come from the
checkpoint, the batches restart at its step, and nothing draws from a stateful generator.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.core.objectives.objective import Objective
from components.core.training.checkpoint import Checkpoints
from components.core.training.optimizer import (
    build_optimizer,
    learning_rate_at,
    load_optimizer_tensors,
    optimizer_tensors,
    set_schedule,
)


class Movable(Protocol):
    """A batch of any kind: it can be moved to a device."""

    def to(self, device: torch.device | str) -> Any:
        """Returns the batch on a device."""
        ...


BatchT = TypeVar("BatchT", bound=Movable)
Curve = list[tuple[int, dict[str, float]]]  # (steps done, metrics) of each report


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
        max_nonfinite_steps: this many skipped steps in a row end the run.
        is_bfloat16: autocast to bfloat16 (GPUs; slow on CPUs without AVX-512).
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


def train(
    objective: Objective,
    batches: Callable[[int], Iterator[BatchT]],
    config: LoopConfig,
    *,
    checkpoints: Checkpoints,
    report: Callable[[int, dict[str, float]], None],
    should_stop: Callable[[], bool],
) -> Curve:
    """Trains the objective in place until num_steps, from the newest whole checkpoint where there is one.

    The curve that it returns is kept in the checkpoints, so that a resumed run returns the whole of it.

    Args:
        objective: on its device already.
        batches: given the first step wanted, yields the batch of that step, of the next, and so on.
        config: the numbers.
        checkpoints: where to save and resume.
        report: called with the number of steps done and the metrics.
        should_stop: asked after each step.

    Raises:
        Interrupted: should_stop said so; all steps done are saved.
        Diverged: max_nonfinite_steps steps in a row were skipped.
    """
    device = next(objective.parameters()).device
    optimizer = build_optimizer(
        objective,
        learning_rate=config.learning_rate,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
    )
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    first_step, curve = _resume(objective, optimizer, checkpoints, config)
    loss_of = _distributed(objective)
    objective.train()
    num_skipped = 0
    saved_step = first_step
    stream = batches(first_step) if first_step < config.num_steps else iter(())
    for step, batch in zip(range(first_step, config.num_steps), stream, strict=False):
        set_schedule(optimizer, learning_rate=_rate(config, step), weight_decay=objective.weight_decay(step))
        autocast = torch.autocast(device.type, torch.bfloat16) if config.is_bfloat16 else contextlib.nullcontext()
        with autocast:
            loss, metrics = loss_of(batch.to(device), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        objective.before_update(step)
        norm = torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        if math.isfinite(float(loss.detach() + norm)):
            optimizer.step()
            objective.after_update(step)
            num_skipped = 0
        else:
            num_skipped += 1
            report(step + 1, {"skipped_in_a_row": float(num_skipped)})
            if num_skipped >= config.max_nonfinite_steps:
                checkpoints.flush()
                raise Diverged(
                    f"Loss or gradient was not finite for {num_skipped} steps in a row, the last of them "
                    f"{step + 1}; the last good checkpoint is at step {saved_step}. "
                    f"Lower learning_rate or look at {_describe(batch)}."
                )
        num_done = step + 1
        if num_done % config.log_every_steps == 0 or num_done == config.num_steps:
            curve.append((num_done, _floats(metrics, norm, _rate(config, step))))
            report(*curve[-1])
        is_stopping = should_stop()
        if num_done % config.checkpoint_every_steps == 0 or num_done == config.num_steps or is_stopping:
            _save(objective, optimizer, checkpoints, num_done, config, curve)
            saved_step = num_done
        if is_stopping and num_done < config.num_steps:
            checkpoints.flush()
            raise Interrupted(f"stopped after step {num_done} of {config.num_steps}, which is saved")
    checkpoints.flush()
    if saved_step < config.num_steps:
        raise RuntimeError(f"the batches ended at step {saved_step} of num_steps={config.num_steps}: they must not end")
    return curve


def _rate(config: LoopConfig, step: int) -> float:
    return learning_rate_at(
        step, peak=config.learning_rate, warmup_steps=config.warmup_steps, num_steps=config.num_steps
    )


def _distributed(objective: Objective) -> nn.Module:
    """Returns the objective, wrapped to average gradients where there are several processes."""
    if not dist.is_initialized():
        return objective
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(objective, broadcast_buffers=False, gradient_as_bucket_view=True)


def _resume(
    objective: Objective, optimizer: torch.optim.AdamW, checkpoints: Checkpoints, config: LoopConfig
) -> tuple[int, Curve]:
    """Restores the newest whole checkpoint and returns the number of steps done, with the curve so far."""
    checkpoint = checkpoints.latest()
    if checkpoint is None:
        return 0, []
    if checkpoint.facts["num_steps"] != config.num_steps:
        raise ValueError(
            f"num_steps={config.num_steps} differs from the {checkpoint.facts['num_steps']} that the checkpoint "
            f"at step {checkpoint.step} was trained for: the schedules would break. Give the same number, or "
            "another folder."
        )
    split = {"model": {}, "optimizer": {}}  # type: dict[str, dict[str, Tensor]]
    for name, tensor in checkpoint.tensors.items():
        kind, _, rest = name.partition("/")
        split[kind][rest] = tensor
    objective.load_state_dict(split["model"])
    load_optimizer_tensors(optimizer, objective, split["optimizer"])
    return checkpoint.step, [(step, values) for step, values in checkpoint.facts["curve"]]


def _save(
    objective: Objective,
    optimizer: torch.optim.AdamW,
    checkpoints: Checkpoints,
    step: int,
    config: LoopConfig,
    curve: Curve,
) -> None:
    """Saves weights, buffers and optimiser; with several processes the first one does, since all hold the
    same.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    tensors = {f"model/{name}": tensor for name, tensor in objective.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(optimizer, objective).items()}
    checkpoints.save(step, tensors, {"num_steps": config.num_steps, "curve": curve})


def _floats(metrics: dict[str, Tensor], norm: Tensor, rate: float) -> dict[str, float]:
    """Returns the metrics as numbers: the only place where a device is waited for on purpose."""
    names = [*metrics, "gradient_norm"]
    values = torch.stack([tensor.detach().float() for tensor in [*metrics.values(), norm]]).tolist()
    return dict(zip(names, values, strict=True)) | {"learning_rate": rate}


def _describe(batch: object) -> str:
    """Returns the ids of a batch that has some, for a message."""
    ids = getattr(batch, "ids_B", None)
    return "the batch" if ids is None else f"samples {ids.tolist()}"
