"""Steps of DINO on ready crops: our training loop, beside a step of lightly's modules with the same ViT.

The peer's loop is that of lightly's documentation (examples/pytorch/dino.py), with AdamW and the clipped gradient of
its ImageNet benchmark; the heads begin with the same weights.
"""

import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from components.core.data.augment import View
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.objectives.dino import DinoObjective
from tests.bench.clip_step import TRAINING, log_every, losses_and_norms, one_process_thread
from tests.bench.measure import Contender, NotEqual, Skipped, compare_pair

BATCH, NUM_STEPS = 16, 4
NUM_LOCAL, LARGE_PX, SMALL_PX, PATCH_PX = 8, 64, 32, 8
WIDTH, DEPTH, NUM_HEADS = 192, 6, 3
OUT_DIM, HIDDEN, BOTTLENECK = 8_192, 2_048, 256
TEMPERATURE, MOMENTUM, CLIP_NORM = 0.07, 0.996, 3.0
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ReadyCrops:
    """Crops in [0, 1]: V large and W small ones of each sample."""

    large_BVCSS: Tensor
    small_BWCSS: Tensor

    def __len__(self) -> int:
        return len(self.large_BVCSS)

    def to(self, device: torch.device | str) -> "ReadyCrops":
        """Returns the batch on a device."""
        return replace(self, large_BVCSS=self.large_BVCSS.to(device), small_BWCSS=self.small_BWCSS.to(device))

    def views(self) -> list[Tensor]:
        """Returns the crops, view by view."""
        return [*self.large_BVCSS.unbind(1), *self.small_BWCSS.unbind(1)]


class ReadyDino(DinoObjective):
    """DINO of crops that are there already."""

    def _view(self, batch: Any, index: int) -> Tensor:
        return batch.views()[index]


def rows() -> None:
    """Prints the row, once loss and gradient of the first step agree; the centres differ from then on."""
    if importlib.util.find_spec("lightly") is None:
        raise Skipped("no lightly, which `make bench` installs")
    found, expected = (work(1)() for work in (_ours, _peer))
    if not all(math.isclose(mine, theirs, rel_tol=TOLERANCE) for mine, theirs in zip(found, expected, strict=True)):
        raise NotEqual(f"the first step's loss and gradient are {found} and {expected}")
    compare_pair(
        f"DINO step, {NUM_STEPS} of {BATCH} x (2 + {NUM_LOCAL})",
        Contender("ours", f"{__name__}:ours"),
        Contender("lightly", f"{__name__}:peer"),
    )


def ours() -> Callable[[], int]:
    """Prepares ours."""
    return _counted(_ours(NUM_STEPS, is_warm=True))


def peer() -> Callable[[], int]:
    """Prepares the peer."""
    return _counted(_peer(NUM_STEPS, is_warm=True))


def _counted(work: Callable[[], tuple[float, float]]) -> Callable[[], int]:
    return lambda: NUM_STEPS if work() else 0


def _ours(num_steps: int, is_warm: bool = False) -> Callable[[], tuple[float, float]]:
    one_process_thread()
    objective, batches = _objective(), _batches(num_steps)

    def steps(count: int) -> tuple[float, float]:
        return losses_and_norms(objective, iter(batches), count, log_every(is_warm), CLIP_NORM)[-1]

    if is_warm:
        steps(1)
    return lambda: steps(num_steps)


def _peer(num_steps: int, is_warm: bool = False) -> Callable[[], tuple[float, float]]:
    one_process_thread()
    model, batches = _Lightly(_objective()), _batches(num_steps)
    if is_warm:
        model.train_steps(batches[:1])
    return lambda: model.train_steps(batches)


def _batches(num_batches: int) -> list[ReadyCrops]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, 2, 3, LARGE_PX, LARGE_PX), (BATCH, NUM_LOCAL, 3, SMALL_PX, SMALL_PX))
    return [ReadyCrops(*(torch.rand(shape, generator=generator) for shape in shapes)) for _ in range(num_batches)]


def _objective() -> ReadyDino:
    trunk = Trunk(image_size_px=LARGE_PX, patch_size_px=PATCH_PX, width=WIDTH, depth=DEPTH, num_heads=NUM_HEADS, seed=0)
    large, small = (View(size_px=size_px, scale_low=1.0, scale_high=1.0) for size_px in (LARGE_PX, SMALL_PX))
    return ReadyDino(
        trunk,
        num_steps=1_000,
        seed=0,
        global_views=(large, large),
        local_view=small,
        num_local=NUM_LOCAL,
        out_dim=OUT_DIM,
        hidden=HIDDEN,
        bottleneck=BOTTLENECK,
        teacher_temperature=TEMPERATURE,
        momentum_start=MOMENTUM,
    )


class _Stock(nn.Module):
    """timm's own forward pass of the trunk's transformer, all tokens to the end, as lightly's examples use it."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Returns CLS, (B, D)."""
        return self.trunk.vit((images_BCSS - self.trunk.mean_C11) / self.trunk.std_C11)


class _Lightly(nn.Module):
    """A student and its teacher out of lightly's modules, with the weights of an objective of ours."""

    def __init__(self, objective: DinoObjective) -> None:
        super().__init__()
        allow_torchvision_import()
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.student_backbone = _Stock(copy.deepcopy(objective.student))
        self.student_head = DINOProjectionHead(WIDTH, HIDDEN, BOTTLENECK, OUT_DIM, freeze_last_layer=-1)
        self.student_head.layers.load_state_dict(objective.student_head.mlp.state_dict())
        with torch.no_grad():
            self.student_head.last_layer.weight_v.copy_(objective.student_head.prototypes)
        self.teacher_backbone = copy.deepcopy(self.student_backbone)
        self.teacher_head = DINOProjectionHead(WIDTH, HIDDEN, BOTTLENECK, OUT_DIM)
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=OUT_DIM, teacher_temp=TEMPERATURE)
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, view: Tensor) -> Tensor:
        """Returns the student's answer to a view."""
        return self.student_head(self.student_backbone(view).flatten(start_dim=1))

    @torch.no_grad()
    def forward_teacher(self, view: Tensor) -> Tensor:
        """Returns the teacher's answer to a view."""
        return self.teacher_head(self.teacher_backbone(view).flatten(start_dim=1))

    def train_steps(self, batches: list[ReadyCrops]) -> tuple[float, float]:
        """Returns the loss of the last step and its gradient's norm."""
        from lightly.models.utils import update_momentum

        betas = (TRAINING["beta1"], TRAINING["beta2"])
        optimizer = torch.optim.AdamW(self.trained, lr=TRAINING["lr"] / TRAINING["warmup"], betas=betas)
        loss, norm = torch.zeros(()), torch.zeros(())
        for batch in batches:
            update_momentum(self.student_backbone, self.teacher_backbone, m=MOMENTUM)
            update_momentum(self.student_head, self.teacher_head, m=MOMENTUM)
            views = batch.views()
            teacher_out = [self.forward_teacher(view) for view in views[:2]]
            student_out = [self.forward(view) for view in views]
            loss = self.criterion(teacher_out, student_out, teacher_temp=TEMPERATURE)
            loss.backward()
            self.student_head.cancel_last_layer_gradients(current_epoch=0)
            norm = nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach()), float(norm)
