# B batch, C channels, S side of a crop, D width of the trunk, K prototypes, V views (2 global, then the local
# ones).
"""DINO: the student predicts, from any crop, what its own moving average sees in the large crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294; version 1, as in
facebookresearch/dino main_dino.py.

    P_t(x)  = softmax((g_t(x) - c) / tau_t)                      teacher: sharpened by tau_t, centred by c
    P_s(x)  = softmax(g_s(x) / tau_s)                            student
    L       = mean over (v, w), v global, w any view but v, of  -sum_k P_t(x_v)_k log P_s(x_w)_k
    c      <- m_c c + (1 - m_c) mean of g_t over batch and global views
    theta_t <- m theta_t + (1 - m) theta_s                        m rises to 1 along a cosine

It collapses in two ways: to one prototype (teacher entropy 0), which the centre prevents, or to a uniform
answer (loss at ln K), which the temperature prevents. Both are logged.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from components.core.data.augment import View, make_view
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk
from components.core.objectives.objective import Objective


class DinoHead(nn.Module):
    """Three-layer MLP with GELU, l2 norm, then cosines with K prototypes.

    The prototypes are the original's weight-normed last layer with its norm fixed at 1.

    Args:
        width: input width.
        hidden: width of the two hidden layers.
        bottleneck: width before the prototypes.
        out_dim: number of prototypes K.
        seed: seed of the init.
    """

    def __init__(self, *, width: int, hidden: int, bottleneck: int, out_dim: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Linear(hidden, bottleneck),
            )
            for layer in self.mlp:
                if isinstance(layer, nn.Linear):
                    # main_dino.py's 0.02, at its hidden width; a narrow head would be born shrunken and learn
                    # in jumps
                    nn.init.trunc_normal_(layer.weight, std=0.02 * math.sqrt(2_048 / hidden))
                    nn.init.zeros_(layer.bias)
            self.prototypes = nn.Parameter(torch.empty(out_dim, bottleneck))
            nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Returns cosines (B, K)."""
        return F.linear(F.normalize(self.mlp(features_BD), dim=1), F.normalize(self.prototypes, dim=1))


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
        self._batch_centre_K: Tensor | None = None

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of the paper's equation 3 and what tells a collapse."""
        views = [self._view(batch, index) for index in range(len(self.views))]
        with torch.no_grad():
            features = self.trunk(torch.cat(views[:2]))
            teacher = self.teacher_head(features).float()
            self._batch_centre_K = teacher.mean(dim=0)
            target = F.softmax((teacher - self.centre_K) / self.teacher_temperature(step), dim=1)
        student_features = [self.student(torch.cat(views[:2]))]
        if len(views) > 2:
            student_features.append(self.student(torch.cat(views[2:])))
        student = self.student_head(torch.cat(student_features)).float()
        log_student = F.log_softmax(student / self.student_temperature, dim=1)
        loss = cross_view_loss(target.chunk(2), log_student.chunk(len(views)))
        return loss, self._metrics(loss, features, target)

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
    def after_update(self, step: int) -> None:
        """Moves centre and teacher."""
        assert self._batch_centre_K is not None, "after_update follows loss"
        batch_centre_K = self._batch_centre_K
        if dist.is_initialized():
            dist.all_reduce(batch_centre_K)
            batch_centre_K /= dist.get_world_size()
        # at first the plain mean of what was seen, so that the student doesn't learn the common answer
        # meanwhile
        self.centre_K.lerp_(batch_centre_K, max(1 - self.centre_momentum, 1 / (step + 1)))
        for teacher, student in ((self.trunk, self.student), (self.teacher_head, self.student_head)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - self.momentum(step))

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


def cross_view_loss(targets: tuple[Tensor, ...], log_students: tuple[Tensor, ...]) -> Tensor:
    """Returns the mean cross-entropy over all pairs of a global view (teacher) and another view (student).

    For a teacher view v the sum over students w != v of their log-probabilities is the sum over all less that
    of v, so two dot products replace 2 (V - 1).
    """
    total_BK = torch.stack(log_students).sum(dim=0)
    num_pairs = len(targets) * (len(log_students) - 1)
    loss = total_BK.new_zeros(())
    for target_BK, own_BK in zip(targets, log_students[: len(targets)], strict=True):
        loss = loss - (target_BK * (total_BK - own_BK)).sum(dim=1).mean()
    return loss / num_pairs


def cosine(start: float, end: float, step: int, num_steps: int) -> float:
    """Returns the value at a step of a half cosine from start (step 0) to end (step num_steps)."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step, num_steps) / max(1, num_steps)))
