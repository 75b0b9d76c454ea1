"""AdamW, its two groups and its learning rate: the same numbers and the same code for every arm.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101. The learning rate rises
linearly, then falls along a half cosine to 0, as in open_clip; everything is in steps.
"""

from __future__ import annotations

import hashlib
import math
import struct

import torch
from torch import Tensor, nn

from components.core.training.sharding import put


def build_optimizer(
    module: nn.Module, *, learning_rate: float, beta1: float, beta2: float, epsilon: float
) -> torch.optim.AdamW:
    """Returns AdamW over the parameters that train, in two groups: decayed, and not.

    Norms, biases, the logit scale and all else of fewer than two dimensions are not decayed, as in CLIP and
    DINO. The decay itself is set at each step, from the objective's own schedule.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "is_decayed": True},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "is_decayed": False},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(beta1, beta2),
        eps=epsilon,
        weight_decay=0.0,
        fused=True,
    )


def set_schedule(optimizer: torch.optim.AdamW, *, learning_rate: float, weight_decay: float) -> None:
    """Sets the learning rate, and the weight decay of the group that is decayed."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = weight_decay if group["is_decayed"] else 0.0


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, num_steps: int) -> float:
    """Returns the learning rate of a step, counted from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * share))


def schedule_sha256(*, peak: float, warmup_steps: int, num_steps: int) -> str:
    """Returns the sha256 of the learning rates of all steps, for the parity record."""
    rates = (
        learning_rate_at(step, peak=peak, warmup_steps=warmup_steps, num_steps=num_steps) for step in range(num_steps)
    )
    return hashlib.sha256(struct.pack(f"<{num_steps}d", *rates)).hexdigest()


def optimizer_tensors(optimizer: torch.optim.AdamW, module: nn.Module) -> dict[str, Tensor]:
    """Returns AdamW's state as flat tensors, named `<parameter>/<entry>`."""
    return {
        f"{name}/{entry}": value
        for name, parameter in module.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensor(optimizer: torch.optim.AdamW, parameter: Tensor, entry: str, whole: Tensor) -> None:
    """Puts back one of the entries that `optimizer_tensors` returned; a parameter without (never updated) stays so."""
    place = torch.empty_like(parameter) if entry != "step" else torch.empty_like(whole, device=parameter.device)
    put(whole, place)
    optimizer.state[parameter][entry] = place


def step_unless(optimizer: torch.optim.AdamW, found_inf: Tensor) -> None:
    """Does AdamW's step where found_inf is 0; where it is 1, nothing changes, its count of steps included.

    The decision falls on the device, inside the fused kernel, which takes it from mixed precision's loss scaling.
    """
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    optimizer.step()
