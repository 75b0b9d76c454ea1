"""The loop: resuming is bit-identical, damage is survived, divergence is not saved."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.models.trunk import Trunk, weights_sha256
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Objective
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Diverged, Interrupted, LoopConfig, train
from components.core.training.optimizer import learning_rate_at, schedule_sha256


class DiskFolder:
    """A folder on disk with the four methods that checkpoints need."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.name.startswith(prefix))

    def delete(self, name: str) -> None:
        (self.path / name).unlink()


def _objective() -> DinoObjective:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    large = View(size_px=16, scale_low=0.4, scale_high=1.0, flip=0.5, jitter=0.8, brightness=0.4, hue=0.1)
    local = View(size_px=8, scale_low=0.1, scale_high=0.4)
    return DinoObjective(
        trunk,
        num_steps=8,
        seed=0,
        global_views=(large, large),
        local_view=local,
        num_local=2,
        out_dim=32,
        hidden=16,
        bottleneck=8,
        momentum_start=0.9,
        freeze_steps=3,
    )


def _batches(first_step: int) -> Iterator[Batch]:
    for step in range(first_step, 100):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=generator)
        ids = torch.arange(4) + 4 * step
        yield Batch(images, torch.full((4, 2), 20), ids, torch.zeros(4, dtype=torch.int64), [""] * 4)


def _config(**changes: int) -> LoopConfig:
    numbers = {"num_steps": 8, "warmup_steps": 2, "checkpoint_every_steps": 2, "log_every_steps": 1} | changes
    return LoopConfig(
        learning_rate=1e-2,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-6,
        clip_norm=1.0,
        max_nonfinite_steps=3,
        **numbers,
    )


def _train(objective: Objective, folder: Path, stop_at: int = 0, **changes: int) -> dict[int, dict[str, float]]:
    reports: dict[int, dict[str, float]] = {}
    train(
        objective,
        _batches,
        _config(**changes),
        checkpoints=Checkpoints(DiskFolder(folder)),
        report=lambda step, values: reports.update({step: values}),
        should_stop=lambda: len(reports) == stop_at > 0,
    )
    return reports


def test_resuming_after_an_interruption_is_bit_identical(tmp_path: Path) -> None:
    straight = _objective()
    expected = _train(straight, tmp_path / "straight")
    with pytest.raises(Interrupted, match="after step 5 of 8"):
        _train(_objective(), tmp_path / "broken", stop_at=5)
    resumed = _objective()
    reports = _train(resumed, tmp_path / "broken")
    assert reports == {step: expected[step] for step in (6, 7, 8)}
    assert weights_sha256(resumed) == weights_sha256(straight)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    straight = _objective()
    _train(straight, tmp_path)
    newest = tmp_path / "step-000000008.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    found = Checkpoints(DiskFolder(tmp_path)).latest()
    assert found is not None and found.step == 6
    resumed = _objective()
    assert sorted(_train(resumed, tmp_path)) == [7, 8]
    assert weights_sha256(resumed) == weights_sha256(straight)


def test_tensors_without_their_json_are_invisible_and_swept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(DiskFolder(tmp_path), keep=2)
    (tmp_path / "step-000000009.safetensors").write_bytes(b"half")
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"weight": torch.full((2,), float(step))}, {})
    checkpoints.flush()
    assert checkpoints.steps() == [2, 3]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_checkpoint_is_a_snapshot_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(DiskFolder(tmp_path)), torch.zeros(1000)
    checkpoints.save(1, {"weight": weight}, {"note": "zeros"})
    weight.fill_(1.0)
    found = checkpoints.latest()
    assert found is not None and found.facts == {"note": "zeros"}
    assert found.tensors["weight"].sum() == 0


def test_a_run_that_is_done_does_nothing(tmp_path: Path) -> None:
    _train(_objective(), tmp_path)
    assert _train(_objective(), tmp_path) == {}


def test_another_length_of_the_run_is_refused(tmp_path: Path) -> None:
    _train(_objective(), tmp_path)
    with pytest.raises(ValueError, match="num_steps=9 differs from the 8"):
        _train(_objective(), tmp_path, num_steps=9)


class _Breaking(Objective):
    """A loss that is not finite at the steps given."""

    def __init__(self, broken_steps: set[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.broken_steps = broken_steps

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self.weight.square().sum() * (float("nan") if step in self.broken_steps else 1.0)
        return loss, {"loss": loss.detach()}


def test_a_nonfinite_step_is_skipped_and_counted(tmp_path: Path) -> None:
    objective = _Breaking({2, 3})
    reports = _train(objective, tmp_path, checkpoint_every_steps=1)
    assert sorted(reports) == list(range(1, 9))
    assert torch.isfinite(objective.weight).all()


def test_too_many_nonfinite_steps_in_a_row_end_the_run_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"3 steps in a row.*checkpoint is at step 4.*samples"):
        _train(_Breaking({4, 5, 6, 7}), tmp_path, checkpoint_every_steps=4)
    found = Checkpoints(DiskFolder(tmp_path)).latest()
    assert found is not None and found.step == 4
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate_at(step, peak=1.0, warmup_steps=4, num_steps=20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[12] == pytest.approx(0.5) and rates[20] == pytest.approx(0.0)
    assert schedule_sha256(peak=1.0, warmup_steps=4, num_steps=20) != schedule_sha256(
        peak=1.0, warmup_steps=5, num_steps=20
    )
