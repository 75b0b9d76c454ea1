"""The contrastive loss of 16,384 pairs with its gradient: time and memory, beside open_clip's ClipLoss."""

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.objectives.contrastive import contrastive_loss
from components.runtime.process import keep_freed_memory
from tests.bench.measure import Contender, Cost, NotEqual, compare, cost, print_row

NUM_PAIRS, EMBEDDING = 16_384, 512
SCALE = 1 / 0.07
NUM_ROUNDS = 3  # half a minute of one core each
TOLERANCE = 1e-4

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def rows() -> None:
    """Prints the rows, once losses and gradients agree."""
    contenders = [Contender("ours", f"{__name__}:ours"), Contender("open_clip's ClipLoss", f"{__name__}:peer")]
    runs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for number in range(NUM_ROUNDS):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            runs[contender.name].append(cost(contender))
    our_runs, peer_runs = runs.values()
    for mine, theirs in zip(our_runs, peer_runs, strict=True):
        pairs = zip(mine.found["numbers"], theirs.found["numbers"], strict=True)
        if not all(math.isclose(found, expected, rel_tol=TOLERANCE) for found, expected in pairs):
            raise NotEqual(f"loss and gradients: {mine.found['numbers']} against {theirs.found['numbers']}")
    what, peer_name = f"contrastive loss, {NUM_PAIRS:,} pairs", contenders[1].name
    compare(what, our_runs, peer_runs, peer_name)
    our_mb, peer_mb = (statistics.median(run.found["mb"] for run in side) for side in (our_runs, peer_runs))
    unit = f"MB beyond the embeddings, {our_mb:.0f} against {peer_mb:.0f}"
    print_row(f"{what}: memory", peer_name, f"{peer_mb / our_mb:.2f}x", "(counted)", unit)


def ours() -> Callable[[], dict[str, object]]:
    """Prepares ours."""
    return _work(lambda image_BE, text_BE, logit_scale: contrastive_loss(image_BE, text_BE, logit_scale)[0])


def peer() -> Callable[[], dict[str, object]]:
    """Prepares the peer."""
    allow_torchvision_import()
    from open_clip.loss import ClipLoss

    loss_of = ClipLoss()
    return _work(lambda image_BE, text_BE, logit_scale: loss_of(image_BE, text_BE, logit_scale.exp()))


def _work(loss_of: Loss) -> Callable[[], dict[str, object]]:
    """Returns one forward and backward pass, which returns loss and gradients' norms, and its peak memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    _step(loss_of, *_tensors(64))
    tensors = _tensors(NUM_PAIRS)

    def work() -> dict[str, object]:
        before_mb = _peak_mb()
        numbers = _step(loss_of, *tensors)
        return {"numbers": numbers, "mb": _peak_mb() - before_mb}

    return work


def _tensors(num_pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image_BE, text_BE = (
        F.normalize(torch.randn(num_pairs, EMBEDDING, generator=generator), dim=1).requires_grad_() for _ in range(2)
    )
    return image_BE, text_BE, torch.tensor(math.log(SCALE), requires_grad=True)


def _step(loss_of: Loss, image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor) -> list[float]:
    loss = loss_of(image_BE, text_BE, logit_scale)
    loss.backward()
    return [float(number) for number in (loss, *(t.grad.norm() for t in (image_BE, text_BE, logit_scale)))]


def _peak_mb() -> float:
    """Returns the most memory that the process has had; getrusage would count its parent's too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux says it"
    return int(found[1]) / 1000
