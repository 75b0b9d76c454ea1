# V views (the global ones first), B batch, K prototypes.
"""DINO's loss: the mean cross-entropy over all pairs of a global view (teacher) and another view (student).

Caron et al., arXiv 2104.14294, equation 3. With P_v the teacher's answers, T their sum and z_w the student's logits,
student view w meets T - P_w where it is global, else T, so that V dot products replace 2 (V - 1):

    L = -1/N mean_b sum_w (T - P_w) . log softmax(z_w),    dL/dz_w = (n_w softmax(z_w) - (T - P_w)) / (N B)

with n_w the number of answers that w meets, and N their sum. The gradient is made with the loss, view by view, in the
logits' own precision: nothing of the size of all views' logits exists beside the logits and their gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_view_loss(targets: tuple[Tensor, ...], logits_VBK: Tensor) -> Tensor:
    """Returns the loss, float32 at least.

    Args:
        targets: the teacher's probabilities (B, K) of the global views; they get no gradient.
        logits_VBK: the student's, of all views; half precision is widened view by view.
    """
    return _CrossView.apply(logits_VBK, torch.is_grad_enabled(), *targets)


class _CrossView(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_VBK: Tensor, is_training: bool, *targets: Tensor) -> Tensor:
        num_views, num_samples, _ = logits_VBK.shape
        total_BK = torch.stack(targets).sum(dim=0)
        num_pairs = len(targets) * (num_views - 1)
        loss = total_BK.new_zeros(())
        gradient_VBK = torch.empty_like(logits_VBK) if is_training else None
        for view, logits_BK in enumerate(logits_VBK):
            met_BK, num_met = (
                (total_BK - targets[view], len(targets) - 1) if view < len(targets) else (total_BK, len(targets))
            )
            answer_BK = logits_BK.to(total_BK.dtype).log_softmax(dim=1)
            loss -= (met_BK * answer_BK).sum()
            if gradient_VBK is not None:
                answer_BK.exp_().mul_(num_met).sub_(met_BK)
                gradient_VBK[view] = answer_BK.div_(num_pairs * num_samples)
        ctx.gradient_VBK, ctx.num_targets = gradient_VBK, len(targets)
        return loss / (num_pairs * num_samples)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient_VBK, ctx.gradient_VBK = ctx.gradient_VBK, None
        assert gradient_VBK is not None, "the loss was made without gradient, or its gradient was taken already"
        return gradient_VBK.mul_(loss_gradient), None, *[None] * ctx.num_targets
