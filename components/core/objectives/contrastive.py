# B pairs of this rank, G pairs of all ranks, R pairs of a block, E embedding.
"""The softmax loss over all pairs of all ranks, block by block: the logits never exist as a whole.

Radford et al., arXiv 2103.00020, figure 3; with u, v unit vectors and s the scale,

    L = 1/2 mean_i [ CE(s <u_i, v_j>_j, i) + CE(s <u_j, v_i>_j, i) ]

Both directions come from one product, since the second reads the columns of the first's logits: a rank makes the
rows of its images against the texts of all ranks, and columns are finished by adding up what the ranks found. The
backward pass makes the rows again. So a rank makes four products of (B, G, E) where open_clip's
ClipLoss(local_loss=True, gather_with_grad=True) makes six, and gathers texts only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

GREATEST_LOGIT_SCALE = math.log(100)
NUM_BLOCKS = 16
SMALLEST_BLOCK = 256  # rows: below, starting a kernel costs more than its work


class SoftmaxLoss(nn.Module):
    """CLIP's loss and its trained scale."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image_BE: Tensor, text_BE: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of this rank's pairs of unit vectors against all ranks', and metrics."""
        loss, accuracy = contrastive_loss(image_BE, text_BE, self.logit_scale)
        return loss, {
            "loss": loss.detach(),
            "logit_scale": self.logit_scale.detach().exp(),
            "batch_accuracy": accuracy,
        }


def contrastive_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of this rank's pairs against all ranks', and the share of images that find their text first.

    The value is each rank's own. The gradient of the embeddings is that of the sum of all ranks' losses, that of
    the scale has the right mean over ranks; every rank must call it with as many pairs and scale the loss alike.

    Args:
        image_BE: unit vectors of this rank's images, float32 or float64; products keep that precision
            whatever autocast says.
        text_BE: unit vectors of their captions.
        logit_scale: logarithm of the scale.
    """
    return _Softmax.apply(image_BE, text_BE, logit_scale.exp())


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image_BE: Tensor, text_BE: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(image_BE.device.type, enabled=False):
            text_GE, scaled_BE = gather_rows(text_BE), image_BE * scale
            rows_B, columns_G, num_right = _log_sums(scaled_BE, text_GE)
            own = own_rows(image_BE)
            right_B = (scaled_BE * text_BE).sum(dim=1)
            loss = (rows_B + columns_G[own] - 2 * right_B).mean() / 2
            accuracy = num_right / len(image_BE)
        ctx.save_for_backward(image_BE, text_GE, scale, rows_B, columns_G)
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image_BE, text_GE, scale, rows_B, columns_G = ctx.saved_tensors
        with torch.autocast(image_BE.device.type, enabled=False):
            scaled_BE = image_BE * scale
            pulled_BE, pushed_GE = torch.empty_like(image_BE), torch.zeros_like(text_GE)
            for rows, own_R, logits_RG, spare_RG in blocks(scaled_BE, text_GE):
                torch.sub(logits_RG, rows_B[rows, None], out=spare_RG).exp_()
                logits_RG.sub_(columns_G).exp_().add_(spare_RG)
                logits_RG[torch.arange(len(own_R), device=own_R.device), own_R] -= 2
                torch.mm(logits_RG, text_GE, out=pulled_BE[rows])
                pushed_GE.addmm_(logits_RG.mT, scaled_BE[rows])
            factor = loss_gradient / (2 * len(image_BE))
            scale_gradient = (image_BE * pulled_BE).sum() * factor
            image_gradient_BE = pulled_BE.mul_(scale * factor)
            text_gradient_BE = scatter_sum(pushed_GE.mul_(factor))
        return image_gradient_BE, text_gradient_BE, scale_gradient


def _log_sums(scaled_BE: Tensor, text_GE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log-sum-exp of this rank's rows (B) and of all columns over all ranks (G), and how many rows are
    greatest at their own column.

    Columns are summed as they come, relative to the greatest seen so far.
    """
    rows_B = scaled_BE.new_empty(len(scaled_BE))
    greatest_G = text_GE.new_full((len(text_GE),), -math.inf)
    sum_G = torch.zeros_like(greatest_G)
    num_right = scaled_BE.new_zeros(())
    for rows, own_R, logits_RG, spare_RG in blocks(scaled_BE, text_GE):
        greatest_R, where_R = logits_RG.max(dim=1)
        num_right += (where_R == own_R).sum()
        torch.sub(logits_RG, greatest_R[:, None], out=spare_RG)
        rows_B[rows] = spare_RG.exp_().sum(dim=1).log_().add_(greatest_R)
        before_G, greatest_G = greatest_G, torch.maximum(greatest_G, logits_RG.amax(dim=0))
        sum_G = sum_G * (before_G - greatest_G).exp_() + logits_RG.sub_(greatest_G).exp_().sum(dim=0)
    if num_ranks() > 1:
        of_rank_G = greatest_G.clone()
        dist.all_reduce(greatest_G, op=dist.ReduceOp.MAX)
        sum_G *= (of_rank_G - greatest_G).exp_()
        dist.all_reduce(sum_G)
    return rows_B, sum_G.log_().add_(greatest_G), num_right


def blocks(scaled_BE: Tensor, text_GE: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yields rows, the columns of their own texts, their logits, and room of the same size; the last two are
    used again for the next block.
    """
    num_rows = block_rows(len(scaled_BE))
    logits, spare = (text_GE.new_empty(num_rows, len(text_GE)) for _ in range(2))
    first = own_rows(scaled_BE).start
    for start in range(0, len(scaled_BE), num_rows):
        rows = slice(start, min(start + num_rows, len(scaled_BE)))
        own_R = torch.arange(first + rows.start, first + rows.stop, device=text_GE.device)
        torch.mm(scaled_BE[rows], text_GE.mT, out=logits[: len(own_R)])
        yield rows, own_R, logits[: len(own_R)], spare[: len(own_R)]


def block_rows(num_pairs: int) -> int:
    """Returns the rows of a block of logits."""
    return min(num_pairs, max(SMALLEST_BLOCK, math.ceil(num_pairs / NUM_BLOCKS)))


def num_ranks() -> int:
    """Returns the number of processes that share the batch, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rows(local_BE: Tensor) -> slice:
    """Returns where this rank's rows are among those of all ranks."""
    start = dist.get_rank() * len(local_BE) if dist.is_initialized() else 0
    return slice(start, start + len(local_BE))


def gather_rows(local_BE: Tensor) -> Tensor:
    """Returns the rows of all ranks, in the order of the ranks, without gradient."""
    if num_ranks() == 1:
        return local_BE
    all_GE = local_BE.new_empty(num_ranks() * len(local_BE), *local_BE.shape[1:])
    dist.all_gather_single(all_GE, local_BE.contiguous())
    return all_GE


def scatter_sum(all_GE: Tensor) -> Tensor:
    """Returns this rank's rows of the sum over ranks."""
    if num_ranks() == 1:
        return all_GE
    own_BE = all_GE.new_empty(len(all_GE) // num_ranks(), *all_GE.shape[1:])
    dist.reduce_scatter_single(own_BE, all_GE)
    return own_BE
