"""DINO against a re-derivation, pair by pair as the paper writes it."""

import math

import pytest
import torch
import torch.nn.functional as F

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk, weights_sha256
from components.core.objectives.dino import DinoObjective, cross_view_loss


def _objective(**knobs: float) -> DinoObjective:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    large = View(size_px=16, scale_low=0.4, scale_high=1.0, flip=0.5)
    return DinoObjective(
        trunk,
        num_steps=10,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=3,
        out_dim=32,
        hidden=24,
        bottleneck=12,
        **knobs,  # type: ignore[arg-type]
    )


def _batch() -> Batch:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.full((4, 2), 20), torch.arange(4), torch.zeros(4, dtype=torch.int64), [""] * 4)


def test_the_loss_equals_the_sum_over_pairs_of_views() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = [F.softmax(torch.randn(6, 10, generator=generator), dim=1) for _ in range(2)]
    students = [F.log_softmax(torch.randn(6, 10, generator=generator), dim=1) for _ in range(5)]
    terms = [
        -(target * student).sum(dim=1).mean()
        for v, target in enumerate(targets)
        for w, student in enumerate(students)
        if v != w
    ]
    assert len(terms) == 8
    torch.testing.assert_close(cross_view_loss(tuple(targets), tuple(students)), torch.stack(terms).mean())


def test_the_objective_equals_the_paper_step_by_step() -> None:
    objective = _objective(teacher_temperature_start=0.05, teacher_temperature=0.05)
    objective.centre_K.copy_(torch.linspace(-0.1, 0.1, 32))
    batch = _batch()
    views = [objective._view(batch, index) for index in range(5)]
    teacher = [objective.teacher_head(objective.trunk(view)) for view in views[:2]]
    student = [objective.student_head(objective.student(view)) for view in views]
    terms = []
    for v in range(2):
        target = F.softmax((teacher[v] - objective.centre_K) / 0.05, dim=1)
        terms += [-(target * F.log_softmax(student[w] / 0.1, dim=1)).sum(1).mean() for w in range(5) if w != v]
    torch.testing.assert_close(objective.loss(batch, 0)[0], torch.stack(terms).mean())


def test_centre_and_teacher_move_after_the_update_only() -> None:
    objective = _objective(momentum_start=0.8, centre_momentum=0.9)
    before = objective.state_dict()["trunk.vit.norm.weight"].clone()
    objective.loss(_batch(), 5)[0].backward()
    assert objective.centre_K.abs().sum() == 0
    with torch.no_grad():
        objective.student.vit.norm.weight.add_(1.0)
        batch_centre = objective.teacher_head(
            torch.cat([objective.trunk(objective._view(_batch(), index)) for index in range(2)])
        ).mean(dim=0)
    objective.after_update(5)
    torch.testing.assert_close(objective.centre_K, batch_centre / 6)  # the mean of 6 steps until that is under 1 - m_c
    momentum = 1 + 0.5 * (0.8 - 1) * (1 + math.cos(math.pi * 5 / 10))
    assert objective.momentum(5) == pytest.approx(momentum)
    torch.testing.assert_close(objective.trunk.vit.norm.weight.detach(), before + (1 - momentum))


def test_the_teacher_starts_as_the_student_and_gets_no_gradient() -> None:
    objective = _objective()
    assert weights_sha256(objective.trunk) == weights_sha256(objective.student)
    objective.loss(_batch(), 0)[0].backward()
    assert all(parameter.grad is None for parameter in objective.trunk.parameters())
    assert all(parameter.grad is not None for parameter in objective.student.parameters())


def test_the_prototypes_are_frozen_for_the_first_steps() -> None:
    objective = _objective(freeze_steps=2)
    for step, is_frozen in ((0, True), (1, True), (2, False)):
        objective.loss(_batch(), step)[0].backward()
        objective.before_update(step)
        assert (objective.student_head.prototypes.grad is None) is is_frozen


def test_schedules_hit_their_ends_and_a_warmup_longer_than_the_run_is_cut() -> None:
    objective = _objective(teacher_warmup_steps=40, teacher_temperature_start=0.04, teacher_temperature=0.08)
    assert objective.teacher_temperature(0) == pytest.approx(0.04)
    assert objective.teacher_temperature(10) == pytest.approx(0.05)
    assert objective.momentum(10) == pytest.approx(1.0)
    assert objective.weight_decay(0) == pytest.approx(0.04) and objective.weight_decay(10) == pytest.approx(0.4)


def test_a_uniform_answer_has_the_loss_ln_k_and_one_prototype_the_greatest_divergence() -> None:
    objective = _objective()
    uniform = torch.full((4, 32), 1 / 32)
    torch.testing.assert_close(cross_view_loss((uniform, uniform), (uniform.log(),) * 5), torch.tensor(math.log(32.0)))
    one = F.one_hot(torch.zeros(4, dtype=torch.int64), 32).float()
    metrics = objective._metrics(torch.zeros(()), torch.randn(4, 16), one)
    assert float(metrics["kl_to_uniform"]) == pytest.approx(math.log(32.0))
    assert float(metrics["teacher_entropy"]) == pytest.approx(0.0)
