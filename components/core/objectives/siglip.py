# B pairs of this rank, G pairs of all ranks, R pairs of a block, E embedding.
"""The sigmoid loss: each pair of an image and a text is judged by itself, right or wrong.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, equation 1; with u, v unit vectors,

    L = -1/B sum_ij log sigmoid(z_ij (t <u_i, v_j> + b)),    z_ij = 1 where i = j, else -1

equal to open_clip's SigLipLoss. Since nothing but the sum joins the pairs, the gradient is made with the loss, block
by block, and no logit is made twice: three products of (B, G, E).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from components.core.objectives.contrastive import blocks, gather_rows, scatter_sum


class SigmoidLoss(nn.Module):
    """SigLIP's loss with its trained scale and bias, which start where a wrong pair costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # P: arXiv 2303.15343, section 3.2
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))  # P: the same

    def forward(self, image_BE: Tensor, text_BE: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of this rank's images against all ranks' texts, and metrics."""
        loss, accuracy = sigmoid_loss(image_BE, text_BE, self.logit_scale, self.logit_bias)
        return loss, {
            "loss": loss.detach(),
            "logit_scale": self.logit_scale.detach().exp(),
            "logit_bias": self.logit_bias.detach().clone(),
            "batch_accuracy": accuracy,
        }


def sigmoid_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of this rank's images, and the share of them that find their text first.

    Value, gradients and what ranks must agree on are as in `contrastive_loss`; the value is open_clip's, rank by
    rank.

    Args:
        image_BE: unit vectors of this rank's images, float32 or float64.
        text_BE: unit vectors of their captions.
        logit_scale: logarithm of the scale.
        logit_bias: added to all logits.
    """
    is_training = torch.is_grad_enabled()
    return _Sigmoid.apply(image_BE, text_BE, logit_scale.exp(), logit_bias, is_training)


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image_BE: Tensor, text_BE: Tensor, scale: Tensor, bias: Tensor, is_training: bool
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(image_BE.device.type, enabled=False):
            text_GE, scaled_BE = gather_rows(text_BE), image_BE * scale
            loss, num_right, bias_gradient = (image_BE.new_zeros(()) for _ in range(3))
            pulled_BE, pushed_GE = torch.zeros_like(image_BE), torch.zeros_like(text_GE)
            for rows, own_R, logits_RG, spare_RG in blocks(scaled_BE, text_GE):
                logits_RG.add_(bias)
                own_R1 = own_R[:, None]
                num_right += (logits_RG.argmax(dim=1) == own_R).sum()
                # -log sigmoid(x) = softplus(x) - x
                torch.ops.aten.softplus.out(logits_RG, out=spare_RG)
                loss += spare_RG.sum() - logits_RG.gather(1, own_R1).sum()
                if is_training:
                    logits_RG.sigmoid_().scatter_add_(1, own_R1, logits_RG.new_full(own_R1.shape, -1.0))
                    torch.mm(logits_RG, text_GE, out=pulled_BE[rows])
                    pushed_GE.addmm_(logits_RG.mT, scaled_BE[rows])
                    bias_gradient += logits_RG.sum()
            scale_gradient = (image_BE * pulled_BE).sum()
            text_gradient_BE = scatter_sum(pushed_GE) if is_training else torch.zeros_like(text_BE)
        ctx.save_for_backward(pulled_BE.mul_(scale), text_gradient_BE, scale_gradient, bias_gradient)
        accuracy = num_right / len(image_BE)
        ctx.mark_non_differentiable(accuracy)
        return loss / len(image_BE), accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        image_gradient_BE, text_gradient_BE, scale_gradient, bias_gradient = ctx.saved_tensors
        factor = loss_gradient / len(image_gradient_BE)
        return (
            image_gradient_BE * factor,
            text_gradient_BE * factor,
            scale_gradient * factor,
            bias_gradient * factor,
            None,
        )
