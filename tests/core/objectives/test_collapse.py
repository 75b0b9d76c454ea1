"""The collapse watch: on DINO's own metrics, where the collapse is made on purpose, and on one that is healthy."""

import math

import pytest
import torch
import torch.nn.functional as F

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk
from components.core.objectives.collapse import collapse
from components.core.objectives.dino import DinoObjective

OUT_DIM = 256
HEALTHY = {"loss": 4.0, "teacher_entropy": 3.0, "kl_to_uniform": 0.5, "centre_norm": 0.4, "feature_std": 0.8}


def _objective(**knobs: float) -> DinoObjective:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=32, depth=2, num_heads=2, seed=0)
    large = View(size_px=16, scale_low=0.4, scale_high=1.0)
    return DinoObjective(
        trunk,
        num_steps=100,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=2,
        out_dim=OUT_DIM,
        hidden=32,
        bottleneck=16,
        **knobs,  # type: ignore[arg-type]
    )


def _batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (16, 3, 20, 20), dtype=torch.uint8, generator=generator)
    ids = torch.arange(16) + 16 * step
    return Batch(images, torch.full((16, 2), 20), ids, torch.zeros(16, dtype=torch.int64), [""] * 16)


def _metrics(objective: DinoObjective, step: int = 0) -> dict[str, float]:
    return {name: float(value) for name, value in objective.loss(_batch(step), step)[1].items()}


def _make_constant(objective: DinoObjective) -> None:
    """Lets both trunks say the same of every picture."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for trunk in (objective.student, objective.trunk):
            trunk.vit.norm.weight.zero_()
            trunk.vit.norm.bias.copy_(torch.randn(32, generator=generator))


def test_an_objective_at_its_start_has_not_collapsed() -> None:
    assert collapse(_metrics(_objective()), OUT_DIM) == ""


def test_an_answer_that_the_centre_takes_away_is_uniform() -> None:
    objective = _objective()
    _make_constant(objective)
    objective.loss(_batch(), 0)
    objective.after_update(0, torch.ones(()))
    objective.student_head.prototypes.data.mul_(0).add_(1.0)  # the student has given up
    metrics = _metrics(objective, 1)
    assert metrics["loss"] == pytest.approx(math.log(OUT_DIM), rel=1e-3)
    assert collapse(metrics, OUT_DIM).startswith("DINO has collapsed to a uniform answer: loss 5.55")


def test_an_answer_without_centre_is_one_prototype() -> None:
    objective = _objective(teacher_temperature_start=0.001, teacher_temperature=0.001)
    _make_constant(objective)
    assert collapse(_metrics(objective), OUT_DIM).startswith("DINO has collapsed to one prototype")


def test_training_without_centre_and_with_a_sharp_teacher_collapses_to_one_prototype() -> None:
    objective = _objective(teacher_temperature_start=0.01, teacher_temperature=0.01, momentum_start=0.5)
    trained = [*objective.student.parameters(), *objective.student_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    found = []
    for step in range(40):
        loss, metrics = objective.loss(_batch(step), step)
        found.append(collapse({name: float(value) for name, value in metrics.items()}, OUT_DIM))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_update(step, torch.ones(()))
        objective.centre_K.zero_()
    assert found[0] == "" and all("one prototype" in sentence for sentence in found[-5:])


def test_one_feature_for_all_pictures_is_told() -> None:
    assert collapse(HEALTHY, OUT_DIM) == ""
    assert "one feature for all pictures" in collapse(HEALTHY | {"feature_std": 0.001}, OUT_DIM)


def test_prototypes_in_one_direction_are_told() -> None:
    prototypes = F.normalize(torch.ones(OUT_DIM, 8), dim=1)
    centre_norm = float((prototypes @ prototypes[0]).norm())
    assert "one direction" in collapse(HEALTHY | {"centre_norm": centre_norm}, OUT_DIM)


@pytest.mark.parametrize("name", list(HEALTHY))
def test_numbers_that_are_not_finite_are_told(name: str) -> None:
    assert "not finite" in collapse(HEALTHY | {name: math.nan}, OUT_DIM)


def test_confident_answers_that_differ_are_no_collapse() -> None:
    """A batch of 8 with 8 different certain answers of 256: entropy 0, and a mean answer of ln 8."""
    confident = {"teacher_entropy": 0.0, "kl_to_uniform": math.log(256) - math.log(8)}
    assert collapse(HEALTHY | confident, OUT_DIM) == ""


def test_the_loss_of_two_arms_in_one_does_not_hide_dinos() -> None:
    uniform = {"teacher_entropy": math.log(OUT_DIM), "dino_loss": math.log(OUT_DIM), "loss": 1.0}
    assert "uniform" in collapse(HEALTHY | uniform, OUT_DIM)
