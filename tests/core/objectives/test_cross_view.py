"""DINO's loss and its handmade gradient against the paper's sum, pair by pair."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.objectives.cross_view import cross_view_loss


def _inputs(dtype: torch.dtype = torch.float32) -> tuple[tuple[Tensor, ...], Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = F.softmax(3 * torch.randn(2, 6, 10, generator=generator, dtype=dtype), dim=2)
    return tuple(targets), 5 * torch.randn(5, 6, 10, generator=generator, dtype=dtype)


def _sum_over_pairs(targets: tuple[Tensor, ...], logits_VBK: Tensor) -> Tensor:
    terms = [
        -(target * F.log_softmax(student, dim=1)).sum(dim=1).mean()
        for v, target in enumerate(targets)
        for w, student in enumerate(logits_VBK)
        if v != w
    ]
    assert len(terms) == 8
    return torch.stack(terms).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_equal_the_sum_over_pairs_of_views(dtype: torch.dtype) -> None:
    targets, logits = _inputs(dtype)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = cross_view_loss(targets, ours), _sum_over_pairs(targets, theirs)
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_without_gradients_the_loss_is_the_same() -> None:
    targets, logits = _inputs()
    with torch.no_grad():
        found = cross_view_loss(targets, logits.requires_grad_())
    assert torch.equal(found, cross_view_loss(targets, logits).detach())


def test_logits_of_half_precision_are_summed_in_full() -> None:
    targets, logits = _inputs()
    halves = logits.bfloat16().requires_grad_()
    full = halves.detach().float().requires_grad_()
    loss, expected = cross_view_loss(targets, halves), cross_view_loss(targets, full)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    assert halves.grad is not None and torch.equal(halves.grad, full.grad.bfloat16())


def test_a_uniform_answer_has_the_loss_ln_k() -> None:
    uniform = torch.full((4, 32), 1 / 32)
    assert float(cross_view_loss((uniform, uniform), torch.zeros(5, 4, 32))) == pytest.approx(math.log(32))
