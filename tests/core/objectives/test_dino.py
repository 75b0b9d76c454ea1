"""DINO against the paper pair by pair, and against main_dino.py step by step."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk, weights_sha256
from components.core.objectives.dino import DinoObjective, move_average


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


def _batch(index: int = 0) -> Batch:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
    return Batch(images, torch.full((4, 2), 20), torch.arange(4), torch.zeros(4, dtype=torch.int64), [""] * 4)


def test_the_objective_equals_main_dino_step_by_step() -> None:
    """Loss (within 1e-5 relative), centre and teacher (1e-5) of facebookresearch/dino over three steps.

    Its DINOLoss and its loop, written out: targets are the sharpened and centred softmax of the two global crops; all
    pairs of a target and another crop are averaged; then the centre moves by a tenth of the way to the batch's mean,
    and the teacher to (1 - m) of the student's weights. The steps begin at 9, up to which our centre is a plain mean.
    """
    objective, batch = _objective(teacher_temperature_start=0.05, teacher_temperature=0.05), _batch()
    objective.num_steps = 20
    objective.centre_K.copy_(torch.linspace(-0.1, 0.1, 32))
    teacher = copy.deepcopy([objective.trunk, objective.teacher_head])
    centre = objective.centre_K.clone()[None]
    for step in range(9, 12):
        views = [objective._view(batch, index) for index in range(5)]
        teacher_output = teacher[1](teacher[0](torch.cat(views[:2]))).detach()
        student_output = torch.cat([objective.student_head(objective.student(view)) for view in views])
        student_out = (student_output / 0.1).chunk(5)
        teacher_out = F.softmax((teacher_output - centre) / 0.05, dim=-1).chunk(2)
        total_loss, n_loss_terms = torch.zeros(()), 0
        for iq, q in enumerate(teacher_out):
            for v in range(len(student_out)):
                if v == iq:
                    continue
                total_loss += torch.sum(-q * F.log_softmax(student_out[v], dim=-1), dim=-1).mean()
                n_loss_terms += 1
        centre = centre * 0.9 + teacher_output.sum(dim=0, keepdim=True) / len(teacher_output) * (1 - 0.9)
        loss, _ = objective.loss(batch, step)
        torch.testing.assert_close(loss, total_loss / n_loss_terms, rtol=1e-5, atol=0)
        objective.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in [*objective.student.parameters(), *objective.student_head.parameters()]:
                parameter -= 0.5 * parameter.grad
        momentum = 1 - (1 - 0.996) * (math.cos(math.pi * step / 20) + 1) / 2
        for old, new in zip(teacher, (objective.student, objective.student_head), strict=True):
            for param_k, param_q in zip(old.parameters(), new.parameters(), strict=True):
                param_k.data.mul_(momentum).add_((1 - momentum) * param_q.detach().data)
        objective.after_update(step, torch.ones(()))
        torch.testing.assert_close(objective.centre_K, centre[0], rtol=1e-5, atol=1e-7)
        for old, ours in zip(teacher, (objective.trunk, objective.teacher_head), strict=True):
            torch.testing.assert_close(ours.state_dict(), old.state_dict(), rtol=1e-5, atol=1e-7)


def test_micro_batches_give_the_loss_gradient_and_centre_of_the_batch() -> None:
    whole, parts = _objective(), _objective()
    loss, _ = whole.loss(_batch(), 3)
    loss.backward()
    batch, total = _batch(), torch.zeros(())
    for rows in (slice(0, 2), slice(2, 4)):
        half = Batch(
            batch.images_BCHW[rows], batch.sizes_B2[rows], batch.ids_B[rows], batch.epochs_B[rows], batch.captions[rows]
        )
        part, _ = parts(half, 3)
        (part / 2).backward()
        total += part.detach() / 2
    torch.testing.assert_close(total, loss.detach())
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    for objective in (whole, parts):
        objective.after_update(3, torch.ones(()))
    torch.testing.assert_close(whole.centre_K, parts.centre_K)


def test_a_pass_without_gradient_leaves_the_centre_alone() -> None:
    objective, other = _objective(), _objective()
    with torch.no_grad():
        objective.loss(_batch(index=1), 0)
    for each in (objective, other):
        each.loss(_batch(), 0)
        each.after_update(0, torch.ones(()))
    assert torch.equal(objective.centre_K, other.centre_K)


def test_a_skipped_step_leaves_no_trace() -> None:
    objective = _objective(momentum_start=0.5)
    batch = _batch()
    objective.loss(batch, 0)
    objective.after_update(0, torch.ones(()))
    with torch.no_grad():
        objective.student.vit.norm.weight.add_(1.0)
    before = copy.deepcopy(objective.state_dict())
    objective.loss(batch, 1)
    objective._seen_K[0] = math.nan
    objective.after_update(1, torch.zeros(()))
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())
    objective.loss(_batch(index=1), 2)
    objective.after_update(2, torch.ones(()))
    assert torch.isfinite(objective.centre_K).all() and not torch.equal(objective.centre_K, before["centre_K"])


def test_the_average_moves_by_its_share() -> None:
    averages, values = [torch.zeros(2), torch.ones(3)], [torch.full((2,), 4.0), torch.full((3,), -1.0)]
    move_average(averages, values, torch.tensor(0.25))
    assert averages[0].tolist() == [1, 1] and averages[1].tolist() == [0.5, 0.5, 0.5]


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
    objective.after_update(5, torch.ones(()))
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


def test_uniform_answers_have_no_divergence_and_one_prototype_the_greatest() -> None:
    objective = _objective()
    uniform = objective._metrics(torch.zeros(()), torch.randn(4, 16), torch.full((4, 32), 1 / 32))
    assert float(uniform["kl_to_uniform"]) == pytest.approx(0.0, abs=1e-6)
    assert float(uniform["teacher_entropy"]) == pytest.approx(math.log(32.0))
    one = F.one_hot(torch.zeros(4, dtype=torch.int64), 32).float()
    metrics = objective._metrics(torch.zeros(()), torch.randn(4, 16), one)
    assert float(metrics["kl_to_uniform"]) == pytest.approx(math.log(32.0))
    assert float(metrics["teacher_entropy"]) == pytest.approx(0.0)
