"""The sigmoid loss in blocks against the paper's equation 1 and open_clip's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.objectives import contrastive
from components.core.objectives.siglip import SigmoidLoss, sigmoid_loss

NUM_PAIRS = 50


def _inputs(scale: float, bias: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(NUM_PAIRS, 8, generator=generator, dtype=dtype), dim=1) for _ in range(2))
    numbers = [torch.tensor(number, dtype=dtype, requires_grad=True) for number in (math.log(scale), bias)]
    return image.requires_grad_(), text.requires_grad_(), numbers[0], numbers[1]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "SMALLEST_BLOCK", 1)


def test_the_loss_is_equation_1() -> None:
    image, text, logit_scale, logit_bias = (tensor.detach() for tensor in _inputs(10.0, -2.0, torch.float64))
    total = 0.0
    for i in range(NUM_PAIRS):
        for j in range(NUM_PAIRS):
            logit = float(logit_scale.exp() * (image[i] @ text[j]) + logit_bias)
            total -= math.log(1 / (1 + math.exp(-logit if i == j else logit)))
    assert float(sigmoid_loss(image, text, logit_scale, logit_bias)[0]) == pytest.approx(total / NUM_PAIRS, rel=1e-12)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, -30.0), (20.0, 15.0)])
def test_loss_and_gradients_equal_open_clips(scale: float, bias: float) -> None:
    """Relative tolerance 1e-5 in float32."""
    allow_torchvision_import()
    from open_clip.loss import SigLipLoss

    ours, theirs = _inputs(scale, bias), _inputs(scale, bias)
    loss = sigmoid_loss(*ours)[0]
    expected = SigLipLoss()(theirs[0], theirs[1], theirs[2].exp(), theirs[3])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    (3 * loss).backward()
    (3 * expected).backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_gradients_equal_differences() -> None:
    image, text, *numbers = _inputs(3.0, -1.0, torch.float64)
    image, text = (rows[:18].detach().requires_grad_() for rows in (image, text))
    assert contrastive.block_rows(18) == 2
    assert torch.autograd.gradcheck(lambda *inputs: sigmoid_loss(*inputs)[0], (image, text, *numbers))


def test_without_gradients_the_loss_is_the_same() -> None:
    inputs = _inputs(10.0, -10.0)
    with torch.no_grad():
        assert torch.equal(sigmoid_loss(*inputs)[0], sigmoid_loss(*inputs)[0])
        found = sigmoid_loss(*inputs)[0]
    assert torch.equal(found, sigmoid_loss(*inputs)[0].detach())


def test_autocast_changes_nothing() -> None:
    inputs = _inputs(10.0, -10.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = sigmoid_loss(*inputs)[0]
    assert torch.equal(found, sigmoid_loss(*inputs)[0])


def test_scale_and_bias_start_at_the_papers_values_where_wrong_pairs_cost_little() -> None:
    loss = SigmoidLoss()
    torch.testing.assert_close(loss.logit_scale.detach().exp(), torch.tensor(10.0))
    assert loss.logit_bias.item() == -10.0
    image, text, *_ = _inputs(10.0, -10.0)
    value, metrics = loss(image, text)
    right = F.softplus(10 - 10 * (image * text).sum(dim=1)).mean().item()
    wrong = value.item() - right  # of 49 wrong texts for each image
    assert 0 < wrong < 0.03 * right
    assert set(metrics) == {"loss", "logit_scale", "logit_bias", "batch_accuracy"}
