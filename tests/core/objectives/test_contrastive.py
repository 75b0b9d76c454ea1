"""The softmax loss in blocks against open_clip's, which makes all logits at once."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.objectives import contrastive
from components.core.objectives.contrastive import SoftmaxLoss, contrastive_loss

NUM_PAIRS = 50


def _inputs(scale: float = 20.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(NUM_PAIRS, 8, generator=generator, dtype=dtype), dim=1) for _ in range(2))
    logit_scale = torch.tensor(math.log(scale), dtype=dtype)
    return image.requires_grad_(), text.requires_grad_(), logit_scale.requires_grad_()


def _open_clip(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    allow_torchvision_import()
    from open_clip.loss import ClipLoss

    return ClipLoss()(image, text, logit_scale.exp())


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirteen blocks of 50 pairs, the last of which is shorter."""
    monkeypatch.setattr(contrastive, "SMALLEST_BLOCK", 1)
    assert NUM_PAIRS % contrastive.block_rows(NUM_PAIRS) and contrastive.block_rows(NUM_PAIRS) == 4


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_loss_and_gradients_equal_open_clips(scale: float) -> None:
    """Relative tolerance 1e-5 in float32, absolute 1e-7 per unit of the scale, which is a logit's rounding."""
    ours, theirs = _inputs(scale), _inputs(scale)
    loss, expected = contrastive_loss(*ours)[0], _open_clip(*theirs)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    (3 * loss).backward()
    (3 * expected).backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7 * scale)


def test_gradients_equal_differences() -> None:
    image, text, *numbers = _inputs(3.0, torch.float64)
    image, text = (rows[:18].detach().requires_grad_() for rows in (image, text))
    assert contrastive.block_rows(18) == 2
    assert torch.autograd.gradcheck(lambda *inputs: contrastive_loss(*inputs)[0], (image, text, *numbers))


def test_the_greatest_scale_does_not_overflow_nor_lose_far_columns() -> None:
    """All images alike but one, whose text is opposite: its column is 200 below the greatest logit."""
    image = F.normalize(torch.ones(NUM_PAIRS, 8), dim=1)
    text = image.clone()
    text[7] *= -1
    exact = _open_clip(image.double(), text.double(), torch.tensor(math.log(100.0), dtype=torch.float64))
    found, _ = contrastive_loss(image, text, torch.tensor(math.log(100.0)))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def test_the_accuracy_is_the_share_of_rows_that_are_greatest_on_the_diagonal() -> None:
    image, text, logit_scale = _inputs()
    text = F.normalize(image.detach() + 1.5 * text, dim=1)
    _, accuracy = contrastive_loss(image, text, logit_scale)
    expected = ((image @ text.mT).argmax(dim=1) == torch.arange(NUM_PAIRS)).float().mean()
    assert 0.1 < float(expected) < 0.9
    torch.testing.assert_close(accuracy, expected)


def test_equal_embeddings_find_one_text_only() -> None:
    same = F.normalize(torch.ones(NUM_PAIRS, 8), dim=1)
    assert float(contrastive_loss(same, same, torch.zeros(()))[1]) == pytest.approx(1 / NUM_PAIRS)


class _Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_sixteenth_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(512, 4, generator=generator), dim=1).requires_grad_() for _ in range(2))
    with _Largest() as largest:
        contrastive_loss(image, text, torch.zeros((), requires_grad=True))[0].backward()
    assert largest.numel == 512 * 512 / 16


def test_autocast_changes_nothing() -> None:
    plain, cast = _inputs(), _inputs()
    expected = contrastive_loss(*plain)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(*cast)[0]
    expected.backward()
    found.backward()
    assert torch.equal(found, expected)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(plain, cast, strict=True))


def test_the_scale_starts_at_the_papers_value() -> None:
    torch.testing.assert_close(SoftmaxLoss().logit_scale.detach().exp(), torch.tensor(1 / 0.07))
