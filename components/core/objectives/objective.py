"""What an arm of the study is: a loss on a batch, and the few things that happen around an update.

Everything else (trunk, init, samples, their order, optimiser, schedule, number of steps) is shared, so that
arms differ in their subclass of Objective only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.core.models.trunk import Trunk

Embeddings = dict[str, Tensor]
LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


class Objective(nn.Module):
    """Base of the arms; subclass it once, no deeper.

    A subclass sets `trunk`, the encoder that is exported. It is of one of two kinds:

    - separable: the loss of a batch is the mean of its micro-batches' losses; the subclass writes `loss`;
    - not separable, because samples are compared with each other: the subclass writes `embed` and `loss_of`.

    All randomness is a pure function of the batch's ids and epochs, of the view and of the objective's seed; all
    state that training changes is in parameters and persistent buffers, and buffers change in `after_update`
    only, so that a skipped step leaves no trace.
    """

    trunk: Trunk
    is_separable = True

    def loss(self, batch: Any, step: int) -> LossAndMetrics:
        """Returns the scalar to minimise and scalar metrics, detached, of a whole batch or a micro-batch."""
        assert not self.is_separable, "a separable objective writes its own loss"
        return self.loss_of(self.embed(batch, step), step)

    def embed(self, batch: Any, step: int) -> Embeddings:
        """Returns what `loss_of` compares: tensors whose rows belong to samples.

        The embeddings of micro-batches, concatenated along the first dimension, are those of the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} is separable: it has loss() only")

    def loss_of(self, embeddings: Embeddings, step: int) -> LossAndMetrics:
        """Returns loss and metrics of this rank's whole batch against all ranks'.

        The gradient that reaches an embedding is that of the sum of all ranks' losses. The mean over ranks of
        the gradients of the parameters is therefore the gradient of the mean of the ranks' losses; parameters
        that are used here, such as the logit scale, obey the mean only, not rank by rank.
        """
        raise NotImplementedError(f"{type(self).__name__} is separable: it has loss() only")

    def before_update(self, step: int) -> None:
        """Called after backward, before clipping and the optimiser; may change gradients."""

    def after_update(self, step: int, is_good: Tensor) -> None:
        """Called after the optimiser, for skipped steps too.

        Args:
            step: counted from 0.
            is_good: scalar, float, on the objective's device: 1 where the optimiser's step was done, 0 where it
                was skipped; reading it on the host would wait for the device.
        """

    def unsaved(self) -> list[nn.Parameter]:
        """Returns the parameters that checkpoints leave out: frozen ones, never changed by `after_update`, that whoever
        builds the objective loads again from where they came.
        """
        return []

    def weight_decay(self, step: int) -> float:
        """Returns the weight decay of this step, for parameters of two dimensions or more."""
        return 0.0

    def forward(self, batch: Any, step: int) -> LossAndMetrics | Embeddings:
        """Returns `loss` where separable, else `embed`: what DistributedDataParallel calls."""
        return self.loss(batch, step) if self.is_separable else self.embed(batch, step)
