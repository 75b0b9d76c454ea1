# B this rank's rows, M rows of a micro-batch, E embedding.
"""The gradient of one step: the whole batch at once or in micro-batches, on one rank or several, always the same.

Objectives that are means over samples take the mean of their micro-batches. Those that compare samples with each other
need all embeddings at once: they are made without gradient, the loss of the whole batch gives each of them its
gradient, and each micro-batch is embedded again with that gradient as its end (GradCache: Gao, Zhang, Han and
Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983, section 3).

Ranks average their gradients once, in the backward pass of the last micro-batch. A sharded objective (sharding.py) thus
holds a whole gradient, in float32, while there are further micro-batches to come, and its share of it with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from components.core.objectives.objective import Embeddings, LossAndMetrics, Objective
from components.core.training.batches import split

Autocast = Callable[[], AbstractContextManager[Any]]


class Gradients:
    """Leaves in every parameter's `grad` the gradient of the loss of one batch.

    Args:
        objective: on its device; sharded or whole.
        num_micro_batches: parts that are computed one after the other.
        autocast: entered around every forward pass, anew each time: a cast that was made without gradient must not
            serve a pass that wants one.
        mark: called when this rank may have to wait for the others from now on.
    """

    def __init__(
        self, objective: Objective, *, num_micro_batches: int, autocast: Autocast, mark: Callable[[], None]
    ) -> None:
        self.objective, self.num_micro_batches = objective, num_micro_batches
        self.autocast, self.mark = autocast, mark
        self.module: nn.Module = objective
        if torch.distributed.is_initialized() and not isinstance(objective, FSDPModule):
            self.module = DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def __call__(self, batch: Any, step: int) -> LossAndMetrics:
        """Returns the loss of this rank's batch and its metrics, detached, after the backward pass.

        Raises:
            ValueError: num_micro_batches doesn't divide the batch.
        """
        parts = split(batch, self.num_micro_batches)
        if self.objective.is_separable:
            return self._mean(parts, step)
        if len(parts) == 1:
            return self._whole(parts[0], step)
        return self._cached(parts, step)

    def _mean(self, parts: list[Any], step: int) -> LossAndMetrics:
        found: list[LossAndMetrics] = []
        for part, is_last in _with_last(parts):
            with self._averaging(is_last):
                with self.autocast():
                    loss, metrics = self.module(part, step)
                if is_last:
                    self.mark()
                (loss / len(parts)).backward()
            found.append((loss.detach(), metrics))
        return _mean([loss for loss, _ in found]), {
            name: _mean([metrics[name] for _, metrics in found]) for name in found[0][1]
        }

    def _whole(self, batch: Any, step: int) -> LossAndMetrics:
        with self.autocast():
            embeddings = self.module(batch, step)
            self.mark()
            loss, metrics = self.objective.loss_of(embeddings, step)
        loss.backward()
        return loss.detach(), metrics

    def _cached(self, parts: list[Any], step: int) -> LossAndMetrics:
        leaves, sizes = self._embeddings(parts, step)
        self.mark()
        with self._averaging(False):
            with self.autocast():
                loss, metrics = self.objective.loss_of(leaves, step)
            loss.backward()
        reached = [parameter for parameter in self.objective.parameters() if parameter.grad is not None]
        gradients = {name: leaf.grad.split(sizes[name]) for name, leaf in leaves.items() if leaf.grad is not None}  # type: dict[str, tuple[Tensor, ...]]
        for index, (part, is_last) in enumerate(_with_last(parts)):
            with self._averaging(is_last):
                with self.autocast():
                    embeddings = self.module(part, step)
                pairs = [(embeddings[name], gradients[name][index]) for name in gradients]
                pairs = [(out_ME, gradient_ME) for out_ME, gradient_ME in pairs if out_ME.requires_grad]
                if is_last and self.module is not self.objective and reached:
                    # the averaging waits for every parameter, and these have had their gradient from the loss
                    zero = torch.stack([parameter.sum() * 0 for parameter in reached]).sum()
                    pairs.append((zero, torch.ones_like(zero)))
                torch.autograd.backward([out for out, _ in pairs], [gradient for _, gradient in pairs])
        return loss.detach(), metrics

    @torch.no_grad()
    def _embeddings(self, parts: list[Any], step: int) -> tuple[Embeddings, dict[str, list[int]]]:
        """Returns the embeddings of the whole batch as leaves that take gradients, and each part's rows of them."""
        found = []
        for part in parts:
            with self.autocast():
                found.append(self.objective.embed(part, step))
        leaves = {name: torch.cat([embeddings[name] for embeddings in found]) for name in found[0]}
        for leaf in leaves.values():
            leaf.requires_grad_(leaf.is_floating_point())
        return leaves, {name: [len(embeddings[name]) for embeddings in found] for name in leaves}

    def _averaging(self, is_on: bool) -> AbstractContextManager[Any]:
        """Returns a context in which backward passes average over the ranks, or don't."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(is_on)
            return contextlib.nullcontext()
        if is_on or not isinstance(self.module, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.module.no_sync()


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], greatest: float) -> Tensor:
    """Scales the gradients down to a global norm, and returns the norm that they had, the same on every rank."""
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    clip_grads_with_norm_(parameters, greatest, norm)
    return norm


def _with_last(parts: list[Any]) -> Iterable[tuple[Any, bool]]:
    return ((part, index == len(parts) - 1) for index, part in enumerate(parts))


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)
