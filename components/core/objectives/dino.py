# B batch, C channels, S side of a crop, D width of the trunk, K prototypes, V views (2 global, then the local ones).
"""DINO: the student predicts, from any crop, what its own moving average sees in the large crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294; version 1, as in
facebookresearch/dino main_dino.py.

    P_t(x)  = softmax((g_t(x) - c) / tau_t)                      teacher: sharpened by tau_t, centred by c
    P_s(x)  = softmax(g_s(x) / tau_s)                            student
    L       = mean over (v, w), v global, w any view but v, of  -sum_k P_t(x_v)_k log P_s(x_w)_k
    c      <- m_c c + (1 - m_c) mean of g_t over batch and global views
    theta_t <- m theta_t + (1 - m) theta_s                        m rises to 1 along a cosine

The centre has one departure: until 1 / step is below 1 - m_c it is the plain mean of what was seen, where the
original moves away from 0 at the rate of 1 - m_c from the start. How it collapses is in collapse.py.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from components.core.data.augment import View, make_view
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk
from components.core.objectives.cross_view import cross_view_loss
from components.core.objectives.dino_head import DinoHead
from components.core.objectives.objective import LossAndMetrics, Objective


class DinoObjective(Objective):
    """DINO v1 with multi-crop, all schedules in steps.

    Args:
        trunk: the student at step 0; the teacher, which is exported as `trunk`, starts as its copy.
        num_steps: length of the run; ends the momentum's and the weight decay's cosines.
        seed: seed of head and views.
        global_views: the two large views, different ones as in the paper (the second is solarised, the first
            blurred).
        local_view: the small views.
        num_local: how many of them.
        out_dim, hidden, bottleneck: the head.
        student_temperature: tau_s. teacher_temperature_start, teacher_temperature, teacher_warmup_steps:
        tau_t rises linearly from the first to the
            second; a warm-up longer than the run is allowed and simply cut.
        momentum_start: m at step 0.
        centre_momentum: m_c.
        freeze_steps: the prototypes stay as they are for this many steps.
        weight_decay_start, weight_decay_end: ends of its cosine.
    """

    centre_K: Tensor

    def __init__(
        self,
        trunk: Trunk,
        *,
        num_steps: int,
        seed: int,
        global_views: tuple[View, View],
        local_view: View,
        num_local: int = 8,  # P: main_dino.py, as all defaults below
        out_dim: int = 65_536,
        hidden: int = 2_048,
        bottleneck: int = 256,
        student_temperature: float = 0.1,
        teacher_temperature_start: float = 0.04,
        teacher_temperature: float = 0.07,
        teacher_warmup_steps: int = 0,
        momentum_start: float = 0.996,
        centre_momentum: float = 0.9,
        freeze_steps: int = 0,
        weight_decay_start: float = 0.04,
        weight_decay_end: float = 0.4,
    ) -> None:
        super().__init__()
        self.student = trunk
        self.student_head = DinoHead(
            width=trunk.width, hidden=hidden, bottleneck=bottleneck, out_dim=out_dim, seed=seed
        )
        self.trunk = copy.deepcopy(trunk).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.register_buffer("centre_K", torch.zeros(out_dim))
        self.views = (*global_views, *[local_view] * num_local)
        self.num_steps, self.seed, self.out_dim = num_steps, seed, out_dim
        self.student_temperature = student_temperature
        self.teacher_temperatures = (teacher_temperature_start, teacher_temperature, teacher_warmup_steps)
        self.momentum_start, self.centre_momentum = momentum_start, centre_momentum
        self.freeze_steps = freeze_steps
        self.weight_decays = (weight_decay_start, weight_decay_end)
        self._seen_K: Tensor | None = None  # sum of the teacher's answers since the last update
        self._num_seen = 0

    def loss(self, batch: Batch, step: int) -> LossAndMetrics:
        """Returns the loss of the paper's equation 3 and what tells a collapse.

        With gradients on, the teacher's answers are added up for the centre, so that the micro-batches of a step
        move it as one batch would.
        """
        views = [self._view(batch, index) for index in range(len(self.views))]
        large, is_training = torch.cat(views[:2]), torch.is_grad_enabled()
        with torch.no_grad():
            features = self.trunk(large)
            teacher = self.teacher_head(features).float()
            if is_training:
                self._see(teacher)
            target = F.softmax((teacher - self.centre_K) / self.teacher_temperature(step), dim=1)
        student_features = [self.student(large)]
        if len(views) > 2:
            student_features.append(self.student(torch.cat(views[2:])))
        student = self.student_head(torch.cat(student_features), self.student_temperature)
        loss = cross_view_loss(target.chunk(2), student.unflatten(0, (len(views), len(batch))))
        return loss, self._metrics(loss, features, target)

    def _see(self, teacher_BK: Tensor) -> None:
        sum_K = teacher_BK.sum(dim=0)
        self._seen_K = sum_K if self._seen_K is None else self._seen_K + sum_K
        self._num_seen += len(teacher_BK)

    def _view(self, batch: Batch, index: int) -> Tensor:
        view = self.views[index]
        return make_view(
            batch.images_BCHW,
            batch.sizes_B2,
            batch.ids_B,
            batch.epochs_B,
            view=view,
            seed=self.seed,
            index=index,
        )

    @torch.no_grad()
    def _metrics(self, loss: Tensor, features_BD: Tensor, target_BK: Tensor) -> dict[str, Tensor]:
        mean_K = target_BK.mean(dim=0)
        return {
            "loss": loss.detach(),
            "teacher_entropy": torch.special.entr(target_BK).sum(dim=1).mean(),
            # of the mean answer: 0 where all prototypes are used alike, ln K where one takes all
            "kl_to_uniform": math.log(self.out_dim) - torch.special.entr(mean_K).sum(),
            "centre_norm": self.centre_K.norm(),
            "feature_std": F.normalize(features_BD.float(), dim=1).std(dim=0).mean() * features_BD.shape[1] ** 0.5,
        }

    def before_update(self, step: int) -> None:
        """Keeps the prototypes frozen during the first steps."""
        if step < self.freeze_steps:
            self.student_head.prototypes.grad = None

    @torch.no_grad()
    def after_update(self, step: int, is_good: Tensor) -> None:
        """Moves centre and teacher, unless the step was skipped."""
        assert self._seen_K is not None, "after_update follows loss"
        mean_K, self._seen_K = self._seen_K / self._num_seen, None
        self._num_seen = 0
        if dist.is_initialized():
            dist.all_reduce(mean_K)
            mean_K /= dist.get_world_size()
        # at first the plain mean of what was seen, so that the student doesn't learn the common answer
        # meanwhile
        moved_K = self.centre_K.lerp(mean_K, max(1 - self.centre_momentum, 1 / (step + 1)))
        self.centre_K.copy_(torch.where(is_good > 0, moved_K, self.centre_K))
        move_average(
            [*self.trunk.parameters(), *self.teacher_head.parameters()],
            [*self.student.parameters(), *self.student_head.parameters()],
            (1 - self.momentum(step)) * is_good,
        )

    def teacher_temperature(self, step: int) -> float:
        """Returns tau_t of a step."""
        start, end, warmup_steps = self.teacher_temperatures
        return end if step >= warmup_steps else start + (end - start) * step / warmup_steps

    def momentum(self, step: int) -> float:
        """Returns m of a step: a cosine from momentum_start to 1."""
        return cosine(self.momentum_start, 1.0, step, self.num_steps)

    def weight_decay(self, step: int) -> float:
        """Returns the weight decay of a step: a cosine between its ends."""
        return cosine(*self.weight_decays, step, self.num_steps)


@torch.no_grad()
def move_average(averages: list[Tensor], values: list[Tensor], share: Tensor) -> None:
    """Moves each average towards its value, in place: average + share * (value - average).

    Args:
        averages, values: of equal shapes.
        share: scalar on their device, not read on the host; 0 changes nothing as long as the values are finite.
    """
    differences = torch._foreach_sub(values, averages)
    torch._foreach_mul_(differences, share)
    torch._foreach_add_(averages, differences)


def cosine(start: float, end: float, step: int, num_steps: int) -> float:
    """Returns the value at a step of a half cosine from start (step 0) to end (step num_steps)."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step, num_steps) / max(1, num_steps)))
