"""What an arm of the study is: a loss on a batch, and the few things that happen around an update.

Everything else (trunk, init, samples, their order, optimiser, schedule, number of steps) is shared, so that
arms differ in their subclass of Objective only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.core.models.trunk import Trunk


class Objective(nn.Module):
    """Base of the arms; subclass it once, no deeper.

    A subclass sets `trunk`, the encoder that is exported. All randomness of `loss` is a pure function of the
    batch's ids and epochs and of the objective's seed; all state that training changes is in parameters and
    persistent buffers, and buffers change in `after_update` only, so that a skipped step leaves no trace.
    """

    trunk: Trunk

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the scalar to minimise and scalar metrics, detached."""
        raise NotImplementedError

    def before_update(self, step: int) -> None:
        """Called after backward, before clipping and the optimiser; may change gradients."""

    def after_update(self, step: int) -> None:
        """Called after the optimiser; not called for a step that was skipped."""

    def weight_decay(self, step: int) -> float:
        """Returns the weight decay of this step, for parameters of two dimensions or more."""
        return 0.0

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns `loss`: the same under the name that DistributedDataParallel calls."""
        return self.loss(batch, step)
