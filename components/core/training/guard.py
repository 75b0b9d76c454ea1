"""What keeps a bad step out of the weights, and counts it, without waiting for the device.

A step whose loss or gradient norm is not finite on any rank is skipped on all. The counts are tensors on the device;
the loop reads them when it reports.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.core.training import distributed

EXPLOSION = 10.0  # times the running mean of the norm
MEMORY = 0.98  # of the running mean: about the last 50 steps


class Verdict(NamedTuple):
    """Two 0-dim float tensors: 1 where the step counts, and what AdamW takes to skip one that doesn't."""

    is_good: Tensor
    found_inf: Tensor


class Guard(nn.Module):
    """Counts of skipped steps and exploding gradients, kept in the checkpoints like everything that training changes.

    Attributes:
        skipped: steps skipped since the run began.
        in_a_row: those without a good one since.
        longest: the longest row since the last `begin_anew`; longest_end is its last step, counted from 0.
        explosions: good steps since the run began whose norm, before clipping, was over 10 times the running mean.
        greatest_norm: of the good steps since the last `begin_anew`.
        mean_norm: running mean of the norm of good steps.
    """

    skipped: Tensor
    in_a_row: Tensor
    longest: Tensor
    longest_end: Tensor
    explosions: Tensor
    greatest_norm: Tensor
    mean_norm: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in self.__annotations__:
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def judge(self, loss: Tensor, norm: Tensor, step: int) -> Verdict:
        """Returns whether the step may be done, the same on all ranks, and counts it.

        Args:
            loss: this rank's, detached.
            norm: of the gradient that all ranks share, before clipping.
            step: counted from 0.
        """
        found_inf = distributed.greatest((~torch.isfinite(loss.float() + norm.float())).float())
        is_good = 1 - found_inf
        norm = torch.where(is_good > 0, norm.float(), 0.0)
        self.skipped += found_inf
        self.in_a_row.add_(found_inf).mul_(found_inf)
        self.longest_end.copy_(
            torch.where((self.in_a_row >= self.longest) & (found_inf > 0), float(step), self.longest_end)
        )
        self.longest.copy_(torch.maximum(self.longest, self.in_a_row))
        has_mean = self.mean_norm > 0
        self.explosions += ((norm > EXPLOSION * self.mean_norm) & has_mean).float()
        self.greatest_norm.copy_(torch.maximum(self.greatest_norm, norm))
        moved = torch.where(has_mean, MEMORY * self.mean_norm + (1 - MEMORY) * norm, norm)
        self.mean_norm.copy_(torch.where(is_good > 0, moved, self.mean_norm))
        return Verdict(is_good, found_inf)

    def counts(self) -> dict[str, Tensor]:
        """Returns what is reported, as tensors on the device."""
        return {
            "skipped_steps": self.skipped,
            "skipped_in_a_row": self.in_a_row,
            "gradient_explosions": self.explosions,
            "gradient_norm_max": self.greatest_norm,
        }

    @torch.no_grad()
    def begin_anew(self) -> None:
        """Forgets what is counted from report to report; a row of skipped steps that goes on is still one row."""
        self.longest.copy_(self.in_a_row)
        self.greatest_norm.zero_()
